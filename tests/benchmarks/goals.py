"""The goals, as data: a figure of a scenario, and the limit it has to keep."""

# ruff: noqa: RUF001 - the sign of a ratio looks like a letter

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict = Literal["met", "NOT MET", "not measured"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table.

    Attributes:
        issue: where the goal is set.
        says: the goal in words.
        scenario: whose figure it is.
        figure: its name there.
        limit: what the figure has to keep.
        unit: of the figure.
        at_least: the limit is a lower one.
        needs: the mechanism that it rests on.
    """

    issue: str
    says: str
    scenario: str
    figure: str
    limit: float
    unit: str = "×"
    at_least: bool = False
    needs: str = ""

    def measured(self, figures: Mapping[str, Mapping[str, float]]) -> float | None:
        """Return the goal's figure, if it was measured."""
        return figures.get(self.scenario, {}).get(self.figure)

    def verdict(self, figures: Mapping[str, Mapping[str, float]]) -> Verdict:
        """Tell whether the goal is met."""
        found = self.measured(figures)
        if found is None:
            return "not measured"
        kept = found >= self.limit if self.at_least else found <= self.limit
        return "met" if kept else "NOT MET"


GOALS = (
    Goal("2", "SCHEMAs a stream", "records", "20000.schemas", 1, "", needs="rows in bulk"),
    Goal("2", "STATEs besides one a window", "records", "20000.states", 2, "", needs="checkpoints"),
    Goal(
        "2",
        "log lines besides 5 a window",
        "records",
        "20000.log lines",
        60,
        "",
        needs="rows in bulk",
    ),
    Goal(
        "2",
        "wall time of the plain SDK tap's",
        "records",
        "20000.plain.wall",
        0.25,
        needs="rows in bulk",
    ),
    Goal("2", "peak memory, 20,000", "records", "20000.peak", 150, "MB", needs="windows in flight"),
    Goal(
        "4.2",
        "requests a page, without empty windows, even",
        "records",
        "20000.requests",
        1.05,
        needs="adaptive windows",
    ),
    Goal(
        "2", "SCHEMAs a stream, newer export", "newer", "20000.schemas", 1, "", needs="one engine"
    ),
    Goal("2", "peak memory, newer export", "newer", "20000.peak", 150, "MB", needs="one engine"),
    Goal(
        "4.2",
        "requests a page, newer export",
        "newer",
        "20000.requests",
        1.05,
        needs="heads that know the latest event",
    ),
    Goal(
        "4.2",
        "requests a page, without empty windows, gaps",
        "requests",
        "gaps.requests",
        1.05,
        needs="adaptive windows",
    ),
    Goal(
        "4.2",
        "empty windows besides the widest in 3 gaps",
        "requests",
        "gaps.empty windows",
        3,
        "",
        needs="adaptive windows",
    ),
    Goal(
        "4.2",
        "nothing new: requests a page of the lookback",
        "requests",
        "again.requests",
        1.05,
        needs="lookback",
    ),
    Goal(
        "4.2",
        "a workspace of one page: requests",
        "requests",
        "one page.requests",
        1,
        "",
        needs="widest windows",
    ),
    Goal(
        "4.2",
        "throttled: time of the ideal",
        "throttle",
        "ideal",
        1.05,
        needs="limiter with a burst",
    ),
    Goal(
        "4.2",
        "throttled: requests refused",
        "throttle",
        "violations",
        0,
        "",
        needs="shared limiter",
    ),
    Goal(
        "4.2",
        "throttled harder: time of the ideal",
        "throttle",
        "stricter.ideal",
        1.15,
        needs="shared hold",
    ),
    Goal(
        "4.2",
        "throttled harder: refused a worker and period",
        "throttle",
        "stricter.refused",
        1,
        needs="shared hold",
    ),
    Goal(
        "4.3",
        "200 ms, even: 4 workers as fast as 1",
        "latency",
        "even.4",
        3.5,
        at_least=True,
        needs="workers",
    ),
    Goal(
        "4.3",
        "200 ms, even: 8 workers as fast as 1",
        "latency",
        "even.8",
        6.5,
        at_least=True,
        needs="workers",
    ),
    Goal(
        "4.3",
        "200 ms, dense: 4 workers as fast as 1",
        "latency",
        "dense.4",
        3.5,
        at_least=True,
        needs="adaptive windows",
    ),
    Goal(
        "4.3",
        "200 ms, dense: 8 workers as fast as 1",
        "latency",
        "dense.8",
        6.5,
        at_least=True,
        needs="adaptive windows",
    ),
    Goal(
        "4.4",
        "work of the floor's, 100,000",
        "records",
        "100000.floor.work",
        2.5,
        needs="record path",
    ),
    Goal(
        "4.4",
        "work of the plain SDK tap's, 100,000",
        "records",
        "100000.plain.work",
        1 / 6,
        needs="rows in bulk",
    ),
    Goal(
        "4.4",
        "work of dlt's (files), 100,000",
        "records",
        "100000.dlt.work",
        0.5,
        needs="record path",
    ),
    Goal(
        "4.4",
        "calls a conversation of 3.8 records",
        "calls",
        "conversation",
        160,
        "",
        needs="typed rows",
    ),
    Goal("4.4", "writes for 1,000 records", "calls", "writes", 20, "", needs="buffered writer"),
    Goal(
        "4.4",
        "stream map: child syncs a page",
        "calls",
        "mapped.syncs",
        1.1,
        "",
        needs="child batching",
    ),
    Goal(
        "4.4",
        "stream map: SCHEMAs a stream",
        "calls",
        "mapped.schemas",
        1,
        "",
        needs="SCHEMA dropping",
    ),
    Goal(
        "4.4",
        "time into target-duckdb of a file's",
        "duckdb",
        "target",
        1.25,
        needs="record path",
    ),
    Goal(
        "4.5",
        "peak memory, 1,000,000",
        "memory",
        "1000000.peak",
        250,
        "MB",
        needs="windows in flight",
    ),
    Goal(
        "4.5",
        "peak memory of 1,000,000, of 100,000's",
        "memory",
        "growth",
        1.2,
        needs="windows in flight",
    ),
    Goal(
        "4.5",
        "peak memory, 10,000 bot requests in one",
        "memory",
        "huge",
        250,
        "MB",
        needs="bytes counted",
    ),
    Goal(
        "4.5",
        "peak memory, 100,000 in one window",
        "memory",
        "burst",
        250,
        "MB",
        needs="bytes counted",
    ),
    Goal(
        "4.6",
        "--version, of import singer_sdk",
        "startup",
        "version",
        1.15,
        needs="imports without the garbage collector",
    ),
    Goal(
        "4.6",
        "--about, of import singer_sdk",
        "startup",
        "about",
        1.15,
        needs="imports without the garbage collector",
    ),
    Goal(
        "4.6",
        "--discover, of import singer_sdk",
        "startup",
        "discover",
        1.15,
        needs="imports without the garbage collector",
    ),
    Goal(
        "4.7",
        "CPU a conversation, 1,000,000 of 100,000",
        "memory",
        "cost growth",
        1.1,
        needs="windows in flight",
    ),
    Goal(
        "4.7",
        "the formula of README.md, 4 workers, even",
        "latency",
        "even.4.formula",
        1.15,
        needs="workers",
    ),
    Goal(
        "4.7",
        "the formula of README.md, 8 workers, dense",
        "latency",
        "dense.8.formula",
        1.15,
        needs="adaptive windows",
    ),
)
