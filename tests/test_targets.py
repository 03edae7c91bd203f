"""What real targets hold after a load, compared with the sandbox value by value."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tests import expected
from tests.exports import INTERACTIONS
from tests.sandbox import (
    Sandbox,
    edited,
    make_agents,
    make_conversations,
    make_interactions,
)
from tests.targets import load, postgres_server, venv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.targets

CONVERSATIONS = 300
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
INTERACTION_COUNT = 120
KEYS: dict[str, tuple[str, ...]] = {
    "conversations": ("id",),
    "bot_requests": ("conversationId", "position"),
    "interactions": ("id",),
    "interaction_events": ("interactionId", "id"),
    "agents": ("id",),
}
TIMES = {
    *("createdAt", "updatedAt", "conversationUpdatedAt"),
    *("latestEventAt", "externalCreatedAt", "interactionLatestEventAt"),
}
CATALOG = INTERACTIONS.catalog(KEYS)
CONVERSATION_FIELDS = ("id", *expected.CONVERSATION_FIELDS, "createdAt", "updatedAt")
BOT_REQUEST_FIELDS = (*expected.BOT_REQUEST_FIELDS, "createdAt")

Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]

DUCKDB = """
import duckdb, json, sys
question = json.load(sys.stdin)
with duckdb.connect(question["path"], read_only=True) as connection:
    tables = {}
    for table in question["tables"]:
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        tables[table] = [dict(zip(names, row)) for row in cursor.fetchall()]
    types = {
        f"{table}.{column}": kind
        for table, column, kind in connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
        ).fetchall()
    }
json.dump({"tables": tables, "types": types}, sys.stdout, default=lambda time: time.isoformat())
"""

POSTGRES = """
import json, sys, psycopg
question = json.load(sys.stdin)
url = question["url"].replace("+psycopg", "")
with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
    tables = {
        table: connection.execute(f"SELECT * FROM fini.{table}").fetchall()
        for table in question["tables"]
    }
    types = {
        f"{row['table_name']}.{row['column_name']}": row["udt_name"]
        for row in connection.execute(
            "SELECT table_name, column_name, udt_name FROM information_schema.columns "
            "WHERE table_schema = 'fini'"
        )
    }
    keys = {}
    for row in connection.execute(
        "SELECT table_name, column_name FROM information_schema.key_column_usage "
        "WHERE table_schema = 'fini' ORDER BY table_name, ordinal_position"
    ):
        keys.setdefault(row["table_name"], []).append(row["column_name"])
