"""What is wrong with the kernel itself: it stops, with a report. A caller's mistake is a `SyscallError` instead."""


class KernelBug(Exception):
    """An invariant does not hold."""
