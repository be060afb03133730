"""`python -m tokix` is the command `tokix`."""

from __future__ import annotations

import sys

from tokix.cli import main

sys.exit(main())
