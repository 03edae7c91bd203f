"""What ``--discover`` says. A change of it reaches every warehouse, so it is never by accident.

To renew the snapshot: ``uv run tap-fini --discover > tests/snapshots/catalog.json``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support import discover

SNAPSHOT = Path(__file__).parent / "snapshots" / "catalog.json"

STREAMS: dict[str, dict[str, Any]] = {
    stream["tap_stream_id"]: stream for stream in discover()["streams"]
}
PROPERTIES = [
    pytest.param(name, column, id=f"{name}.{column}")
    for name, stream in STREAMS.items()
    for column in stream["schema"]["properties"]
]
KEYS = {
    "conversations": {"id", "updatedAt"},
    "bot_requests": {"conversationId", "position", "conversationUpdatedAt"},
    "interactions": {"id", "latestEventAt"},
    "interaction_events": {"interactionId", "id", "interactionLatestEventAt"},
    "agents": {"id"},
}


def test_the_catalog_is_the_snapshot() -> None:
    expected = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert discover() == expected, "changed on purpose? The top of this file says how to renew it"


def test_the_columns_are_in_the_order_of_the_snapshot() -> None:
    expected = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    for stream in expected["streams"]:
        columns = STREAMS[stream["tap_stream_id"]]["schema"]["properties"]
        assert list(columns) == list(stream["schema"]["properties"])


def test_keys() -> None:
    assert {
        name: (
            stream["key_properties"],
            stream.get("replication_key"),
            stream["replication_method"],
        )
        for name, stream in STREAMS.items()
    } == {
        "conversations": (["id"], "updatedAt", "INCREMENTAL"),
        "bot_requests": (["conversationId", "position"], "conversationUpdatedAt", "INCREMENTAL"),
        "interactions": (["id"], "latestEventAt", "INCREMENTAL"),
        "interaction_events": (["interactionId", "id"], "interactionLatestEventAt", "INCREMENTAL"),
        "agents": (["id"], None, "FULL_TABLE"),
    }


def test_chat_history_alone_is_selected_by_default() -> None:
    selected = {
        name: entry["metadata"]["selected-by-default"]
        for name, stream in STREAMS.items()
        for entry in stream["metadata"]
        if not entry["breadcrumb"]
    }
    assert [name for name, is_selected in selected.items() if is_selected] == [
        "bot_requests",
        "conversations",
    ]


@pytest.mark.parametrize("name", STREAMS)
def test_required_are_keys_and_replication_keys(name: str) -> None:
    assert set(STREAMS[name]["schema"]["required"]) == KEYS[name]


@pytest.mark.parametrize("name", STREAMS)
def test_the_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(STREAMS[name]["schema"])


@pytest.mark.parametrize(("name", "column"), PROPERTIES)
def test_every_property_is_described(name: str, column: str) -> None:
    description = STREAMS[name]["schema"]["properties"][column]["description"]
    assert description.endswith((".", "..."))
    assert description == description.strip()


@pytest.mark.parametrize(("name", "column"), PROPERTIES)
def test_all_but_keys_may_be_null(name: str, column: str) -> None:
    types = STREAMS[name]["schema"]["properties"][column]["type"]
    assert ("null" in types) == (column not in KEYS[name])
    assert len([kind for kind in types if kind != "null"]) == 1


@pytest.mark.parametrize(("name", "column"), PROPERTIES)
def test_integers_are_bounded(name: str, column: str) -> None:
    """Without bounds, a target has to choose the widest type there is."""
    definition = STREAMS[name]["schema"]["properties"][column]
    if "integer" in definition["type"]:
        assert (definition["minimum"], definition["maximum"]) == (0, 2**31 - 1)


@pytest.mark.parametrize(("name", "column"), PROPERTIES)
def test_keys_are_selected_automatically(name: str, column: str) -> None:
    (inclusion,) = (
        entry["metadata"]["inclusion"]
        for entry in STREAMS[name]["metadata"]
        if entry["breadcrumb"] == ["properties", column]
    )
    assert inclusion == ("automatic" if column in KEYS[name] else "available")


def test_times_are_times() -> None:
    assert {
        f"{name}.{column}"
        for name, stream in STREAMS.items()
        for column, definition in stream["schema"]["properties"].items()
        if definition.get("format") == "date-time"
    } == {
        "conversations.createdAt",
        "conversations.updatedAt",
        "bot_requests.createdAt",
        "bot_requests.conversationUpdatedAt",
        "interactions.createdAt",
        "interactions.latestEventAt",
        "interaction_events.createdAt",
        "interaction_events.externalCreatedAt",
        "interaction_events.interactionLatestEventAt",
        "agents.createdAt",
    }
