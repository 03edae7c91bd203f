"""Every block of docs/sql.md, run in DuckDB and PostgreSQL and compared with the truth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from tests.pages import BLOCKS
from tests.project import change
from tests.sandbox import Sandbox, make_conversations
from tests.targets import load, postgres_server, venv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

Row = dict[str, Any]

IN_DUCKDB = """
import decimal, duckdb, json, sys
ask = json.load(sys.stdin)
answers = []
with duckdb.connect(ask["database"]) as connection:
    for query in ask["queries"]:
        cursor = connection.execute(query)
        answers.append([list(row) for row in cursor.fetchall()])
def plain(value):
    return float(value) if isinstance(value, decimal.Decimal) else value.isoformat()
json.dump(answers, sys.stdout, default=plain)
"""

IN_POSTGRES = """
import decimal, json, psycopg, sys
ask = json.load(sys.stdin)
answers = []
with psycopg.connect(ask["database"].replace("+psycopg", "")) as connection:
    connection.execute("SET search_path TO fini")
    for query in ask["queries"]:
        cursor = connection.execute(query)
        answers.append([list(row) for row in cursor.fetchall()] if cursor.description else [])
def plain(value):
    return float(value) if isinstance(value, decimal.Decimal) else value.isoformat()
json.dump(answers, sys.stdout, default=plain)
"""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the questions are about, worked out without SQL.

    Attributes:
        conversations: the sandbox's own.
        stale: the rows that are no longer part of a conversation, by conversation and position.
    """

    conversations: list[Row]
    stale: list[list[Any]]

    def turns(self) -> Iterator[tuple[Row, int, Row]]:
        """Every bot request with its conversation and its position."""
        for conversation in self.conversations:
            in_order = sorted(conversation["botRequests"], key=lambda turn: turn["createdAt"])
            for position, turn in enumerate(in_order):
                yield conversation, position, turn

    def used(self) -> dict[str, list[tuple[Row, str | None]]]:
        """The bot requests behind which a piece of knowledge was, and its titles there."""
        found = defaultdict(list)
        for _, _, turn in self.turns():
            titles: dict[str, list[str]] = defaultdict(list)
            for item in turn["basedOn"]:
                name = item.get("id")
                if isinstance(name, list):
                    name = name[0] if name else None
                name = name or item.get("sourceId") or item.get("source_id") or item.get("title")
                titles[str(name or "unknown")] += [item["title"]] if "title" in item else []
            for name, known in titles.items():
                found[name].append((turn, min(known, default=None)))
        return found


def percent(part: int, whole: int) -> float:
    """Round as databases do, half away from zero."""
    return int(Fraction(1000 * part, whole) + Fraction(1, 2)) / 10


def current(truth: Truth) -> list[list[Any]]:
    return sorted([conversation["id"], place] for conversation, place, _ in truth.turns())


def by_week(truth: Truth) -> list[list[Any]]:
    weeks = defaultdict(list)
    for conversation in truth.conversations:
        day = day_of(conversation["createdAt"])
        monday = day - timedelta(days=day.weekday())
        weeks[conversation["source"], monday.isoformat()].append(conversation["escalation"])
    # NULL comes last.
    order = sorted(weeks, key=lambda key: (key[0] is None, key[0] or "", key[1]))
    return [
        [
            *key,
            len(weeks[key]),
            weeks[key].count(True),
            percent(weeks[key].count(True), len(weeks[key])),
            percent(weeks[key].count(False), len(weeks[key])),
        ]
        for key in order
    ]


def thumbs(truth: Truth) -> list[list[Any]]:
    found = defaultdict(list)
    for _, _, turn in truth.turns():
        for category in turn["categories"]:
            found[category].append(turn["feedbackType"])
    return [
        [name, len(given), given.count("thumbs_up"), given.count("thumbs_down")]
        for name, given in sorted(found.items())
    ]


def turns(truth: Truth) -> list[list[Any]]:
    counts = [len(conversation["botRequests"]) for conversation in truth.conversations]
    return [
        [count, counts.count(count), percent(counts.count(count), len(counts))]
        for count in sorted(set(counts))
    ]


def unanswered(truth: Truth) -> list[list[Any]]:
    rows = [
        (turn["createdAt"], conversation["id"], position, turn["question"])
        for conversation, position, turn in truth.turns()
        if not (turn["answer"] or "").strip() or (turn["escalation"] and not turn["basedOn"])
    ]
    rows.sort(key=lambda row: (-row[0], *row[1:]))
    return [[moment(row[0]), *row[1:]] for row in rows]


