"""The first look as one HTML page: inline styles and SVG, no script, nothing fetched."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.demo.first_look import Group, Landed

WIDTH = 540
ROW = 30
LABEL = 212
VALUE = 142
COLUMNS_HEIGHT = 220
NAME_LENGTH = 27

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --soft: #667085;
  --line: #e4e7ec; --main: #3b6fd4; --hot: #e2703a; --good: #2f9e6e; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b2029; --text: #e8ebf1;
  --soft: #98a2b3; --line: #303744; --main: #6c9bf5; --hot: #f08a55; --good: #4cc38a; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1.25rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: auto; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
p { margin: .25rem 0 0; color: var(--soft); }
.tiles, .cards { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); margin: 1.5rem 0 1rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.25rem; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span, .key { color: var(--soft); font-size: .85rem; }
.key { margin-bottom: .75rem; }
.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px;
  margin: 0 .35rem 0 .9rem; }
.key i:first-child { margin-left: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--text); font-size: 13.5px; font-variant-numeric: tabular-nums; }
svg .soft { fill: var(--soft); font-size: 12px; }
.main { fill: var(--main); background: var(--main); }
.hot { fill: var(--hot); background: var(--hot); }
.good { fill: var(--good); background: var(--good); }
.line { stroke: var(--line); }
code { font-size: .9em; }
"""


def render(landed: Landed, *, origin: str, database: str) -> str:
    """The whole page.

    Args:
        landed: what to show.
        origin: where the data is from, in words or as an address.
        database: the file that holds it.
    """
    thumbs_up = f"{landed.thumbs_up / landed.rated:.0%}" if landed.rated else "none"
    tiles = (
        (f"{landed.conversations:,}", "conversations"),
        (f"{landed.bot_requests:,}", "bot requests"),
        (f"{landed.rate:.1%}", "escalated to a person"),
        (thumbs_up, f"thumbs up, of {landed.rated:,} rated"),
    )
    cards = (
        (
            "Conversations a month",
            _key(("main", "not escalated"), ("hot", "escalated")) + _columns(landed.months),
        ),
        ("Escalation rate by source", _rates(landed.channels)),
        ("Thumbs by source", _key(("good", "up"), ("hot", "down")) + _thumbs(landed.channels)),
        ("Knowledge sources behind most answers", _totals(landed.knowledge)),
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>Fini chat history: a first look</title>",
            f"<style>{_STYLE}</style>",
            "<main>",
            "<h1>Fini chat history: a first look</h1>",
            f"<p>{_span(landed)}Read from {escape(origin)}",
            f"into <code>{escape(database)}</code>.</p>",
            '<div class="tiles">',
            *(
                f'<div class="card tile"><b>{value}</b><span>{label}</span></div>'
                for value, label in tiles
            ),
            "</div>",
            '<div class="cards">',
            *(f'<section class="card"><h2>{title}</h2>{plot}</section>' for title, plot in cards),
            "</div>",
            "</main>",
            "</html>",
            "",
        )
    )


def _span(landed: Landed) -> str:
    return f"{landed.first_day} to {landed.last_day}. " if landed.first_day else ""


def _columns(months: tuple[Group, ...]) -> str:
    """A column a month, the escalated part at its foot."""
    if not months:
        return _nothing()
    most = max(month.total for month in months)
    step = WIDTH / len(months)
    width = min(step * 0.7, 64)
    base = COLUMNS_HEIGHT + 20
    # Every label, every second, every third …: what fits.
    every = -(-len(months) * 62 // WIDTH)
    parts = []
    for place, month in enumerate(months):
        middle = step * (place + 0.5)
        left = middle - width / 2
        height = COLUMNS_HEIGHT * month.total / most
        hot = COLUMNS_HEIGHT * month.escalated / most
        top = base - height
        note = f"{month.name}: {month.total:,} conversations, {month.escalated:,} escalated"
        parts += [
            f"<g><title>{escape(note)}</title>",
            _rect("main", left, top, width, height - hot),
            _rect("hot", left, base - hot, width, hot),
            "</g>",
        ]
        if place % every == 0:
            parts += [
                _text(middle, top - 6, f"{month.total:,}", anchor="middle", soft=True),
                _text(middle, base + 18, month.name, anchor="middle", soft=True),
            ]
    parts.append(f'<line class="line" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>')
    return _svg(base + 24, parts, "Conversations a month")


def _rates(groups: tuple[Group, ...]) -> str:
    most = max((group.rate for group in groups), default=0)
    rows = [
        (group.name, group.rate / (most or 1), f"{group.rate:.1%}", f"of {group.total:,}")
        for group in groups
    ]
    return _bars(rows, "hot", "Escalation rate by source")


def _totals(groups: tuple[Group, ...]) -> str:
    most = max((group.total for group in groups), default=1)
    rows = [
        (group.name, group.total / most, f"{group.total:,}", f"{group.rate:.0%} escalated")
        for group in groups
    ]
    return _bars(rows, "main", "Answers by knowledge source")


def _bars(rows: list[tuple[str, float, str, str]], style: str, title: str) -> str:
    """A bar a row: name, length from 0 to 1, value, remark."""
    if not rows:
        return _nothing()
    parts = []
    room = WIDTH - LABEL - VALUE
    for place, (name, length, value, remark) in enumerate(rows):
        line = place * ROW + 20
        end = LABEL + max(room * length, 1)
        parts += [
            f"<g><title>{escape(name)}: {value}, {remark}</title>",
            _text(LABEL - 12, line, _short(name), anchor="end"),
            _bar(style, LABEL, line, end),
            _text(end + 8, line, value),
            _text(end + 16 + 8 * len(value), line, remark, soft=True),
            "</g>",
        ]
    return _svg(len(rows) * ROW, parts, title)


def _thumbs(groups: tuple[Group, ...]) -> str:
    """A bar a source in two parts: up, down."""
    rated = sorted((group for group in groups if group.rated), key=lambda group: -group.rated)
    if not rated:
        return _nothing()
    room = WIDTH - LABEL - VALUE
    parts = []
    for place, group in enumerate(rated):
        line = place * ROW + 20
        middle = LABEL + room * group.thumbs_up / rated[0].rated
        end = LABEL + room * group.rated / rated[0].rated
        share = f"{group.thumbs_up / group.rated:.0%} up"
        note = f"{group.name}: {group.thumbs_up:,} up, {group.thumbs_down:,} down"
        parts += [
            f"<g><title>{escape(note)}</title>",
            _text(LABEL - 12, line, _short(group.name), anchor="end"),
            _bar("good", LABEL, line, middle),
            _bar("hot", middle, line, end),
            _text(end + 8, line, share),
            _text(end + 16 + 8 * len(share), line, f"of {group.rated:,}", soft=True),
            "</g>",
        ]
    return _svg(len(rated) * ROW, parts, "Thumbs by source")


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _bar(style: str, left: float, line: float, right: float) -> str:
    return _rect(style, left, line - 14, right - left, 18)


def _rect(style: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{style}" {place}/>'


def _key(*entries: tuple[str, str]) -> str:
    return (
        '<p class="key">'
        + "".join(f'<i class="{style}"></i>{text}' for style, text in entries)
        + "</p>"
    )


def _nothing() -> str:
    return "<p>Nothing here yet.</p>"


def _text(x: float, y: float, text: str, *, anchor: str = "start", soft: bool = False) -> str:
    style = ' class="soft"' if soft else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _svg(height: float, parts: list[str], title: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    return f'<svg {size} role="img" aria-label="{title}">{"".join(parts)}</svg>'
