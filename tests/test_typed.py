"""Rows decoded in one step: the same as those made with care, or none."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_fini.records import FamilyMaker
from tap_fini.streams import (
    CHAT_HISTORY,
    INTERACTIONS,
    BotRequestsStream,
    ConversationsStream,
    InteractionEventsStream,
    InteractionsStream,
)
from tap_fini.typed import TypedDecoder, leave_out
from tests import exports
from tests.sandbox import make_conversations, make_interactions
from tests.support import config_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_fini.records import Shape

START = 1_735_689_600_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One export, and ordinary records of it."""

    export: exports.Export
    shape: Shape
    schemas: tuple[Any, Any]
    make: Callable[..., list[Row]]

    @property
    def children(self) -> str:
        return self.shape.children

    def __str__(self) -> str:
        return self.export.name

    def decode(self, content: bytes) -> Any:
        """Return the rows as they are written, ``None`` if that takes more than one step."""
        families = TypedDecoder(self.shape, *self.schemas).decode(content)
        return families and msgspec.json.decode(msgspec.json.encode(families))

    def with_care(self, content: bytes) -> tuple[Any, list[str]]:
        """Return the rows as they are made of each value, and what was found odd in them."""
        reports: list[str] = []
        maker = FamilyMaker(
            self.shape,
            *self.schemas,
            report_parent=lambda *report: reports.append(" ".join(report)),
            report_child=lambda *report: reports.append(" ".join(report)),
        )
        families = []
        for raw in msgspec.json.decode(content):
            row, children = maker.parent_row(raw, START)
            families.append((row, maker.child_rows(row, children)))
        return msgspec.json.decode(msgspec.json.encode(families)), reports

    def records(self, count: int = 40) -> list[Row]:
        return [r for r in self.make(count, seed=count) if len(r[self.children]) > 1]


CHAT = Kind(
    exports.CHAT_HISTORY,
    CHAT_HISTORY.shape,
    (ConversationsStream.schema, BotRequestsStream.schema),
    make_conversations,
)
NEWER = Kind(
    exports.INTERACTIONS,
    INTERACTIONS.shape,
    (InteractionsStream.schema, InteractionEventsStream.schema),
    make_interactions,
)
BOTH = pytest.mark.parametrize("kind", [CHAT, NEWER], ids=str)


def nested(levels: int) -> Any:
    """Return objects and arrays in turn, each in the one before it."""
    value: Any = 1
    for level in reversed(range(levels)):
        value = [value] if level % 2 else {"a": value}
    return value


@BOTH
def test_ordinary_records(kind: Kind) -> None:
    records = kind.make(300, seed=11)
    rows = [[kind.export.parent_row(r), kind.export.child_rows(r)] for r in records]
    assert kind.decode(msgspec.json.encode(records)) == rows


@BOTH
def test_no_record(kind: Kind) -> None:
    assert kind.decode(b"[]") == []


ACCEPTED: list[tuple[Kind, Row, Row]] = [
    (CHAT, {"updatedAt": "2025-01-01T00:00:01+01:00"}, {}),
    (CHAT, {"createdAt": START + 0.5}, {"createdAt": "2025-06-01T00:00:00.5Z"}),
    (CHAT, {"createdAt": None, "url": None, "categories": None, "hasLinks": None}, {"basedOn": []}),
    (CHAT, {"botRequests": None}, {}),
    (CHAT, {"botRequests": []}, {}),
    (CHAT, {"id": "x" * 500}, {"id": "x" * 1000}),
    (CHAT, {}, {"basedOn": [nested(4), {}]}),
    (NEWER, {"createdAt": None}, {"csatRating": 2**31 - 1}),
    (NEWER, {"events": []}, {}),
    (NEWER, {"userAttributes": nested(4)}, {"id": "x" * 150}),
    (NEWER, {"userAttributes": {"a": [True, 1.5, 2**63, -(2**63), "x", None]}}, {}),
]


