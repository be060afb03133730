"""Drivers: the code behind devices. `Driver` and `op` are how one is written; the others come with tokix."""

from tokix.drivers.base import Driver, op
from tokix.drivers.calc import Calc
from tokix.drivers.clock import Clock
from tokix.drivers.files import Files
from tokix.drivers.sqlite import Sqlite
from tokix.drivers.tty import Person, Tty

__all__ = ["Calc", "Clock", "Driver", "Files", "Person", "Sqlite", "Tty", "op"]
