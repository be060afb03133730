"""What is wrong with the kernel itself. A caller's mistake is a `SyscallError`; this stops the kernel, with a report."""


class KernelBug(Exception):
    """An invariant does not hold."""
