"""What landed in DuckDB: the questions, their SQL, and the answers as values."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.demo.pipeline import DemoError

if TYPE_CHECKING:
    from tests.demo.pipeline import Pipeline

QUERIES = {
    "totals": """
        SELECT
            count(*) AS conversations,
            (SELECT count(*) FROM bot_requests) AS bot_requests,
            strftime(min(createdat), '%Y-%m-%d') AS first_day,
            strftime(max(createdat), '%Y-%m-%d') AS last_day,
            count(*) FILTER (escalation) AS escalated,
            count(*) FILTER (feedbacktype = 'thumbs_up') AS thumbs_up,
            count(*) FILTER (feedbacktype = 'thumbs_down') AS thumbs_down
        FROM conversations
    """,
    # Rows whose key is there already: none, if the target merges by key.
    "repeated": """
        SELECT
            (SELECT count(*) - count(DISTINCT id) FROM conversations)
            + (SELECT count(*) - count(DISTINCT (conversationid, position)) FROM bot_requests) AS n
    """,
    # A bot request older than its conversation's last change is no longer part of it.
    "incomplete": """
        SELECT count(*) AS n
        FROM conversations AS c
        LEFT JOIN (
            SELECT b.conversationid, count(*) AS present
            FROM bot_requests AS b
            JOIN conversations AS p ON p.id = b.conversationid
            WHERE b.conversationupdatedat >= p.updatedat
            GROUP BY b.conversationid
        ) AS r ON r.conversationid = c.id
        WHERE c.botrequestcount IS DISTINCT FROM coalesce(r.present, 0)
    """,
    "months": """
        SELECT
            strftime(date_trunc('month', createdat), '%Y-%m') AS name,
            count(*) AS total,
            count(*) FILTER (escalation) AS escalated
        FROM conversations
        WHERE createdat IS NOT NULL
        GROUP BY name
        ORDER BY name DESC
        LIMIT 24
    """,
    "channels": """
        SELECT
            coalesce(source, 'unknown') AS name,
            count(*) AS total,
            count(*) FILTER (escalation) AS escalated,
            count(*) FILTER (feedbacktype = 'thumbs_up') AS thumbs_up,
            count(*) FILTER (feedbacktype = 'thumbs_down') AS thumbs_down
        FROM conversations
        GROUP BY name
        ORDER BY escalated / total DESC, name
    """,
    # One answer can rest on a source more than once; it counts once.
    "knowledge": """
        WITH used AS (
            SELECT conversationid, position, escalation, unnest(CAST(basedon AS JSON[])) AS source
            FROM bot_requests
        ),
        named AS (
            SELECT DISTINCT
                conversationid,
                position,
                escalation,
                coalesce(
                    source ->> 'title',
                    source ->> 'question',
                    source ->> 'sourceId',
                    source ->> 'source_id',
                    source ->> 'id'
                ) AS name
            FROM used
        )
        SELECT name, count(*) AS total, count(*) FILTER (escalation) AS escalated
        FROM named
        WHERE name IS NOT NULL
        GROUP BY name
        ORDER BY total DESC, name
        LIMIT 10
    """,
}

# Runs in the loader's virtual environment, which has DuckDB and nothing of ours.
_SCRIPT = """
import duckdb, json, sys
ask = json.load(sys.stdin)
with duckdb.connect(ask["path"], read_only=True) as connection:
    connection.execute('SET schema = "' + ask["schema"].replace('"', '""') + '"')
    answers = {}
    for name, query in ask["queries"].items():
        cursor = connection.execute(query)
        columns = [column[0] for column in cursor.description]
        answers[name] = [dict(zip(columns, row)) for row in cursor.fetchall()]
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Conversations or answers that have something in common, and what became of them."""

    name: str
    total: int
    escalated: int
    thumbs_up: int = 0
    thumbs_down: int = 0

    @property
    def rate(self) -> float:
        """The escalated share, 0 to 1."""
        return self.escalated / self.total if self.total else 0.0

    @property
    def rated(self) -> int:
        """How many have a thumb."""
        return self.thumbs_up + self.thumbs_down


@dataclass(frozen=True, slots=True)
class Landed:
    """What is in the database."""

    conversations: int
    bot_requests: int
    first_day: str | None
    last_day: str | None
    escalated: int
    thumbs_up: int
    thumbs_down: int
    repeated: int
    incomplete: int
    months: tuple[Group, ...]
    channels: tuple[Group, ...]
    knowledge: tuple[Group, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """How many conversations and how many bot requests."""
        return self.conversations, self.bot_requests

    @property
    def rate(self) -> float:
        """The escalated share of all conversations, 0 to 1."""
        return self.escalated / self.conversations if self.conversations else 0.0

    @property
    def rated(self) -> int:
        """How many conversations have a thumb."""
        return self.thumbs_up + self.thumbs_down


def look(pipeline: Pipeline) -> Landed:
    """Ask the database that the pipeline wrote.

    Raises:
        DemoError: the database cannot be read, or lacks one of the tables.
    """
    answers = query(pipeline, QUERIES)
    return Landed(
        **answers["totals"][0],
        repeated=answers["repeated"][0]["n"],
        incomplete=answers["incomplete"][0]["n"],
        months=tuple(Group(**row) for row in reversed(answers["months"])),
        channels=tuple(Group(**row) for row in answers["channels"]),
        knowledge=tuple(Group(**row) for row in answers["knowledge"]),
    )


def query(pipeline: Pipeline, queries: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each query by name.

    Raises:
        DemoError: a query failed.
    """
    ask = {"path": str(pipeline.path), "schema": pipeline.schema, "queries": queries}
    done = subprocess.run(
        [str(pipeline.python), "-c", _SCRIPT],
        input=json.dumps(ask),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing."]
        msg = f"{pipeline.database} cannot be read: {last[0]}"
        raise DemoError(msg)
    answers: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return answers
