"""What real targets hold after a load, compared with the sandbox value by value."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import expected
from tests.sandbox import Sandbox, documented_example, edited, make_conversations
from tests.support import discover
from tests.targets import load, postgres_server
from tests.warehouses import (
    KEYS,
    STREAMS,
    TIMES,
    Csv,
    DuckDB,
    Jsonl,
    Parquet,
    Postgres,
    Warehouse,
    by_key,
    s3_server,
    time,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.warehouses import Held, Row

pytestmark = pytest.mark.targets

CONVERSATIONS = 300

Tables = dict[str, dict[Any, "Row"]]

COLUMNS = {
    "conversations": {
        "string": "id externalId userId source channel feedbackType url",
        "boolean": "escalation hasLinks expectingUserFollowup",
        "integer": "botRequestCount",
        "time": "createdAt updatedAt",
        "strings": "categories",
        "object": "extra",
    },
    "bot_requests": {
        "string": "conversationId id question answer reasoning feedbackType",
        "boolean": "escalation expectingUserFollowup",
        "integer": "position",
        "time": "createdAt conversationUpdatedAt",
        "strings": "categories",
        "objects": "basedOn",
        "object": "extra",
    },
}
TYPES: dict[type[Warehouse], dict[str, str]] = {
    DuckDB: {
        "string": "VARCHAR",
        "boolean": "BOOLEAN",
        "integer": "INTEGER",
        "time": "TIMESTAMP",
        "strings": "JSON",
        "objects": "JSON",
        "object": "JSON",
    },
    Postgres: {
        "string": "text",
        "boolean": "bool",
        "integer": "int4",
        "time": "timestamp",
        "strings": "_text",
        "objects": "_jsonb",
        "object": "jsonb",
    },
    Parquet: {
        "string": "VARCHAR",
        "boolean": "BOOLEAN",
        "integer": "BIGINT",
        "time": "TIMESTAMP WITH TIME ZONE",
        "strings": "VARCHAR[]",
        "objects": "VARCHAR",
        "object": "VARCHAR",
    },
}
"""What each kind of column is in each target that has types."""

SALT = "a-made-up-salt"
STREAM_MAPS = {
    "conversations": {
        "userId": "sha256(config['salt'] + userId) if userId else None",
        "ticketId": "externalId",
        "externalId": "__NULL__",
    },
    "bot_requests": {
        "question": "sha256(config['salt'] + question) if question else None",
        "answeredAt": "createdAt",
        "createdAt": "__NULL__",
    },
}
"""One hashed and one renamed column a stream."""

DESELECTED = {"conversations": "url", "bot_requests": "reasoning"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that a test may change; one conversation has what targets tend to stumble over."""
    with Sandbox(make_conversations(CONVERSATIONS)) as running:
        running.world.upsert(_odd())
        yield running


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(params=[Jsonl, Csv, DuckDB, Postgres, Parquet], ids=lambda kind: kind.target)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Warehouse]:
    """Makes places of one kind."""
    kind: type[Warehouse] = request.param
    server = {Postgres: "postgres", Parquet: "s3"}.get(kind)
    url = request.getfixturevalue(server) if server else ""

    def make(name: str) -> Warehouse:
        made = kind(tmp_path, name, url)
        if isinstance(made, Parquet):
            made.create()
        return made

    return make


def test_it_holds_what_fini_holds(
    sandbox: Sandbox, tmp_path: Path, place: Callable[[str], Warehouse]
) -> None:
    """A full load, a second run in which nothing is new, and a third one after changes."""
    warehouse = place("fini")
    tap = _tap(sandbox, warehouse.stream_maps)

    def assert_equal() -> Held:
        held = warehouse.read()
        truth = _as_in(warehouse, _with_json(warehouse.stream_maps, _truth(sandbox)))
        assert by_key(held.rows) == truth
        if warehouse.upserts:
            counts = {table: len(rows) for table, rows in held.rows.items()}
            assert counts == {table: len(rows) for table, rows in truth.items()}
        return held

    state = load(warehouse.target, tap, warehouse.settings(), tmp_path)
    held = assert_equal()
    if type(warehouse) in TYPES:
        assert held.types == _types(warehouse)
    keys = {
        table: [warehouse.name(column) for column in columns] for table, columns in KEYS.items()
    }
    assert held.keys == (keys if warehouse.upserts else {})

    state = load(warehouse.target, tap, warehouse.settings(), tmp_path, state=state)
    assert_equal()
    _change(sandbox)
    load(warehouse.target, tap, warehouse.settings(), tmp_path, state=state)
    assert_equal()


