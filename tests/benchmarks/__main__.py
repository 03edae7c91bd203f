"""``python -m tests.benchmarks``: measure, print the table of goals, write a page to look at."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.bench import Bench, say
from tests.benchmarks.goals import GOALS
from tests.benchmarks.page import html
from tests.benchmarks.report import text
from tests.benchmarks.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure.

    Returns:
        0 if no goal that was measured is missed.
    """
    options = _parser().parse_args(arguments)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        bench = Bench(Path(folder), options.sizes, options.repeat, extras=options.extras)
        for name in options.only or SCENARIOS:
            say(f"{name}: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}")
            figures[name] = SCENARIOS[name](bench)
    print(text(bench, figures))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}"
    options.html.parent.mkdir(parents=True, exist_ok=True)
    options.html.write_text(html(bench, figures, when=now, machine=machine), encoding="utf-8")
    print(f"\n{now}, {machine}; plots: {options.html}")
    return int(any(goal.verdict(figures) == "NOT MET" for goal in GOALS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure tap-fini against its goals; see tests/benchmarks/README.md.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[20_000, 100_000, 1_000_000],
        metavar="N",
        help="lengths of the histories (default: 20000 100000 1000000)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, help="measure only these (default: all)"
    )
    parser.add_argument(
        "--extras", action="store_true", help="dlt and Airbyte's CDK too, installed on the fly"
    )
    parser.add_argument("--repeat", type=int, default=3, help="rounds of each comparison")
    parser.add_argument("--html", type=Path, default=Path("output/benchmarks.html"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
