"""The shell's side: foreign processes that speak with a kernel, and what they show to people."""