@pytest.mark.parametrize(("kind", "fields", "child"), ACCEPTED)
def test_what_needs_no_care(kind: Kind, fields: Row, child: Row) -> None:
    record = kind.records()[0]
    record[kind.children][0] |= child
    content = msgspec.json.encode([record | fields])
    rows, reports = kind.with_care(content)
    assert (kind.decode(content), reports) == (rows, [])


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (CHAT, {"id": "a", "updatedAt": START, "botRequests": [{}]}),
        (NEWER, {"id": "a", "createdAt": START}),
    ],
)
def test_fields_that_are_not_there(kind: Kind, record: Row) -> None:
    content = msgspec.json.encode([record])
    assert (kind.decode(content), []) == kind.with_care(content)


REFUSED: list[tuple[Kind, Row, Row]] = [
    # An id that could not serve as a key, or not as it stands.
    (CHAT, {"id": 7}, {}),
    (CHAT, {"id": ""}, {}),
    (CHAT, {"id": None}, {}),
    (CHAT, {"id": "x" * 501}, {}),
    (NEWER, {}, {"id": 7}),
    (NEWER, {}, {"id": ""}),
    (NEWER, {}, {"id": None}),
    (NEWER, {}, {"id": "x" * 151}),
    # Values of other types.
    (CHAT, {"url": 1}, {}),
    (CHAT, {"hasLinks": 1}, {}),
    (CHAT, {"hasLinks": "true"}, {}),
    (CHAT, {"categories": [None]}, {}),
    (CHAT, {"categories": "a"}, {}),
    (CHAT, {"botRequests": {}}, {}),
    (CHAT, {"botRequests": [None]}, {}),
    (CHAT, {}, {"question": ["?"]}),
    (CHAT, {}, {"basedOn": ["a"]}),
    (CHAT, {}, {"basedOn": {}}),
    (NEWER, {"userAttributes": []}, {}),
    (NEWER, {}, {"csatRating": 2**31}),
    (NEWER, {}, {"csatRating": -1}),
    (NEWER, {}, {"csatRating": 1.5}),
    # Times that are none, or that are missing where one is needed.
    (CHAT, {"updatedAt": None}, {}),
    (CHAT, {"updatedAt": 5}, {}),
    (CHAT, {"updatedAt": "soon"}, {}),
    (CHAT, {"updatedAt": True}, {}),
    (CHAT, {"createdAt": 5}, {}),
    (CHAT, {}, {"createdAt": "soon"}),
    (CHAT, {}, {"createdAt": None}),
    (NEWER, {"createdAt": None, "events": []}, {}),
    (NEWER, {}, {"externalCreatedAt": 5}),
    # Fields that the schema does not know, or that only the tap makes.
    (CHAT, {"new": None}, {}),
    (CHAT, {"extra": {}}, {}),
    (CHAT, {"botRequestCount": 1}, {}),
    (CHAT, {}, {"new": None}),
    (CHAT, {}, {"position": 0}),
    (CHAT, {}, {"conversationId": "a"}),
    (NEWER, {"latestEventAt": START}, {}),
    # What databases refuse.
    (CHAT, {"url": "a\0b"}, {}),
    (CHAT, {}, {"basedOn": [nested(5)]}),
    (NEWER, {"userAttributes": nested(5)}, {}),
]


@pytest.mark.parametrize(("kind", "fields", "child"), REFUSED)
def test_what_needs_care(kind: Kind, fields: Row, child: Row) -> None:
    record = kind.records()[0]
    assert kind.decode(msgspec.json.encode([record])) is not None
    record[kind.children][0] |= child
    assert kind.decode(msgspec.json.encode([record | fields])) is None


