"""What the calls do: a module for each family of `tokix.syscalls`; `tokix.kernel.trap` joins their tables."""