def used(truth: Truth) -> list[list[Any]]:
    rows = []
    for conversation, position, turn in truth.turns():
        one = Truth([{**conversation, "botRequests": [turn]}], [])
        rows += [[conversation["id"], position, name] for name in one.used()]
    return sorted(rows)


def most_useful(truth: Truth) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [name, last_title(uses), len(uses), sum(not failed(turn) for turn, _ in uses)]
        for name, uses in truth.used().items()
    ]
    return sorted(rows, key=lambda row: (-row[3], row[0]))[:10]


def least_useful(truth: Truth) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [
            name,
            last_title(uses),
            len(uses),
            sum(turn["escalation"] for turn, _ in uses),
            sum(turn["feedbackType"] == "thumbs_down" for turn, _ in uses),
            percent(sum(failed(turn) for turn, _ in uses), len(uses)),
        ]
        for name, uses in truth.used().items()
        if len(uses) >= 5
    ]
    return sorted(rows, key=lambda row: (-row[5], row[0]))[:10]


def failed(turn: Row) -> bool:
    return bool(turn["escalation"]) or turn["feedbackType"] == "thumbs_down"


def last_title(uses: Iterable[tuple[Row, str | None]]) -> str | None:
    return max((title for _, title in uses if title is not None), default=None)


def moment(milliseconds: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(milliseconds=milliseconds)).isoformat()  # noqa: DTZ001


def day_of(milliseconds: int) -> date:
    return date.fromisoformat(moment(milliseconds)[:10])


ANSWERS: dict[str, Callable[[Truth], list[list[Any]]]] = {
    "What is part of a conversation now": current,
    "Stale rows": lambda truth: truth.stale,
    "Is every bot request here?": lambda _: [],
    "Escalation and deflection by source and week": by_week,
    "Thumbs by category": thumbs,
    "Turns per conversation": turns,
    "Unanswered questions": unanswered,
    "Which knowledge was used": used,
    "The most useful knowledge sources": most_useful,
    "The least useful knowledge sources": least_useful,
}
VIEWS = {
    "What is part of a conversation now": (
        'SELECT "conversationId", position FROM current_bot_requests ORDER BY 1, 2'
    ),
    "Which knowledge was used": (
        'SELECT "conversationId", position, knowledge FROM knowledge_used ORDER BY 1, 2, 3'
    ),
}
"""Blocks that make a view, and what to ask it."""


@pytest.mark.targets
@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_sql(engine: str, tmp_path: Path) -> None:
    """Loaded, changed and loaded again; every block's rows are those worked out in Python."""
    with postgres_server(tmp_path) as url, Sandbox(make_conversations(200)) as sandbox:
        if engine == "duckdb":
            database = str(tmp_path / "fini.duckdb")
            config: Row = {"path": database, "default_target_schema": "main"}
            config["flush_all_streams"] = True
        else:
            database = url
            config = {"sqlalchemy_url": url, "default_target_schema": "fini"}
        tap = {
            "api_url": sandbox.url,
            "api_key": sandbox.api_key,
            "start_date": "2024-12-01T00:00:00Z",
            "max_requests_per_minute": 0,
        }
        state = load(f"target-{engine}", tap, config, tmp_path)
        before = current(Truth(sandbox.truth(), []))
        change(sandbox)
        load(f"target-{engine}", tap, config, tmp_path, state=state)
        conversations = sandbox.truth()
        there = current(Truth(conversations, []))
        truth = Truth(conversations, [row for row in before if row not in there])
        assert truth.stale, "there is something to find"

        mine = [b for b in BLOCKS if b.page == "docs/sql.md" and b.engine in {"", engine}]
        assert [block.heading for block in mine] == list(ANSWERS)
        queries = []
        for block in mine:
            queries += [block.text]
            queries += [VIEWS[block.heading]] if block.heading in VIEWS else []
        script = IN_DUCKDB if engine == "duckdb" else IN_POSTGRES
        asked = {"database": database, "queries": queries}
        answers = iter(venv(f"target-{engine}").ask(script, asked))
        for block in mine:
            rows = next(answers)
            if block.heading in VIEWS:
                rows = next(answers)
            assert rows == ANSWERS[block.heading](truth), block.heading
