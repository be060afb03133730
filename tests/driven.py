"""A driver without a kernel."""

from __future__ import annotations

from typing import Any

import anyio

from tokix.kernel import ports


def call(driver: ports.Driver, name: str, **args: Any) -> Any:
    return anyio.run(driver.invoke, name, args, "1:0:1")
