"""The kernel: a deterministic state machine. Start at `tokix.kernel.kernel`."""