answer = {"tables": tables, "types": types, "keys": keys}
json.dump(answer, sys.stdout, default=lambda time: time.isoformat())
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that a test may change."""
    with Sandbox(
        make_conversations(CONVERSATIONS),
        interactions=make_interactions(INTERACTION_COUNT),
        agents=make_agents(),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


def test_jsonl_holds_what_fini_holds(sandbox: Sandbox, tmp_path: Path) -> None:
    """A full load, then a second run after changes: equal to the sandbox each time."""
    config = {"destination_path": str(tmp_path / "out"), "do_timestamp_file": False}

    def held() -> Tables:
        lines = {
            table: (tmp_path / "out" / f"{table}.jsonl").read_text(encoding="utf-8").splitlines()
            for table in KEYS
        }
        # It appends, and knows no keys: the last line of a key counts.
        return _tables({table: map(json.loads, rows) for table, rows in lines.items()})

    state = load("target-jsonl", _tap(sandbox), config, tmp_path, catalog=CATALOG)
    assert held() == _truth(sandbox)
    _change(sandbox)
    load("target-jsonl", _tap(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held() == _truth(sandbox)


def test_postgres_holds_what_fini_holds(sandbox: Sandbox, tmp_path: Path, postgres: str) -> None:
    """A full load, then a second run after changes; and the types and keys are real ones."""
    config = {
        "sqlalchemy_url": postgres,
        "default_target_schema": "fini",
        "add_record_metadata": True,
    }

    def held() -> tuple[Tables, dict[str, Any]]:
        answer = venv("target-postgres").ask(POSTGRES, {"url": postgres, "tables": list(KEYS)})
        rows = answer["tables"]
        tables = _tables({table: map(_without_metadata, rows[table]) for table in rows})
        assert {table: len(rows[table]) for table in rows} == {
            table: len(tables[table]) for table in tables
        }
        return tables, answer

    state = load("target-postgres", _tap(sandbox), config, tmp_path, catalog=CATALOG)
    tables, answer = held()
    assert tables == _truth(sandbox)
    assert answer["keys"] == {table: list(key) for table, key in KEYS.items()}
    types = answer["types"]
    assert {types["conversations.createdAt"], types["conversations.updatedAt"]} == {"timestamp"}
    assert {types["bot_requests.createdAt"], types["bot_requests.conversationUpdatedAt"]} == {
        "timestamp"
    }
    assert {types["conversations.categories"], types["bot_requests.categories"]} == {"_text"}
    assert types["bot_requests.basedOn"] == "_jsonb"
    assert types["interactions.userAttributes"] == "jsonb"
    assert types["interaction_events.attachments"] == types["interactions.usedArticles"] == "_jsonb"
    assert types["interaction_events.tags"] == "_text"
    assert types["interaction_events.csatRating"] in {"int4", "int8"}
    assert types["conversations.escalation"] == "bool"
    assert types["conversations.botRequestCount"] in {"int4", "int8"}
    assert types["bot_requests.position"] in {"int4", "int8"}

    _change(sandbox)
    load("target-postgres", _tap(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held()[0] == _truth(sandbox)


@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_duckdb_holds_what_fini_holds(sandbox: Sandbox, tmp_path: Path, batch: int) -> None:
    """A full load, then a second run after changes, whatever the size of a batch."""
    if batch == 1:
        # A batch is a CSV file, a COPY and an upsert.
        for conversation in sandbox.truth()[40:]:
            sandbox.world.delete(conversation["id"])
        for interaction in sandbox.interactions.conversations[20:]:
            sandbox.interactions.delete(interaction["id"])
    path = tmp_path / "fini.duckdb"
    config = {
        "path": str(path),
        "default_target_schema": "main",
        "batch_size_rows": batch,
        "flush_all_streams": True,
    }

    def held() -> tuple[Tables, dict[str, str]]:
        answer = venv("target-duckdb").ask(DUCKDB, {"path": str(path), "tables": list(KEYS)})
        rows = answer["tables"]
        tables = _tables({table: map(_from_duckdb, rows[table]) for table in rows})
        assert {table: len(rows[table]) for table in rows} == {
            table: len(tables[table]) for table in tables
        }
        return tables, answer["types"]

    state = load("target-duckdb", _tap(sandbox), config, tmp_path, catalog=CATALOG)
    tables, types = held()
    assert tables == _as_in_duckdb(_truth(sandbox))
    assert {types["conversations.createdat"], types["bot_requests.conversationupdatedat"]} == {
        "TIMESTAMP"
    }
    assert {types["conversations.categories"], types["bot_requests.basedon"]} == {"JSON"}
    assert {types["conversations.escalation"], types["bot_requests.escalation"]} == {"BOOLEAN"}
    assert "HUGEINT" not in types.values()

    _change(sandbox)
    load("target-duckdb", _tap(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held()[0] == _as_in_duckdb(_truth(sandbox))


def _tap(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "api_url": sandbox.url,
        "api_key": sandbox.api_key,
        "start_date": "2024-12-01T00:00:00Z",
        "end_date": "2025-12-01T00:00:00Z",
        "max_requests_per_minute": 0,
    }


def _change(sandbox: Sandbox) -> None:
    """Edit some conversations, new and old."""
    at = max(conversation["updatedAt"] for conversation in sandbox.truth())
    for place, conversation in enumerate(sandbox.truth()[::10]):
        sandbox.world.upsert(edited(conversation, at + 1000 * (place + 1)))
    for place, interaction in enumerate(sandbox.interactions.conversations[1::10]):
        moment = at + 1000 * (place + 1)
        event = {"id": f"late-{place}", "createdAt": moment, "csatRating": 0, "tags": ["late"]}
        interaction["events"].append(event)
        interaction["resolved"] = True
        sandbox.interactions.upsert(interaction)
    sandbox.agents[0]["name"] = "Renamed"


def _truth(sandbox: Sandbox) -> Tables:
    """What the streams of design.md section 2 make of the sandbox's conversations."""
    conversations = []
    bot_requests = []
    for conversation in sandbox.truth():
        children = sorted(conversation["botRequests"], key=lambda child: child["createdAt"])
        row = {name: conversation.get(name) for name in CONVERSATION_FIELDS}
        conversations.append(row | {"botRequestCount": len(children)})
        for position, child in enumerate(children):
            row = {name: child.get(name) for name in BOT_REQUEST_FIELDS}
            row |= {"conversationId": conversation["id"], "position": position}
            bot_requests.append(row | {"conversationUpdatedAt": conversation["updatedAt"]})
    interactions = sandbox.interactions.truth(sandbox.switches)
    return _tables(
        {
            "conversations": conversations,
            "bot_requests": bot_requests,
            "interactions": map(expected.interaction_row, interactions),
            "interaction_events": (row for i in interactions for row in expected.event_rows(i)),
            "agents": sandbox.agents,
        }
    )


def _tables(rows: dict[str, Iterable[Row]]) -> Tables:
    """Rows by key, times as datetimes, without ``extra``, which nothing here has."""
    tables: Tables = {}
    for table, key in KEYS.items():
        held = tables[table] = {}
        for row in rows[table]:
            assert row.get("extra") is None
            clean = {
                name: _time(value) if name in TIMES else value
                for name, value in row.items()
                if name != "extra"
            }
            held[tuple(clean[name] for name in key)] = clean
    return tables


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
        return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return None if value is None else EPOCH + timedelta(milliseconds=value)


def _without_metadata(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_sdc_")}


def _from_duckdb(row: Row) -> Row:
    """The names as the streams have them, and JSON columns read."""
    schemas = [stream["schema"]["properties"] for stream in CATALOG["streams"]]
    names = {name.lower(): name for schema in schemas for name in schema}
    json_columns = {
        name
        for schema in schemas
        for name, definition in schema.items()
        if {"array", "object"} & set(definition["type"])
    }
    renamed = {names.get(name, name): value for name, value in row.items()}
    return {
        name: json.loads(value) if name in json_columns and value is not None else value
        for name, value in renamed.items()
    }


def _as_in_duckdb(tables: Tables) -> Tables:
    """As target-duckdb writes it: no empty strings."""
    return {
        table: {
            key: {name: None if value == "" else value for name, value in row.items()}
            for key, row in rows.items()
        }
        for table, rows in tables.items()
    }
