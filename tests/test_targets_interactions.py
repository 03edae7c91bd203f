"""What real targets hold of interactions and agents, compared with the sandbox value by value."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tests import expected
from tests.exports import INTERACTIONS
from tests.sandbox import Sandbox, make_agents, make_interactions
from tests.support import config_for
from tests.targets import load, postgres_server, venv
from tests.warehouses import DUCKDB, POSTGRES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.targets

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
KEYS: dict[str, tuple[str, ...]] = {
    "interactions": ("id",),
    "interaction_events": ("interactionId", "id"),
    "agents": ("id",),
}
CATALOG = INTERACTIONS.catalog(KEYS)
COLUMNS = {
    name: definition
    for stream in CATALOG["streams"]
    if stream["tap_stream_id"] in KEYS
    for name, definition in stream["schema"]["properties"].items()
}
TIMES = {name for name, column in COLUMNS.items() if column.get("format") == "date-time"}

Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that a test may change."""
    with Sandbox(interactions=make_interactions(120), agents=make_agents()) as running:
        yield running


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


def test_jsonl_holds_the_newer_export(sandbox: Sandbox, tmp_path: Path) -> None:
    """A full load, then a second run after changes: equal to the sandbox each time."""
    config = {"destination_path": str(tmp_path / "out"), "do_timestamp_file": False}

    def held() -> Tables:
        lines = {
            table: (tmp_path / "out" / f"{table}.jsonl").read_text(encoding="utf-8").splitlines()
            for table in KEYS
        }
        # It appends, and knows no keys: the last line of a key counts.
        return _tables({table: map(json.loads, rows) for table, rows in lines.items()})

    state = load("target-jsonl", config_for(sandbox), config, tmp_path, catalog=CATALOG)
    assert held() == _truth(sandbox)
    _change(sandbox)
    load("target-jsonl", config_for(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held() == _truth(sandbox)


def test_postgres_holds_the_newer_export(sandbox: Sandbox, tmp_path: Path, postgres: str) -> None:
    config = {"sqlalchemy_url": postgres, "default_target_schema": "fini"}

    def held() -> tuple[Tables, dict[str, Any]]:
        question = {"url": postgres, "tables": list(KEYS)}
        answer = venv("target-postgres").ask(POSTGRES, question)
        rows = answer["tables"]
        return _tables({table: map(_without_metadata, rows[table]) for table in rows}), answer

    state = load("target-postgres", config_for(sandbox), config, tmp_path, catalog=CATALOG)
    tables, answer = held()
    assert tables == _truth(sandbox)
    assert answer["keys"] == {table: list(key) for table, key in KEYS.items()}
    types = answer["types"]
    assert types["interactions.userAttributes"] == "jsonb"
    assert types["interaction_events.attachments"] == types["interactions.usedArticles"] == "_jsonb"
    assert types["interaction_events.tags"] == "_text"
    assert types["interaction_events.csatRating"] == "int4"
    assert types["interaction_events.interactionLatestEventAt"] == "timestamp"
    _change(sandbox)
    load("target-postgres", config_for(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held()[0] == _truth(sandbox)


@pytest.mark.parametrize("batch", [7, 100_000])
def test_duckdb_holds_the_newer_export(sandbox: Sandbox, tmp_path: Path, batch: int) -> None:
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
        return _tables({table: map(_from_duckdb, rows[table]) for table in rows}), answer["types"]

    state = load("target-duckdb", config_for(sandbox), config, tmp_path, catalog=CATALOG)
    tables, types = held()
    assert tables == _truth(sandbox)
    assert types["interactions.latesteventat"] == "TIMESTAMP"
    assert types["interactions.userattributes"] == types["interaction_events.tags"] == "JSON"
    assert types["interaction_events.csatrating"] == "INTEGER"
    _change(sandbox)
    load("target-duckdb", config_for(sandbox), config, tmp_path, state=state, catalog=CATALOG)
    assert held()[0] == _truth(sandbox)


def _change(sandbox: Sandbox) -> None:
    """Add events to some interactions, new and old, and rename an agent."""
    at = max(map(expected.latest_event, sandbox.interactions.conversations))
    for place, interaction in enumerate(sandbox.interactions.conversations[1::10]):
        moment = at + 1000 * (place + 1)
        event = {"id": f"late-{place}", "createdAt": moment, "csatRating": 0, "tags": ["late"]}
        interaction["events"].append(event)
        interaction["resolved"] = True
        sandbox.interactions.upsert(interaction)
    sandbox.agents[0]["name"] = "Renamed"


def _truth(sandbox: Sandbox) -> Tables:
    interactions = sandbox.interactions.truth(sandbox.switches)
    return _tables(
        {
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
    names = {name.lower(): name for name in COLUMNS}
    encoded = {name for name, d in COLUMNS.items() if {"array", "object"} & set(d["type"])}
    renamed = {names.get(name, name): value for name, value in row.items()}
    return {
        name: json.loads(value) if name in encoded and value is not None else value
        for name, value in renamed.items()
    }
