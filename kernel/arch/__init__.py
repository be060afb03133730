"""Machines: what a model runs on. `tokix.kernel.arch.toy` is the reference, without weights."""
