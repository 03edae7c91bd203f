"""Run the tap as ``tap-fini`` or ``python -m tap_fini``."""

from __future__ import annotations

import gc


def main() -> None:
    """Import the tap and leave the command line to it."""
    # All that imports make stays. To look for garbage among it takes a tenth of the start-up.
    gc.disable()
    from tap_fini.tap import TapFini  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    TapFini.cli()


if __name__ == "__main__":
    main()
