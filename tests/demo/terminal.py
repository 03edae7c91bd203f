"""The first look as tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from tests.demo.first_look import Group, Landed

BAR_WIDTH = 24


def show(
    console: Console,
    landed: Landed,
    *,
    before: Landed | None = None,
    expected: tuple[int, int] | None = None,
) -> None:
    """Print what landed, beside what was there before and, where known, what should be there."""
    console.print(_counts(landed, before, expected))
    if not landed.conversations:
        console.print("\nNothing to look at yet.")
        return
    console.print(
        f"\nFrom {landed.first_day} to {landed.last_day}. Escalated to a person: {landed.rate:.1%}."
    )
    console.print()
    console.print(groups("Conversations a month", landed.months, "total"))
    console.print()
    console.print(groups("Escalation rate by source", landed.channels, "rate"))
    console.print()
    console.print(_thumbs(landed))
    if landed.knowledge:
        console.print()
        console.print(groups("Knowledge sources behind most answers", landed.knowledge, "total"))


def _counts(landed: Landed, before: Landed | None, expected: tuple[int, int] | None) -> Table:
    made = table("What landed")
    made.add_column("table")
    made.add_column("rows", justify="right")
    made.add_column("added", justify="right")
    if expected is not None:
        made.add_column("in the source", justify="right")
        made.add_column()
    old = before.counts if before else (0, 0)
    for place, name in enumerate(("conversations", "bot_requests")):
        row = [name, f"{landed.counts[place]:,}", f"{landed.counts[place] - old[place]:+,}"]
        if expected is not None:
            same = expected[place] == landed.counts[place]
            row += [f"{expected[place]:,}", "[green]equal[/]" if same else "[bold red]DIFFERENT[/]"]
        made.add_row(*row)
    return made


def groups(title: str, found: tuple[Group, ...], measure: str) -> Table:
    """Return a table of groups with bars of their "total" or their escalation "rate"."""
    made = table(title)
    made.add_column()
    made.add_column("escalated" if measure == "rate" else "all", justify="right")
    made.add_column(width=BAR_WIDTH)
    made.add_column("of" if measure == "rate" else "escalated", justify="right")
    most = max(_value(group, measure) for group in found) or 1
    for group in found:
        bar = Bar(most, 0, _value(group, measure), width=BAR_WIDTH, color="bright_blue")
        total, rate = f"{group.total:,}", f"{group.rate:.1%}"
        first, last = (rate, total) if measure == "rate" else (total, rate)
        # A name is the customer's own text, not markup.
        made.add_row(Text(group.name), first, bar, last)
    return made


def _thumbs(landed: Landed) -> Columns:
    without = landed.conversations - landed.rated
    text = f"{landed.thumbs_up:,} up, {landed.thumbs_down:,} down, {without:,} without"
    share = f" ({landed.thumbs_up / landed.rated:.0%} of the rated are up)" if landed.rated else ""
    return Columns([Text("Thumbs", style="bold"), Text(text + share)], padding=(0, 2))


def table(title: str) -> Table:
    """Return a table without lines."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _value(group: Group, measure: str) -> float:
    return group.rate if measure == "rate" else group.total