def test_fields_are_left_out_renamed_and_hashed(
    sandbox: Sandbox, tmp_path: Path, place: Callable[[str], Warehouse]
) -> None:
    warehouse = place("mapped")
    maps = {
        stream: {**warehouse.stream_maps.get(stream, {}), **STREAM_MAPS[stream]}
        for stream in STREAMS
    }
    load(
        warehouse.target,
        {**_tap(sandbox, maps), "stream_map_config": {"salt": SALT}},
        warehouse.settings(),
        tmp_path,
        catalog=_without_deselected(discover()),
    )
    held = warehouse.read()
    truth = _with_json(warehouse.stream_maps, _truth(sandbox))
    for table, rows in truth.items():
        for row in rows.values():
            del row[DESELECTED[table]]
    for row in truth["conversations"].values():
        row["ticketId"] = row.pop("externalId")
        row["userId"] = _hashed(row["userId"])
    for row in truth["bot_requests"].values():
        row["answeredAt"] = row.pop("createdAt")
        row["question"] = _hashed(row["question"])
    assert by_key(held.rows) == _as_in(warehouse, truth)
    if type(warehouse) in TYPES:
        types = _types(warehouse)
        name = warehouse.name
        for table, column in DESELECTED.items():
            del types[f"{table}.{name(column)}"]
        for old, new in {
            "conversations.externalId": "conversations.ticketId",
            "bot_requests.createdAt": "bot_requests.answeredAt",
        }.items():
            types[name(new)] = types.pop(name(old))
        assert held.types == types


@pytest.mark.parametrize("batch", [1, 7])
def test_duckdb_loses_nothing_whatever_the_size_of_a_batch(
    sandbox: Sandbox, tmp_path: Path, batch: int
) -> None:
    """A batch is a CSV file, a COPY and an upsert."""
    for conversation in sandbox.truth()[40:]:
        sandbox.world.delete(conversation["id"])
    warehouse = DuckDB(tmp_path, "fini")
    settings = {**warehouse.settings(), "batch_size_rows": batch}
    state = load(warehouse.target, _tap(sandbox), settings, tmp_path)
    assert by_key(warehouse.read().rows) == _as_in(warehouse, _truth(sandbox))
    _change(sandbox)
    load(warehouse.target, _tap(sandbox), settings, tmp_path, state=state)
    assert by_key(warehouse.read().rows) == _as_in(warehouse, _truth(sandbox))


