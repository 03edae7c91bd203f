"""JSON to rows: whatever comes, nothing is lost and everything fits its schema."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_fini.records import FamilyMaker, UnusableIdError, repair
from tap_fini.streams import (
    CHAT_HISTORY,
    INTERACTIONS,
    BotRequestsStream,
    ConversationsStream,
    InteractionEventsStream,
    InteractionsStream,
)
from tap_fini.windows import to_instant
from tests.expected import bot_request_rows, conversation_row, event_rows, interaction_row
from tests.sandbox import make_conversations, make_interactions

if TYPE_CHECKING:
    from tap_fini.export import Export

FALLBACK = 1_735_689_600_000
FALLBACK_TEXT = "2025-01-01T00:00:00.000Z"

Schema = dict[str, Any]
PARENT_SCHEMA: Schema = ConversationsStream.schema
CHILD_SCHEMA: Schema = BotRequestsStream.schema


class Maker:
    """A family maker that keeps its reports."""

    def __init__(
        self,
        export: Export = CHAT_HISTORY,
        parent: Schema = ConversationsStream.schema,
        child: Schema = BotRequestsStream.schema,
    ) -> None:
        self.reports: list[tuple[str, str, str]] = []
        self._maker = FamilyMaker(
            export.shape,
            parent,
            child,
            report_parent=lambda name, problem: self.reports.append(("parent", name, problem)),
            report_child=lambda name, problem: self.reports.append(("child", name, problem)),
        )

    def make(self, raw: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        row, children = self._maker.parent_row(raw, FALLBACK)
        return row, self._maker.child_rows(row, children)


def event_maker() -> Maker:
    return Maker(INTERACTIONS, InteractionsStream.schema, InteractionEventsStream.schema)


def conversation(**fields: object) -> dict[str, Any]:
    return {"id": "c1", "createdAt": FALLBACK + 1, "updatedAt": FALLBACK + 2, **fields}


def test_ordinary_conversations() -> None:
    for raw in make_conversations(300, seed=11):
        maker = Maker()
        assert maker.make(raw) == (conversation_row(raw), bot_request_rows(raw))
        assert maker.reports == []


def test_ordinary_interactions() -> None:
    made = make_interactions(300, seed=11)
    assert any(not raw["events"] for raw in made)
    assert {e["csatRating"] for raw in made for e in raw["events"]} >= {None, 0, 5}
    for raw in made:
        maker = event_maker()
        assert maker.make(raw) == (interaction_row(raw), event_rows(raw))
        assert maker.reports == []


@pytest.mark.parametrize(
    ("fields", "latest"),
    [
        ({"events": []}, FALLBACK + 1),
        ({"events": None}, FALLBACK + 1),
        ({"events": [{"id": "a", "createdAt": FALLBACK + 9}, {"id": "b"}]}, FALLBACK + 9),
        ({"events": [{"id": "a", "createdAt": "2025-01-01T00:00:01Z"}]}, FALLBACK + 1000),
        ({"events": [{"id": "a"}]}, FALLBACK + 1),
        ({"events": ["?"]}, FALLBACK + 1),
    ],
)
def test_the_time_of_the_latest_event_serves_as_replication_key(
    fields: dict[str, Any], latest: int
) -> None:
    maker = event_maker()
    row, children = maker.make({"id": "i1", "createdAt": FALLBACK + 1, **fields})
    assert to_instant(row["latestEventAt"]) == latest
    assert all(child["interactionLatestEventAt"] == row["latestEventAt"] for child in children)
    assert (
        "parent",
        "latestEventAt",
        "has no usable value, nor has any other time of the record",
    ) in (maker.reports) or fields.get("createdAt") != "soon"


def test_an_api_field_with_the_name_of_the_derived_time_is_kept() -> None:
    row, _ = event_maker().make({"id": "i1", "createdAt": FALLBACK, "latestEventAt": 5})
    assert (row["latestEventAt"], row["extra"]) == (FALLBACK_TEXT, {"latestEventAt": 5})


def test_every_event_has_a_key_of_its_own() -> None:
    """Without a usable id, or with one that an earlier event has, the position makes one."""
    own = ["e1", None, "e1", 7, "7", {"a": 1}, "", "x" * 151, True, "position:1", "x" * 150]
    events = [{"id": key, "createdAt": FALLBACK + n} for n, key in enumerate(own)]
    events.append({"createdAt": FALLBACK + 99})
    maker = event_maker()
    row, children = maker.make({"id": "i1", "createdAt": FALLBACK, "events": events})
    assert row["eventCount"] == len(events)
    assert [child["id"] for child in children] == [
        "e1",
        "position:position:1",
        "position:2",
        "7",
        "position:4",
        "position:5",
        "position:6",
        "position:7",
        "position:8",
        "position:1",
        "x" * 150,
        "position:11",
    ]
    assert [child.get("extra", {}).get("id") for child in children] == [
        *(None, None, "e1", None, "7", {"a": 1}, "", "x" * 151, True, None, None, None)
    ]
    place = "so its position serves in its place"
    assert set(maker.reports) == {
        ("child", "id", f"is not usable, {place}"),
        ("child", "id", f"is another record's too, {place}"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("csatRating", -1),
        ("csatRating", 2**31),
        ("csatRating", 4.5),
        ("csatRating", True),
        ("csatRating", "5"),
        ("attachments", ["file.txt"]),
        ("tags", [{"id": "t1"}]),
        ("usedArticles", {"id": "a"}),
        ("feedback", {"text": "bad"}),
        ("externalCreatedAt", "yesterday"),
    ],
)
def test_misfits_of_events_are_kept(name: str, value: object) -> None:
    raw = {"id": "i1", "createdAt": FALLBACK, "events": [{"id": "e", name: value}]}
    _, (child,) = event_maker().make(raw)
    assert (child[name], child["extra"]) == (None, {name: value})


def test_unknown_fields_are_kept() -> None:
    maker = Maker()
    row, (child,) = maker.make(
        conversation(mood="sunny", extra=1, position=2, botRequests=[{"tokens": {"in": 5}}])
    )
    assert row["extra"] == {"mood": "sunny", "extra": 1, "position": 2}
    assert child["extra"] == {"tokens": {"in": 5}}
    assert sorted(maker.reports) == [
        ("child", "tokens", "is a field this version does not know"),
        ("parent", "extra", "is a field this version does not know"),
        ("parent", "mood", "is a field this version does not know"),
        ("parent", "position", "is a field this version does not know"),
    ]


@pytest.mark.parametrize("name", ["botRequestCount", "conversationUpdatedAt", "conversationId"])
def test_api_fields_with_the_names_of_derived_ones_are_kept(name: str) -> None:
    row, (child,) = Maker().make(conversation(botRequests=[{name: "theirs"}], **{name: "theirs"}))
    assert row["extra"] == {name: "theirs"}
    assert child["extra"] == {name: "theirs"}
    assert (row["botRequestCount"], child["conversationId"]) == (1, "c1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("externalId", 12345),
        ("source", ["widget"]),
        ("escalation", "true"),
        ("hasLinks", 1),
        ("categories", "fini-other"),
        ("categories", ["a", None]),
        ("createdAt", "soon"),
        ("createdAt", 1740407178),
        ("createdAt", -5),
        ("updatedAt", 253_402_300_800_000),
        ("botRequests", {"question": "?"}),
        ("url", 1.5),
    ],
)
def test_misfits_are_kept(name: str, value: object) -> None:
    maker = Maker()
    row, _ = maker.make(conversation(**{name: value}))
    assert row["extra"] == {name: value}
    problem = "has a value of an unexpected type"
    assert ("parent", name, problem) in maker.reports
    if name not in {"updatedAt", "botRequests"}:
        assert row[name] is None


def test_items_that_are_no_bot_requests_are_kept() -> None:
    row, children = Maker().make(conversation(botRequests=["?", {"question": "Hi"}, None]))
    assert row["extra"] == {"botRequests": ["?", None]}
    assert row["botRequestCount"] == 1
    assert [child["question"] for child in children] == ["Hi"]


@pytest.mark.parametrize(
    ("fields", "updated"),
    [
        ({"updatedAt": None}, FALLBACK + 1),
        ({"updatedAt": "2025-02-24T14:26:18.879Z"}, 1740407178879),
        (
            {"updatedAt": None, "createdAt": None, "botRequests": [{"createdAt": 1740407178963}]},
            1740407178963,
        ),
        (
            {"createdAt": "x", "updatedAt": [], "botRequests": [{}, {"createdAt": FALLBACK + 9}]},
            FALLBACK + 9,
        ),
        ({"updatedAt": "x", "createdAt": "y"}, FALLBACK),
        ({"updatedAt": None, "createdAt": None, "botRequests": [{}]}, FALLBACK),
    ],
)
def test_the_replication_key_is_never_missing(fields: dict[str, Any], updated: int) -> None:
    maker = Maker()
    row, children = maker.make(conversation(**fields))
    assert to_instant(row["updatedAt"]) == updated
    assert all(child["conversationUpdatedAt"] == row["updatedAt"] for child in children)


@pytest.mark.parametrize("value", [None, "", [], {}, True, 1.5])
def test_a_record_without_a_usable_id_is_refused(value: object) -> None:
    with pytest.raises(UnusableIdError):
        Maker().make(conversation(id=value))
    with pytest.raises(UnusableIdError):
        Maker().make({})


def test_a_number_can_be_an_id() -> None:
    assert Maker().make(conversation(id=17))[0]["id"] == "17"


def test_position_is_by_time_and_ties_keep_their_order() -> None:
    times = [5, 3, 3, None, 4]
    requests = [
        {"question": str(n), "createdAt": None if at is None else FALLBACK + at}
        for n, at in enumerate(times)
    ]
    _, children = Maker().make(conversation(botRequests=requests))
    assert [(child["position"], child["question"]) for child in children] == [
        (0, "1"),
        (1, "2"),
        (2, "4"),
        (3, "0"),
        (4, "3"),
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def any_record(children: str, parent: Schema, child: Schema) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([*parent["properties"], *child["properties"], children])
    any_object = st.dictionaries(names | st.text(), JSON, max_size=12)
    return st.builds(
        lambda raw, key, inside: {**raw, "id": key, **inside},
        any_object,
        st.text(min_size=1) | st.integers(),
        st.fixed_dictionaries({}, optional={children: st.lists(any_object | JSON, max_size=4)}),
    )


def in_order(found: Any) -> list[dict[str, Any]]:
    """Return the objects of an array, by their time."""
    objects = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    objects.sort(key=lambda item: to_instant(item.get("createdAt")) or math.inf)
    return objects


@given(any_record("botRequests", PARENT_SCHEMA, CHILD_SCHEMA))
def test_any_json_fits_the_schema_and_nothing_is_lost(raw: dict[str, Any]) -> None:
    row, children = Maker().make(raw)
    jsonschema.validate(row, PARENT_SCHEMA)
    assert_kept(raw, row, {"id", "updatedAt", "botRequests"})
    objects = in_order(raw.get("botRequests"))
    assert len(children) == row["botRequestCount"] == len(objects)
    for original, child in zip(objects, children, strict=True):
        jsonschema.validate(child, CHILD_SCHEMA)
        assert_kept(original, child, set())


@given(any_record("events", InteractionsStream.schema, InteractionEventsStream.schema))
def test_any_json_fits_the_schema_of_the_newer_export_too(raw: dict[str, Any]) -> None:
    row, children = event_maker().make(raw)
    jsonschema.validate(row, InteractionsStream.schema)
    assert_kept(raw, row, {"id", "events"})
    objects = in_order(raw.get("events"))
    assert len({child["id"] for child in children}) == row["eventCount"] == len(objects)
    for original, child in zip(objects, children, strict=True):
        jsonschema.validate(child, InteractionEventsStream.schema)
        assert_kept(original, child, {"id"})
        own = original.get("id")
        assert own is None or child.get("extra", {}).get("id", own) == own
        if "id" not in child.get("extra", {}) and own is not None:
            assert child["id"] == str(own)


def assert_kept(raw: dict[str, Any], row: dict[str, Any], special: set[str]) -> None:
    """Each value of the API is in its column, as a time in its column, or in ``extra``."""
    extra = row.get("extra", {})
    for name, value in raw.items():
        if name in extra:
            assert extra[name] == value or name in {"botRequests", "events"}
        elif name in special:
            if name == "updatedAt" and value is not None:
                assert to_instant(row[name]) == to_instant(value)
        elif name in {"createdAt", "externalCreatedAt"} and value is not None:
            assert to_instant(row[name]) == to_instant(value)
        else:
            assert row[name] == value


@given(JSON)
def test_repair_leaves_good_json_alone(value: object) -> None:
    content = json.dumps(value).encode()
    repaired, replaced = repair(content)
    bad = json.dumps(value, ensure_ascii=False).count("\\u0000")
    assert replaced == bad
    if not bad:
        assert json.loads(repaired) == value


@given(st.text(st.characters(exclude_categories=())), st.sampled_from([float("nan"), float("inf")]))
def test_repair_makes_anything_loadable(text: str, number: float) -> None:
    content = json.dumps({text: [text, number, {"deep": number}]}).encode()
    repaired, _ = repair(content)
    (key,) = found = msgspec.json.decode(repaired)
    clean = "".join(
        "\ufffd" if c == "\0" or 0xD800 <= ord(c) < 0xE000 else c
        for c in text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    )
    assert key == clean
    assert found[key] == [clean, json.dumps(number), {"deep": json.dumps(number)}]


def test_repair_counts_what_it_replaces() -> None:
    assert repair(b'{"a": "\\u0000\\ud800\\ud83d\\ude00\\\\u0000", "b": 1e999}') == (
        b'{"a": "\\ufffd\\ufffd\\ud83d\\ude00\\\\u0000", "b": "1e999"}',
        2,
    )
    assert repair(b'\xef\xbb\xbf{"a": "\xff"}') == (b'{"a": "\xef\xbf\xbd"}', 1)
