"""The terminal's tables."""

# ruff: noqa: RUF001 - the sign of a ratio looks like a letter
from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.goals import GOALS, Goal
from tests.benchmarks.measure import median

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.benchmarks.bench import Bench

FIGURE_HEAD = ("scenario", "other figure", "measured")
GOAL_HEAD = ("issue", "goal", "limit", "measured", "")
RUN_HEAD = (
    *("", "wall s", "CPU s", "peak MB", "requests", "SCHEMA", "STATE", "log lines"),
    *("log MB", "runs"),
)


def number(value: float, unit: str = "") -> str:
    """Write a figure with the digits that mean something."""
    digits = 0 if abs(value) >= 100 or value == int(value) and unit != "×" else 2  # noqa: RUF021
    return f"{value:,.{digits}f}{' ' if unit and unit != '×' else ''}{unit}"


def goal_rows(
    figures: Mapping[str, Mapping[str, float]], goals: Iterable[Goal] = GOALS
) -> list[tuple[str, ...]]:
    """Return the table of goals."""
    rows: list[tuple[str, ...]] = []
    for goal in goals:
        found = goal.measured(figures)
        limit = f"{'≥' if goal.at_least else '≤'} {number(goal.limit, goal.unit)}"
        measured = "–" if found is None else number(found, goal.unit)
        rows.append((goal.issue, goal.says, limit, measured, goal.verdict(figures)))
    return rows


def other_rows(figures: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Return the figures that no goal is about."""
    judged = {(goal.scenario, goal.figure) for goal in GOALS}
    return [
        (scenario, name, f"{value:,.3g}")
        for scenario, found in figures.items()
        for name, value in found.items()
        if (scenario, name) not in judged
    ]


def run_rows(bench: Bench) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return a table for each comparison: medians, but the worst peak."""
    tables = []
    for comparison, runs in bench.runs.items():
        rows: list[tuple[str, ...]] = []
        for name in dict.fromkeys(run.contestant for run in runs):
            own = [run for run in runs if run.contestant == name]
            last = own[-1]
            rows.append(
                (
                    name,
                    f"{median(own, 'seconds'):.2f}",
                    f"{median(own, 'cpu'):.2f}",
                    f"{max(run.peak for run in own):.0f}",
                    f"{last.requests:,}",
                    f"{last.messages.schemas:,}",
                    f"{last.messages.states:,}",
                    f"{last.log_lines:,}",
                    f"{last.log_bytes / 1e6:.1f}",
                    f"{len(own)}",
                )
            )
        tables.append((comparison, rows))
    return tables


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Lay out a table; all columns but the first ``left`` ones are aligned right."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def text(bench: Bench, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return the whole report for the terminal."""
    parts = [
        f"{comparison}\n\n{aligned(RUN_HEAD, rows, left=1)}" for comparison, rows in run_rows(bench)
    ]
    if others := other_rows(figures):
        parts.append(aligned(FIGURE_HEAD, others, left=2))
    parts.append(aligned(GOAL_HEAD, goal_rows(figures), left=2))
    return "\n\n".join(parts)
