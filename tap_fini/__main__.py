"""Run the tap as ``python -m tap_fini``."""

from __future__ import annotations

from tap_fini.tap import TapFini

TapFini.cli()
