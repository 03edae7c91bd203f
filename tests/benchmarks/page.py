"""One HTML page with plots, everything inside it."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from tests.benchmarks.report import (
    FIGURE_HEAD,
    GOAL_HEAD,
    RUN_HEAD,
    goal_rows,
    other_rows,
    run_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.bench import Bench

COLOURS = ("#2f6fde", "#e0702f", "#3c9d5d", "#9b59b6", "#c0392b", "#7f8c8d")

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884}
th:nth-child(-n+1),td:nth-child(-n+1),.goals td:nth-child(2),.goals th:nth-child(2){text-align:left}
.scroll{overflow-x:auto}
.met{color:#2e8b57}.missed{color:#c0392b;font-weight:600}
svg{width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
"""


def html(
    bench: Bench, figures: Mapping[str, Mapping[str, float]], *, when: str, machine: str
) -> str:
    """Return the page."""
    parts = [
        "<h1>What tap-fini costs</h1>",
        f"<p>{escape(when)}, {escape(machine)}.</p>",
        "<p>Medians of interleaved runs. A run counts only if it wrote the whole history.</p>",
        "<h2>Goals</h2>",
        _table(GOAL_HEAD, goal_rows(figures), "goals"),
    ]
    for title, lines in bench.points.items():
        if any(lines.values()):
            parts += [f"<h2>{escape(title)}</h2>", _lines(title, lines)]
    for comparison, rows in run_rows(bench):
        parts.append(f"<h2>{escape(comparison)}</h2>")
        for column, label in ((1, "wall seconds"), (3, "peak memory, MB")):
            bars = [(row[0], float(row[column])) for row in rows]
            if len(bars) > 1:
                parts.append(_bars(f"{comparison}: {label}", label, bars))
        parts.append(_table(RUN_HEAD, rows, "runs"))
    parts += ["<h2>Other figures</h2>", _table(FIGURE_HEAD, other_rows(figures), "goals")]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>What tap-fini costs</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    classes = {"met": "met", "NOT MET": "missed"}
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{classes.get(cell, "")}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def _bars(title: str, label: str, bars: Sequence[tuple[str, float]]) -> str:
    """Draw horizontal bars."""
    width, left, step = 800, 210, 26
    largest = max(value for _, value in bars) or 1
    parts = [f'<text x="{left}" y="12">{escape(label)}</text>']
    for row, (name, value) in enumerate(bars):
        y, length = 20 + row * step, value / largest * (width - left - 80)
        colour = COLOURS[0] if name.startswith("tap-fini") else "#8a94a6"
        parts.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="18" rx="2" fill="{colour}"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 14}">{value:,.4g}</text>'
        )
    return _svg(title, width, 24 + len(bars) * step, parts)


def _lines(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines over a logarithmic x axis."""
    width, height, left, bottom = 800, 320, 60, 40
    points = [point for line in lines.values() for point in line]
    low, high = (math.log(pick(x for x, _ in points)) for pick in (min, max))
    top = max(y for _, y in points) * 1.1 or 1

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log(x) - low) / (high - low) if high > low else 0.5
        return left + share * (width - left - 180), height - bottom - y / top * (
            height - bottom - 20
        )

    base = height - bottom
    parts = [f'<path d="M{left} 10V{base}H{width - 170}" fill="none" stroke="#8888"/>']
    for tick in range(5):
        value = top * tick / 4
        _, y = place(math.exp(low), value)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.3g}</text>')
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, 0)
        parts.append(f'<text x="{at:.1f}" y="{base + 18}" text-anchor="middle">{x:,.0f}</text>')
    ends = sorted((place(*line[-1])[1], name) for name, line in lines.items() if line)
    labels: dict[str, float] = {}
    for y, name in ends:
        labels[name] = max(y, max(labels.values(), default=-20) + 14)
    for colour, (name, line) in zip(COLOURS * 3, lines.items(), strict=False):
        if not line:
            continue
        track = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in track)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in track)
        parts.append(
            f'<g fill="{colour}" stroke="none">'
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}</g>'
            f'<text x="{track[-1][0] + 10:.1f}" y="{labels[name] + 4:.1f}">{escape(name)}</text>'
        )
    return _svg(title, width, height, parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