@pytest.mark.parametrize("is_field", [True, False])
def test_a_time_of_change_of_another_name(*, is_field: bool) -> None:
    """It may be a field of the stream besides."""
    schemas = copy.deepcopy(CHAT.schemas)
    if is_field:
        properties = schemas[0]["properties"]
        properties["changedAt"] = properties["createdAt"]
    kind = replace(CHAT, shape=replace(CHAT.shape, updated="changedAt"), schemas=schemas)
    record = kind.records()[0]
    record["changedAt"] = record.pop("updatedAt")
    content = msgspec.json.encode([record])
    rows, reports = kind.with_care(content)
    assert (kind.decode(content), reports) == (rows, [])
    ((row, _),) = rows
    assert row.get("changedAt") == (row["updatedAt"] if is_field else None)


def test_only_fields_are_left_out() -> None:
    content = msgspec.json.encode(CHAT.records()[:1])
    ((row, _),) = TypedDecoder(CHAT.shape, *CHAT.schemas).decode(content) or []
    for name in ("url", "extra", "__class__", "__getitem__"):
        leave_out(row, name)
    expected = CHAT.export.parent_row(CHAT.records()[0])
    del expected["url"]
    assert msgspec.json.decode(msgspec.json.encode(row)) == expected


def test_two_events_of_one_id_need_care() -> None:
    record = NEWER.records()[0]
    record["events"][1]["id"] = record["events"][0]["id"]
    assert NEWER.decode(msgspec.json.encode([record])) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"id":"\xff"}]',
        b'[{"id":"\\ud800"}]',
        b'[{"id":"a","updatedAt":1735689600000,"url":NaN}]',
        b'[{"id":"a","updatedAt":1735689600000,"botRequests":[{"basedOn":[{"a":1e999}]}]}]',
        b"[" * 100_000,
    ],
)
def test_text_that_has_to_be_mended(content: bytes) -> None:
    assert CHAT.decode(content) is None


ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.integers(START, START * 2),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.sampled_from(["2025-01-01", "2025-01-01T00:00:00Z", "x" * 151, "x" * 501]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def contents(draw: st.DrawFn, kind: Kind, records: list[Row]) -> bytes:
    """Draw a page of ordinary records in which a few values are not."""
    chosen = copy.deepcopy(draw(st.lists(st.sampled_from(records), min_size=1, max_size=3)))
    objects = [*chosen, *(child for record in chosen for child in record[kind.children])]
    for _ in range(draw(st.integers(0, 2))):
        changed = draw(st.sampled_from(objects))
        name = draw(st.sampled_from(sorted(changed)) | st.text(max_size=3))
        if draw(st.booleans()):
            changed[name] = draw(ODD)
        else:
            changed.pop(name, None)
    return json.dumps(chosen, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@BOTH
def test_both_ways_lead_to_the_same_rows(kind: Kind) -> None:
    records = kind.records()

    @given(contents(kind, records))
    def compare(content: bytes) -> None:
        rows = kind.decode(content)
        assert rows is None or (rows, []) == kind.with_care(content)

    compare()


@BOTH
def test_a_run_decodes_ordinary_pages_in_one_step(kind: Kind) -> None:
    """The order of a row's fields tells which way it came."""
    conversations = make_conversations(60, seed=5)
    in_order = list(kind.schemas[0]["properties"])[:-1]
    with kind.export.sandbox(conversations) as sandbox:
        output = kind.export.run(config_for(sandbox))
        assert kind.export.loaded(output) == kind.export.truth(sandbox)
        rows = output.records(kind.export.streams[0])
        assert [list(row) for row in rows] == [in_order] * 60
        # A surprise, and all of its window's only page is made with care.
        kind.export.world(sandbox).upsert(kind.export.convert(conversations[-1]) | {"new": 1})
        rows = kind.export.run(config_for(sandbox)).records(kind.export.streams[0])
        assert [list(row) == in_order for row in rows] == [True] * 50 + [False] * 10
        assert [row["extra"] for row in rows if "extra" in row] == [{"new": 1}]