def test_csv_without_a_time_in_its_name_keeps_the_last_run_alone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Its default: what the README warns of."""
    warehouse = Csv(tmp_path, "fini")
    settings = {**warehouse.settings(), "file_naming_scheme": "{stream_name}.csv"}
    state = load(warehouse.target, _tap(sandbox), settings, tmp_path)
    assert by_key(warehouse.read().rows) == _as_in(warehouse, _truth(sandbox))
    bookmark = max(conversation["updatedAt"] for conversation in sandbox.truth())
    newest = {c["id"] for c in sandbox.truth() if c["updatedAt"] == bookmark}
    changed = _change(sandbox)
    load(warehouse.target, _tap(sandbox, lookback_days=0), settings, tmp_path, state=state)
    assert {row["id"] for row in warehouse.read().rows["conversations"]} == newest | changed


def test_csv_holds_json_with_a_stream_map(sandbox: Sandbox, tmp_path: Path) -> None:
    maps = {
        "conversations": {"categories": "json.dumps(categories)"},
        "bot_requests": {
            "categories": "json.dumps(categories)",
            "basedOn": "json.dumps(basedOn)",
        },
    }
    warehouse = Csv(tmp_path, "fini")
    load(warehouse.target, _tap(sandbox, maps), warehouse.settings(), tmp_path)
    held = by_key(warehouse.read().rows)
    truth = _truth(sandbox)
    for table, columns in maps.items():
        for key, row in truth[table].items():
            held_row = held[table][tuple(str(part) for part in key)]
            for column in columns:
                assert json.loads(held_row[column]) == row[column]


def test_parquet_needs_its_stream_maps(sandbox: Sandbox, tmp_path: Path, s3: str) -> None:
    """Without them it stops with an error; nothing is lost, but nothing is loaded either."""
    warehouse = Parquet(tmp_path, "unmapped", s3)
    warehouse.create()
    with pytest.raises(AssertionError, match="'NoneType' object has no attribute 'items'"):
        load(warehouse.target, _tap(sandbox), warehouse.settings(), tmp_path)


def _odd() -> dict[str, Any]:
    conversation = documented_example()
    return {
        **conversation,
        "externalId": "",
        "userId": "",
        "url": 'https://example.com/?q="a,b"',
        "categories": [],
        "mood": {"score": 0.5, "words": ["fine", "ü"]},
        "botRequests": [
            {
                **conversation["botRequests"][0],
                "question": "",
                "answer": "Tab\tcomma, \"quotes\", 'more', back\\slash, \\N, NULL,\nlines,\r\n🙂 ",
                "reasoning": "NULL",
                "categories": ["a,b", '"', ""],
                "basedOn": [{}, {"id": ["one", "two"], "score": 1.5, "deep": {"er": None}}],
            }
        ],
    }


def _tap(
    sandbox: Sandbox, stream_maps: dict[str, dict[str, str]] | None = None, **settings: object
) -> dict[str, Any]:
    return {
        "api_url": sandbox.url,
        "api_key": sandbox.api_key,
        "start_date": "2024-12-01T00:00:00Z",
        "end_date": "2025-12-01T00:00:00Z",
        "max_requests_per_minute": 0,
        "stream_maps": stream_maps or {},
        **settings,
    }


def _change(sandbox: Sandbox) -> set[str]:
    """Edit some conversations, new and old; return their ids."""
    at = max(conversation["updatedAt"] for conversation in sandbox.truth())
    changed = sandbox.truth()[::10]
    for place, conversation in enumerate(changed):
        sandbox.world.upsert(edited(conversation, at + 1000 * (place + 1)))
    return {conversation["id"] for conversation in changed}


def _truth(sandbox: Sandbox) -> Tables:
    """What the streams of design.md section 2 make of the sandbox's conversations."""
    parents, children = expected.tables(sandbox.truth())
    for conversation in sandbox.truth():
        if "mood" in conversation:
            parents[conversation["id"]]["extra"] = {"mood": conversation["mood"]}
    rows = {"conversations": list(parents.values()), "bot_requests": list(children.values())}
    return by_key(
        {
            table: [
                {name: time(value) if name in TIMES else value for name, value in row.items()}
                for row in held
            ]
            for table, held in rows.items()
        }
    )


def _with_json(maps: dict[str, dict[str, str]], tables: Tables) -> Tables:
    """With JSON text where a target needs a stream map for that."""
    for table, columns in maps.items():
        for row in tables[table].values():
            row |= {name: json.dumps(row[name]) for name in columns if name in row}
    return tables


def _as_in(warehouse: Warehouse, tables: Tables) -> Tables:
    """What a target makes of rows."""
    return {
        table: {
            tuple(warehouse.value(part) for part in key): {
                warehouse.name(name): warehouse.value(value) for name, value in row.items()
            }
            for key, row in rows.items()
        }
        for table, rows in tables.items()
    }


def _types(warehouse: Warehouse) -> dict[str, str]:
    return {
        f"{table}.{warehouse.name(column)}": TYPES[type(warehouse)][kind]
        for table, kinds in COLUMNS.items()
        for kind, columns in kinds.items()
        for column in columns.split()
    }


def _without_deselected(catalog: dict[str, Any]) -> dict[str, Any]:
    for stream in catalog["streams"]:
        name = stream["tap_stream_id"]
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["selected"] = name in STREAMS
            elif entry["breadcrumb"] == ["properties", DESELECTED.get(name)]:
                entry["metadata"]["selected"] = False
    return catalog


def _hashed(text: str | None) -> str | None:
    return hashlib.sha256((SALT + text).encode()).hexdigest() if text else None
