"""Drivers: the code behind devices. `Driver` and `op` are how one is written; `Calc` and `Files` are two."""

from tokix.drivers.base import Driver, op
from tokix.drivers.calc import Calc
from tokix.drivers.files import Files

__all__ = ["Calc", "Driver", "Files", "op"]
