"""Programs that come with tokix. They import the system calls and nothing else of it."""
