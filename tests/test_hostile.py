"""Hostile and odd data: whatever a response holds, it reaches real databases, or says why not.

Hypothesis makes conversations as JSON text, together with all that JSON text can be. What has to
become of each is worked out here with Python's own parser, and compared value by value: with what
the tap's parts make of it, and with what DuckDB and PostgreSQL hold after a load.

``TAP_FINI_PAYLOADS`` sets how many conversations each of these tests makes.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tap_fini import client
from tap_fini.client import FiniError
from tap_fini.pagination import ExportPage
from tap_fini.records import MAX_CHILD_ID, MAX_ID, MAX_LEVELS, FamilyMaker
from tap_fini.run import PageDecoder
from tap_fini.streams import (
    CHAT_HISTORY,
    BotRequestsStream,
    ConversationsStream,
    InteractionEventsStream,
    InteractionsStream,
)
from tap_fini.streams import INTERACTIONS as DECLARED
from tap_fini.typed import TypedDecoder, TypedRow
from tap_fini.windows import Window
from tests import exports
from tests.expected import (
    BOT_REQUEST_FIELDS,
    CONVERSATION_FIELDS,
    EVENT_FIELDS,
    INTERACTION_FIELDS,
)
from tests.sandbox import Fault, Sandbox, make_conversations
from tests.support import (
    DAY,
    MARKER,
    config_for,
    discover,
    run_command,
    run_tap,
    without_end_of_life,
)
from tests.targets import load, postgres_server, venv
from tests.warehouses import DUCKDB, POSTGRES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tap_fini.export import Export as Declared
    from tests.exports import Export

PAYLOADS = int(os.environ.get("TAP_FINI_PAYLOADS", "300"))
START = 1_735_689_600_000  # config_for's start_date, 2025-01-01
PAGE = 40
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
FORM = ExportPage(CHAT_HISTORY.record_keys, CHAT_HISTORY.shape)

# --- JSON text of every kind ----------------------------------------------------------------------


@dataclass(frozen=True)
class Literal:
    """JSON text that goes out as it stands."""

    text: bytes


@dataclass(frozen=True)
class Pairs:
    """An object whose names may come twice."""

    items: tuple[tuple[str, Any], ...]


ODD_TEXTS = (
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "{}",
    "[]",
    '"',
    "''",
    "a,b;c|d\te",
    "line\nbreak\r\nbreak\rend",
    "'; DROP TABLE conversations; --",
    "\0",
    "a\0b",
    "\ud800",
    "x\udfffy",
    "\ud83d",
    "👩🏽‍🚀🏳️‍🌈",
    "שלום עולם",
    "مرحبا\u202eabc\u202c",
    "e\u0301\u200d\ufeff\ufffe\uffff",
    "\x1b[31mERROR\x1b[0m",
    "\x7f\x80\x9f\u2028\u2029",
    "\\u0000",
    "\\\\u0000\\",
    "\\",
    "C:\\new\\table",
    "%s %(name)s {0} ${HOME}",
    "1740407178879",
    "NaN",
    "true",
    "2025-02-24",
    "x" * 5000,
    "é" * 3000,
)
LITERALS = (
    b"NaN",
    b"-Infinity",
    b"Infinity",
    b"1e999",
    b"-1e999",
    b"1e308",
    b"5e-324",
    b"1e-999",
    b"-0",
    b"-0.0",
    b"1.0",
    b"0.1e1",
    b"12345678901234567890.123456789",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"1" * 30,
    b"9" * 400,
    b"-" + b"9" * 4299,
    b"9" * 4300,
    b"-" + b"9" * 4300,
    b"9" * 400 + b".5",
    b'"\xff\xfe"',
    b'"\xed\xa0\x80 \xc3("',
    b'"caf\xe9"',
    b'"\x00 raw"',
    b'"raw\ttab\nline"',
    b'"\\ud83d\\ude00 \\ud83d\\u0041 \\uDC00\\uD800"',
    b'"\\/ \\b\\f\\n\\r\\t \\" \\\\ \\u0041"',
    b" \r\n\t[ ]\n",
    b"[" * 10 + b"]" * 10,
    b"[" * 66 + b"]" * 66,
    b'{"a":' * 150 + b'"x"' + b"}" * 150,
    b'["]",{"}":' * 60 + b"1" + b"}]" * 60,
)
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(exclude_categories=()), max_size=20)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(LITERALS).map(Literal)
)
NAMES = (
    st.sampled_from(
        [
            *(
                "",
                " ",
                "id",
                "extra",
                "position",
                "conversationId",
                "botRequestCount",
                "interactionId",
                "latestEventAt",
                "ID",
                "Extra",
            ),
            *("_sdc_deleted_at", "__proto__", "a.b", 'a"b', "a'b", "a\nb", "a\0b", "\ud800", "🙂"),
            *("n" * 300, "n" * 5000, "$ref", "\x1b[2J", "createdat", "conversationUpdatedAt"),
        ]
    )
    | TEXTS
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.tuples(NAMES, inner), max_size=4).map(lambda items: Pairs(tuple(items)))
    ),
    max_leaves=10,
)
TIMES = (
    st.integers(START, START + 10**10)
    | st.sampled_from(
        [
            *(
                1740407178,
                1740407178.879,
                -5,
                0,
                10**11 - 1,
                10**11,
                253402300799999,
                253402300800000,
            ),
            *(
                "2025-02-24T14:26:18.879Z",
                "2025-02-24T14:26:18+05:30",
                "2025-02-24",
                "soon",
                "",
                None,
            ),
            *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"),
            *("10000-01-01T00:00:00Z", "1740407178879", True, 1740407178879.5, [], [1740407178879]),
            *(
                Literal(b"NaN"),
                Literal(b"1.740407178879e12"),
                Literal(b"9" * 5000),
                Literal(b"1e999"),
            ),
        ]
    )
    | VALUES
)
BASED_ON = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["id", "title", "score", "entry", "answer"]) | NAMES, VALUES),
        max_size=4,
    ).map(lambda items: Pairs(tuple(items))),
    max_size=3,
)
TEXT_FIELDS = ("externalId", "userId", "source", "channel", "feedbackType", "url")


def _field(*proper: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*proper, st.none(), VALUES)


FLAGS = dict.fromkeys(("escalation", "expectingUserFollowup"), _field(st.booleans()))
CATEGORIES = _field(st.lists(TEXTS, max_size=4))
UNKNOWN = st.lists(st.tuples(NAMES, VALUES), max_size=2)


def _pairs(known: dict[str, Any], unknown: list[tuple[str, Any]]) -> Pairs:
    return Pairs((*known.items(), *unknown))


BOT_REQUESTS = st.builds(
    _pairs,
    st.fixed_dictionaries(
        {"basedOn": st.one_of(BASED_ON, st.lists(VALUES, max_size=2), VALUES)},
        optional={
            **FLAGS,
            **dict.fromkeys(
                ("id", "question", "answer", "reasoning", "feedbackType"), _field(TEXTS)
            ),
            "categories": CATEGORIES,
            "createdAt": TIMES,
        },
    ),
    UNKNOWN,
)
CONVERSATION_PARTS = {
    **FLAGS,
    **dict.fromkeys(TEXT_FIELDS, _field(TEXTS)),
    "hasLinks": _field(st.booleans()),
    "categories": CATEGORIES,
    "createdAt": TIMES,
    "updatedAt": TIMES,
}
PARTS_OF_ALL = st.fixed_dictionaries({}, optional=CONVERSATION_PARTS) | st.one_of(
    [
        st.fixed_dictionaries({"botRequests": requests}, optional=CONVERSATION_PARTS)
        for requests in (
            st.lists(BOT_REQUESTS, min_size=1, max_size=4),
            st.lists(BOT_REQUESTS | VALUES, max_size=4),
            VALUES,
        )
    ]
)
CONVERSATIONS = st.builds(_pairs, PARTS_OF_ALL, UNKNOWN)
OBJECTS = st.one_of(BASED_ON, st.lists(VALUES, max_size=2), VALUES)
EVENT_IDS = st.sampled_from(["e1", "e2", 1, "1", "position:1", "", "x" * 151, None]) | VALUES
EVENTS = st.builds(
    _pairs,
    st.fixed_dictionaries(
        {},
        optional={
            "id": EVENT_IDS,
            **dict.fromkeys(("role", "type", "message", "externalId", "feedback"), _field(TEXTS)),
            **dict.fromkeys(("createdAt", "externalCreatedAt"), TIMES),
            "csatRating": _field(st.sampled_from([0, 5, -1, 2**31 - 1, 2**31])),
            **dict.fromkeys(("approved", "resolved"), _field(st.booleans())),
            **dict.fromkeys(("attachments", "usedArticles"), OBJECTS),
            "tags": CATEGORIES,
        },
    ),
    UNKNOWN,
)
INTERACTION_PARTS = {
    **dict.fromkeys(
        ("externalId", "source", "channel", "status", "url", "subjectPreview"), _field(TEXTS)
    ),
    **dict.fromkeys(("hasFeedback", "resolved"), _field(st.booleans())),
    "userAttributes": _field(
        st.lists(st.tuples(NAMES, VALUES), max_size=4).map(lambda items: Pairs(tuple(items)))
    ),
    **dict.fromkeys(("usedArticles", "usedSubfolders"), OBJECTS),
    "createdAt": TIMES,
}
INTERACTIONS = st.builds(
    _pairs,
    st.fixed_dictionaries({}, optional=INTERACTION_PARTS)
    | st.one_of(
        [
            st.fixed_dictionaries({"events": events}, optional=INTERACTION_PARTS)
            for events in (
                st.lists(EVENTS, min_size=1, max_size=4),
                st.lists(EVENTS | VALUES, max_size=4),
                VALUES,
            )
        ]
    ),
    UNKNOWN,
)
RECORDS = {"conversations": CONVERSATIONS, "interactions": INTERACTIONS}
KEYS = st.sampled_from(["", "-é", "-🙂", "-'\"", "-a,b", "-\n", " ", "-" + "k" * 400])


def json_text(value: Any, *, ascii_only: bool) -> bytes:
    """Write JSON text, lone surrogates as escapes."""
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, Pairs):
        inside = (
            json_text(name, ascii_only=ascii_only) + b": " + json_text(inner, ascii_only=ascii_only)
            for name, inner in value.items
        )
        return b"{" + b",".join(inside) + b"}"
    if isinstance(value, list):
        return b"[" + b" ,".join(json_text(v, ascii_only=ascii_only) for v in value) + b"]"
    if isinstance(value, str) and not ascii_only:
        quoted = json.dumps(value, ensure_ascii=False)
        return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", quoted).encode()
    return json.dumps(value).encode()


@st.composite
def payloads(draw: st.DrawFn, name: str = "conversations") -> Callable[[int], bytes]:
    """Draw a conversation or an interaction, whose id is still to be given a number."""
    pairs, key = draw(RECORDS[name]), draw(KEYS)
    ascii_only, last = draw(st.booleans()), draw(st.booleans())

    def numbered(number: int) -> bytes:
        key_pair = ("id", f"{number}{key}" if key else number)
        items = (*pairs.items, key_pair) if last else (("id", "x"), *pairs.items, key_pair)
        return json_text(Pairs(items), ascii_only=ascii_only)

    return numbered


def page(
    records: Sequence[bytes], *, cursor: str | None = None, key: str = "conversations"
) -> bytes:
    more = b"false" if cursor is None else b'true,"nextCursor":"' + cursor.encode() + b'"'
    return b'{"%b":[' % key.encode() + b",\n".join(records) + b'],"hasMore":' + more + b"}"


# --- what has to become of it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Deep:
    """What is nested too deeply: its JSON has to be there as a text."""

    value: Any


def read(content: bytes) -> Any:
    """Read JSON text as it has to be understood."""

    def number(text: str) -> Any:
        if text.lstrip("-").isdecimal():
            return int(text) if len(text) <= 4300 else text
        value = float(text)
        return value if math.isfinite(value) else text

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            # Halves of a pair that meet make a whole; others are replaced.
            whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return whole.replace("\0", "\ufffd")
        if isinstance(value, list):
            return [clean(inner) for inner in value]
        return value

    def clean_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {clean(name): clean(value) for name, value in pairs}

    text = content.decode("utf-8", errors="replace")
    decoder = json.JSONDecoder(
        object_pairs_hook=clean_object,
        parse_constant=str,
        parse_int=number,
        parse_float=number,
        strict=False,
    )
    return clean(decoder.decode(text))


def instant(value: Any) -> int | None:
    """Milliseconds since 1970, of what is a time."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=timezone.utc)
            return (moment.astimezone(timezone.utc) - EPOCH) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 10**11 <= value < 253402300800000 else None


def time_of(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def shallow(value: Any, levels: int) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    if not levels:
        return Deep(value)
    if isinstance(value, dict):
        return {name: shallow(inner, levels - 1) for name, inner in value.items()}
    return [shallow(inner, levels - 1) for inner in value]


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (
            *("escalation", "hasLinks", "expectingUserFollowup"),
            *("hasFeedback", "approved", "resolved"),
        ),
        lambda v: isinstance(v, bool),
    ),
    **dict.fromkeys(("categories", "tags"), lambda v: _are(v, str)),
    **dict.fromkeys(
        ("basedOn", "attachments", "usedArticles", "usedSubfolders"), lambda v: _are(v, dict)
    ),
    "userAttributes": lambda v: isinstance(v, dict),
    "csatRating": lambda v: type(v) is int and 0 <= v < 2**31,
}


def row_of(raw: dict[str, Any], names: tuple[str, ...], levels: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys((*names, "createdAt"))
    times = {"createdAt", *({"externalCreatedAt"} & {*names})}
    extra: dict[str, Any] = {}
    for name, value in raw.items():
        if name in times and (value is None or instant(value) is not None):
            row[name] = None if value is None else time_of(instant(value) or 0)
        elif name in {*names} - times and (
            value is None or FITS.get(name, lambda v: isinstance(v, str))(value)
        ):
            row[name] = shallow(value, levels)
        else:
            extra[name] = shallow(value, levels)
    return {**row, "extra": extra or None}


def children_of(
    raw: dict[str, Any], name: str, extra: dict[str, Any]
) -> tuple[list[dict[str, Any]], int | None]:
    """Return what is inside a record, by its time, and the latest of these times."""
    found = raw.get(name)
    children = []
    if isinstance(found, list):
        children = [item for item in found if isinstance(item, dict)]
        others = [item for item in found if not isinstance(item, dict)]
        if others:
            extra[name] = shallow(others, MAX_LEVELS)
    elif found is not None:
        extra[name] = shallow(found, MAX_LEVELS)

    def when(child: dict[str, Any]) -> float:
        at = instant(child.get("createdAt"))
        return math.inf if at is None else at

    children.sort(key=when)
    return children, max((int(at) for at in map(when, children) if at < math.inf), default=None)


def conversation_family(raw: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the rows that a conversation has to become."""
    rest = {k: v for k, v in raw.items() if k not in {"id", "updatedAt", "botRequests"}}
    row = row_of(rest, CONVERSATION_FIELDS, MAX_LEVELS)
    extra = row["extra"] or {}
    children, latest = children_of(raw, "botRequests", extra)
    updated = instant(raw.get("updatedAt"))
    if updated is None and raw.get("updatedAt") is not None:
        extra["updatedAt"] = shallow(raw["updatedAt"], MAX_LEVELS)
    known = [at for at in (updated, instant(raw.get("createdAt")), latest) if at is not None]
    changed = time_of([*known, START][0])
    key = str(raw["id"])
    row |= {
        "id": key,
        "updatedAt": changed,
        "botRequestCount": len(children),
        "extra": extra or None,
    }
    keys = {"conversationId": key, "conversationUpdatedAt": changed}
    rows = [
        {**row_of(child, BOT_REQUEST_FIELDS, MAX_LEVELS - 2), **keys, "position": position}
        for position, child in enumerate(children)
    ]
    return row, rows


def interaction_family(raw: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the rows that an interaction has to become."""
    rest = {k: v for k, v in raw.items() if k not in {"id", "events"}}
    row = row_of(rest, INTERACTION_FIELDS, MAX_LEVELS)
    extra = row["extra"] or {}
    children, latest = children_of(raw, "events", extra)
    known = [at for at in (latest, instant(raw.get("createdAt"))) if at is not None]
    changed = time_of([*known, START][0])
    key = str(raw["id"])
    row |= {
        "id": key,
        "latestEventAt": changed,
        "eventCount": len(children),
        "extra": extra or None,
    }
    keys = {"interactionId": key, "interactionLatestEventAt": changed}
    names = tuple(name for name in (*EVENT_FIELDS, "externalCreatedAt") if name != "id")
    own = [event_id(child.get("id")) for child in children]
    rows = []
    for position, child in enumerate(children):
        inside = row_of({k: v for k, v in child.items() if k != "id"}, names, MAX_LEVELS - 2)
        inside |= {**keys, "position": position, "id": own[position]}
        if own[position] is None or own[position] in own[:position]:
            made = f"position:{position}"
            while made in own:
                made = f"position:{made}"
            inside["id"] = made
            if child.get("id") is not None:
                put_aside = {"id": shallow(child["id"], MAX_LEVELS - 2)}
                inside["extra"] = {**(inside["extra"] or {}), **put_aside}
        rows.append(inside)
    return row, rows


def event_id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_CHILD_ID else None


@dataclass(frozen=True)
class Kind:
    """An export, what may come from it, and what has to become of that."""

    export: Export
    declared: Declared
    key: str
    schemas: tuple[dict[str, Any], dict[str, Any]]
    family_of: Callable[[dict[str, Any]], tuple[dict[str, Any], list[dict[str, Any]]]]

    def __str__(self) -> str:
        return self.export.name


CHAT = Kind(
    exports.CHAT_HISTORY,
    CHAT_HISTORY,
    "conversations",
    (ConversationsStream.schema, BotRequestsStream.schema),
    conversation_family,
)
NEWER = Kind(
    exports.INTERACTIONS,
    DECLARED,
    "interactions",
    (InteractionsStream.schema, InteractionEventsStream.schema),
    interaction_family,
)
BOTH = pytest.mark.parametrize("kind", [CHAT, NEWER], ids=str)


def same(expected: Any, actual: Any, *, empty: bool = True) -> bool:
    """Compare a value with what is held, where ``empty`` texts may be kept as such or not."""
    if isinstance(expected, Deep):
        return isinstance(actual, str) and same(expected.value, read(actual.encode()))
    if isinstance(expected, datetime):
        return isinstance(actual, str) and expected == time_of(instant(actual) or 0)
    if expected == "" and not empty:
        expected = None
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and expected.keys() == actual.keys()
            and all(same(value, actual[name]) for name, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
            and len(expected) == len(actual)
            and all(map(same, expected, actual))
        )
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        return expected == float(actual) and not isinstance(actual, bool)
    return type(expected) is type(actual) and bool(expected == actual)


def differences(expected: dict[str, Any], actual: dict[str, Any], *, empty: bool = True) -> str:
    """Say in which columns two rows differ."""
    expected = {k: v for k, v in expected.items() if v is not None}
    actual = {k: v for k, v in actual.items() if v is not None}
    return "; ".join(
        f"{name}: {str(expected.get(name))[:300]!a} became {str(actual.get(name))[:300]!a}"
        for name in sorted({*expected, *actual})
        if not same(expected.get(name), actual.get(name), empty=empty)
    )


def compare(
    payloads: Sequence[bytes],
    parents: Sequence[dict[str, Any]],
    children: Sequence[dict[str, Any]],
    *,
    kind: Kind = CHAT,
    empty: bool = True,
) -> None:
    """Compare what a target holds with what the records have to become."""
    wrong: list[str] = []
    held = kind.export.by_key(list(parents), list(children))
    assert tuple(map(len, held)) == (len(parents), len(children))
    families = [kind.family_of(read(payload)) for payload in payloads]
    expected = kind.export.by_key(
        [row for row, _ in families], [row for _, rows in families for row in rows]
    )
    for found, wanted in zip(held, expected, strict=True):
        assert found.keys() == wanted.keys()
        wrong += [differences(row, found[key], empty=empty) for key, row in wanted.items()]
    assert [text for text in wrong if text] == []


# --- through the tap's parts ----------------------------------------------------------------------


def through_the_parts(
    body: bytes, kind: Kind = CHAT
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the rows of a response, as the messages have them."""
    shape, schemas = kind.declared.shape, kind.schemas
    maker = FamilyMaker(
        shape, *schemas, report_parent=lambda *_: None, report_child=lambda *_: None
    )
    page = ExportPage(kind.declared.record_keys, shape).parse(body)

    def families(typed: TypedDecoder | None) -> Any:
        decoder = PageDecoder(shape, maker, typed, logging.getLogger("parts"))
        rows = [
            (row, children if isinstance(row, TypedRow) else maker.child_rows(row, children))
            for row, children in decoder.families(Window(START, START + 1), page)
        ]
        return json.loads(msgspec.json.encode(rows))

    quick, careful = families(TypedDecoder(shape, *schemas)), families(None)
    assert quick == careful
    return [row for row, _ in quick], [child for _, children in quick for child in children]


@BOTH
def test_any_record_becomes_the_rows_it_has_to(kind: Kind) -> None:
    @settings(
        max_examples=-(-PAYLOADS // 2), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(payloads(kind.key))
    def compare_one(numbered: Callable[[int], bytes]) -> None:
        payload = numbered(1)
        body = page([payload], key=kind.key)
        compare([payload], *through_the_parts(body, kind), kind=kind)

    compare_one()


@BOTH
def test_the_heads_agree_with_the_rows(kind: Kind) -> None:
    """The reader goes by the times of the heads before any record is decoded."""

    @settings(
        max_examples=-(-PAYLOADS // 6), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(payloads(kind.key))
    def compare_one(numbered: Callable[[int], bytes]) -> None:
        body = page([numbered(1)], key=kind.key)
        form = ExportPage(kind.declared.record_keys, kind.declared.shape)
        (row,), _ = through_the_parts(body, kind)
        found = form.parse(body)
        assert found.ids == (row["id"],)
        (updated,) = map(instant, found.updated)
        if updated is not None:
            key = kind.declared.shape.replication_key
            assert instant(row[key]) == instant(time_of(updated).isoformat())

    compare_one()


def generated(kind: Kind = CHAT) -> list[bytes]:
    """Return many records, each with an id of its own."""
    found: list[bytes] = []

    @settings(
        max_examples=PAYLOADS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads(kind.key))
    def collect(numbered: Callable[[int], bytes]) -> None:
        found.append(numbered(len(found)))

    collect()
    return found


# --- through the tap ------------------------------------------------------------------------------


@contextmanager
def serving(*bodies: bytes) -> Iterator[Sandbox]:
    """Answer the first requests with these bodies, any later ones with the first again."""
    with Sandbox() as sandbox:
        sandbox.faults = [
            *(Fault("wrong_shape", at=n, body=body) for n, body in enumerate(bodies, 1)),
            Fault("wrong_shape", body=bodies[0]),
        ]
        yield sandbox


def pages_of(payloads: Sequence[bytes], key: str = "conversations") -> list[bytes]:
    parts = [payloads[start : start + PAGE] for start in range(0, len(payloads), PAGE)]
    cursors = [*(f"cursor-{n}" for n in range(1, len(parts))), None]
    return [page(part, cursor=cursor, key=key) for part, cursor in zip(parts, cursors, strict=True)]


def one_window(sandbox: Sandbox, **more: object) -> dict[str, Any]:
    """Return settings by which the requests are the pages of one window."""
    dates = {"end_date": "2025-01-20T00:00:00Z", "max_concurrent_requests": 1}
    return config_for(sandbox, **dates, request_timeout=60, **more)


# --- one thing at a time --------------------------------------------------------------------------


def conversation(key: object = "c1", **fields: object) -> dict[str, Any]:
    return {"id": key, "createdAt": START + 1, "updatedAt": START + 2, "botRequests": [], **fields}


def dumped(*conversations: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"conversations": conversations, "hasMore": False, **more}).encode()


def output_of(*bodies: bytes, fails: type[BaseException] | None = None, **config: object) -> Any:
    with serving(*bodies) as sandbox:
        return run_tap(one_window(sandbox, **config), fails=fails)


def versions(*times: int, key: object = "twice") -> list[bytes]:
    return [
        json.dumps(
            conversation(
                key, updatedAt=START + at * DAY, url=f"v{at}", botRequests=[{"answer": f"v{at}"}]
            )
        ).encode()
        for at in times
    ]


@pytest.mark.parametrize("times", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (2, 2, 1), (1, 3, 3)])
@pytest.mark.parametrize("apart", [False, True], ids=["same page", "other pages"])
def test_of_two_conversations_with_one_id_the_newest_wins(
    times: tuple[int, ...], *, apart: bool
) -> None:
    found = versions(*times)
    other = [json.dumps(conversation(f"other{n}")).encode() for n in range(3)]
    bodies = [page([*found, *other])]
    if apart:
        bodies = [
            page([one, another], cursor=f"cursor-{n}" if n < 2 else None)
            for n, (one, another) in enumerate(zip(found, other, strict=True))
        ]
    output = output_of(*bodies)
    held = {row["id"]: row for row in output.records("conversations")}
    assert len(held) == 4
    newest = f"v{max(times)}"
    assert held["twice"]["url"] == newest
    assert [r["answer"] for r in output.records("bot_requests")][-1] == newest


@pytest.mark.parametrize(
    "key",
    [None, "", [], ["a"], {}, {"id": "a"}, True, False, 1.5, "x" * 501, 10**501],
    ids=lambda key: str(key)[:12],
)
def test_what_has_no_usable_id_is_refused_in_one_sentence(key: object) -> None:
    output = output_of(dumped(conversation(), conversation(key)), fails=FiniError)
    assert str(output.error) == (
        "Fini returned a record without a usable 'id' (a whole number, or a text of up to 500 "
        "characters) in the window 2025-01-01T00:00:00.000Z to 2025-01-20T00:00:00.000Z: no "
        "target could load it; report it to Fini, or read around it with 'start_date' and "
        "'end_date'."
    )
    assert output.states == []


def test_a_missing_id_is_refused_too() -> None:
    raw = conversation()
    del raw["id"]
    assert "usable 'id'" in str(output_of(dumped(raw), fails=FiniError).error)


def test_an_id_may_be_a_number_or_long() -> None:
    keys = [17, 0, -3, 10**400, "é" * 500, " ", "\n", "null"]
    output = output_of(dumped(*map(conversation, keys)))
    assert [row["id"] for row in output.records("conversations")] == [str(key) for key in keys]


# --- nesting --------------------------------------------------------------------------------------


def nested(depth: int, kind: str) -> bytes:
    if kind == "arrays":
        return b"[" * depth + b"]" * depth
    if kind == "objects":
        return b'{"a":' * depth + b"1" + b"}" * depth
    # Brackets in texts, to deceive whoever only counts.
    return b'["]}",{"}\\"]":' * (depth // 2) + b'"[{"' + b"}]" * (depth // 2)


def descended(value: Any) -> tuple[int, Any]:
    """Go down to the innermost value; return how deep it is, and it."""
    levels = 0
    while isinstance(value, (dict, list)) and value:
        value = [*(value.values() if isinstance(value, dict) else value)][-1]
        levels += 1
    return levels, value


@pytest.mark.parametrize("kind", ["arrays", "objects", "deceptive"])
@pytest.mark.parametrize("depth", [56, 60, 62, 64, 66, 300, 900, 940, 960, 1000, 1100, 200_000])
def test_deep_nesting_is_kept(depth: int, kind: str) -> None:
    """Also where Python's parser or writer is about to give up, at about 1,000 levels."""
    deep = nested(depth, kind)
    payload = (
        b'{"id":"c1","updatedAt":%d,"url":%b,"mood":%b,"botRequests":[{"basedOn":[{"of":%b}]}]}'
        % (START, deep, deep, deep)
    )
    output = output_of(page([payload]))
    ((row,), (request,)) = output.records("conversations"), output.records("bot_requests")
    values = (row["extra"]["url"], row["extra"]["mood"], request["basedOn"][0]["of"])
    for value, levels in zip(values, (MAX_LEVELS, MAX_LEVELS, MAX_LEVELS - 4), strict=True):
        text = json.dumps(value, separators=(",", ":"))
        if depth > levels:
            reached, rest = descended(value)
            assert (reached, type(rest)) == (levels, str)
            text = text.replace(json.dumps(rest), rest)
        assert text.encode() == deep
    assert ("too deeply" in output.text) == (depth > MAX_LEVELS - 4)


@pytest.mark.parametrize(
    "hostile",
    [
        b'"' + b'\\"' * 2_000_000,
        b"9" * 2_000_000,
        b'"' + b"\\u0041" * 500_000 + b'", "x": NaN',
        b'"' + b"\\" * 1_000_001,
        b"[" * 1_000_000,
        b"[" * 300_000 + b"]" * 300_000 + b', "x": NaN',
        b'"' + b"\\ud800" * 300_000 + b'"',
        b"-" * 1_000_000,
        b'"\xff' + b"x" * 5_000_000 + b'"',
    ],
    ids=range(9),
)
def test_no_text_takes_its_repair_forever(hostile: bytes) -> None:
    """A pattern that goes back and forth takes hours over these; one pass takes seconds."""
    began = datetime.now(tz=timezone.utc)
    with suppress(msgspec.DecodeError):
        FORM.parse(page([b'{"id":"a","v":' + hostile + b"}"])).records()
    assert datetime.now(tz=timezone.utc) - began < timedelta(seconds=15)


# --- what is replaced, counted and warned of ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "became", "count"),
    [
        (b'"a\\u0000b"', "a\ufffdb", 1),
        (b'"a\x00b"', "a\ufffdb", 1),
        (b'"\\ud800"', "\ufffd", 1),
        (b'"\\udc00\\ud800"', "\ufffd\ufffd", 2),
        (b'"\\ud83d\\ude00"', "😀", 0),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd😀", 1),
        (b'"\xff"', "\ufffd", 1),
        (b'"\\\\u0000"', "\\u0000", 0),
        (b'"\\\\\\u0000"', "\\\ufffd", 1),
        (b'"\xef\xbf\xbd"', "\ufffd", 0),
        # Together with what only a whole page's repair can read.
        (b'"a\\u0000b", "other": NaN', "a\ufffdb", 1),
        (b'"\xff", "other": \t1e999', "\ufffd", 1),
    ],
    ids=range(12),
)
def test_what_databases_refuse_is_replaced_counted_and_warned_of(
    text: bytes, became: str, count: int
) -> None:
    payload = b'{"id":"c1","updatedAt":%d,"botRequests":[{"question":%b}]}' % (START, text)
    output = output_of(page([payload]))
    assert [row["question"] for row in output.records("bot_requests")] == [became]
    warnings = [line for line in output.log if "Replaced" in line]
    assert [re.findall("Replaced ([0-9]+) characters", line) for line in warnings] == (
        [[str(count)]] if count else []
    )


@pytest.mark.parametrize("updated", [{}, {"updatedAt": None}, {"updatedAt": []}, {"updatedAt": 17}])
def test_without_updated_at_created_at_serves_with_a_warning(updated: dict[str, Any]) -> None:
    raw = {"id": "c1", "createdAt": START + 5, **updated}
    output = output_of(dumped(raw))
    (row,) = output.records("conversations")
    assert row["updatedAt"] == row["createdAt"] == "2025-01-01T00:00:00.005Z"
    assert "Field 'updatedAt' of 'conversations' has no usable value, so 'createdAt'" in output.text


@pytest.mark.parametrize("odd", [[], {"a": 1}, "2025-01-02T00:00:00Z", 1.5, None, True, [[]]])
def test_odd_times_do_not_disturb_the_paging(odd: object) -> None:
    rows = [conversation(f"c{n}", updatedAt=odd, createdAt=odd) for n in range(6)]
    bodies = [page([json.dumps(r).encode() for r in rows[:3]], cursor="next")]
    bodies.append(page([json.dumps(r).encode() for r in rows[3:]]))
    output = output_of(*bodies)
    assert [row["id"] for row in output.records("conversations")] == [f"c{n}" for n in range(6)]


def test_a_response_that_is_too_large_is_refused_with_advice() -> None:
    answer = "x" * (client.MAX_BODY // 4)
    requests = [{"answer": answer} for _ in range(4)]
    output = output_of(dumped(conversation(botRequests=requests)), fails=FiniError)
    assert str(output.error) == (
        "Fini sent a response of more than 64 MiB: set 'page_size' to a lower number."
    )
    assert output.states == []


def test_a_response_just_below_the_limit_is_read() -> None:
    answer = "x" * (client.MAX_BODY // 4 - 200)
    requests = [{"answer": answer} for _ in range(4)]
    output = output_of(dumped(conversation(botRequests=requests)))
    assert [len(row["answer"]) for row in output.records("bot_requests")] == [len(answer)] * 4


# --- the log --------------------------------------------------------------------------------------

LINE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]+ \| [A-Z]+ +\| [^|]+ \| ")
FORGERY = (
    "x\n2025-01-01 00:00:00,000 | ERROR    | tap-fini | forged\r\x1b[31m\x1b]0;t\x07\u2028\x85"
)


def assert_is_clean(log: str) -> None:
    """Each line begins as the tap's own lines do, and holds nothing that a terminal obeys."""
    lines = log.removesuffix("\n").split("\n")
    assert lines
    for line in lines:
        assert LINE.match(line), line
        assert line.isprintable(), ascii(line)
    assert not any(line.split(" | ")[-1] == "forged" for line in lines)


def logged(sandbox: Sandbox, folder: Path, **config: object) -> tuple[int, str]:
    path = folder / "config.json"
    path.write_text(json.dumps(one_window(sandbox, **config)), encoding="utf-8")
    ended = run_command("--config", str(path), env={"TAP_FINI_LOGLEVEL": "DEBUG", **os.environ})
    return ended.returncode, without_end_of_life(ended.stderr)


def test_field_names_cannot_forge_log_lines(tmp_path: Path) -> None:
    child = {FORGERY: 1, "createdAt": [FORGERY], "basedOn": [{FORGERY: 1}]}
    raw = conversation(FORGERY, **{FORGERY * 20: 1, "url": [1], "\x1b[2J": 2}, botRequests=[child])
    with serving(dumped(raw)) as sandbox:
        status, log = logged(sandbox, tmp_path)
    assert status == 0
    assert_is_clean(log)
    assert log.count("is a field this version does not know") == 3


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({FORGERY: 1, FORGERY * 100: 2}).encode(),
        json.dumps({"conversations": {FORGERY: 1}, "hasMore": False}).encode(),
        json.dumps({"conversations": [conversation({FORGERY: 1})], "hasMore": False}).encode(),
    ],
    ids=range(3),
)
def test_bodies_cannot_forge_log_lines(body: bytes, tmp_path: Path) -> None:
    with serving(body) as sandbox:
        status, log = logged(sandbox, tmp_path)
    assert status == 1
    assert_is_clean(log)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418])
def test_error_messages_cannot_forge_log_lines(status: int, tmp_path: Path) -> None:
    body = json.dumps({"message": FORGERY * 30, "error": FORGERY, "statusCode": FORGERY}).encode()
    with Sandbox() as sandbox:
        sandbox.faults = [Fault("wrong_shape", status=status, body=body)]
        code, log = logged(sandbox, tmp_path)
    assert code == 1
    assert_is_clean(log)
    assert len(log.splitlines()[-1]) < 600


@pytest.mark.parametrize(
    "head",
    [
        b"X-A: 1\r\nno header at all | ERROR | forged\r\n",
        b"X-B: a\n\x1b[31m | ERROR | forged\r\n",
        b" forged\r\nX-C: 1\r\n",
        b": forged\r\n",
    ],
    ids=range(4),
)
def test_broken_headers_bring_neither_their_text_nor_the_filters_into_the_log(head: bytes) -> None:
    """The HTTP library warns of such headers, with their text and the whole address."""
    body = dumped()
    with socket.create_server(("127.0.0.1", 0)) as listener, Sandbox() as sandbox:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\n%bConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                    % (head, len(body), body)
                )

        thread = threading.Thread(target=answer)
        thread.start()
        config = {**one_window(sandbox, question=MARKER), "api_url": f"http://127.0.0.1:{port}"}
        output = run_tap(config)
        thread.join()
    assert "forged" not in output.text
    assert MARKER not in output.text


# --- states and catalogs --------------------------------------------------------------------------

STATE_NAMES = st.sampled_from(
    [
        *("replication_key", "replication_key_value", "partitions", "progress_markers", "context"),
        *("starting_replication_value", "replication_key_signpost", "filters", "source", "version"),
        *("bookmarks", "conversations", "bot_requests", "singer_state", "gone"),
    ]
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        [10**400, "", "updatedAt", "2999-01-01T00:00:00.000Z", "2025-01-05T00:00:00.000Z", "now"]
    )
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STATE_NAMES, inner, max_size=4),
    max_leaves=8,
)
BOOKMARKS = st.fixed_dictionaries(
    {},
    optional={
        name: st.fixed_dictionaries(
            {},
            optional={
                "replication_key": st.just("updatedAt") | st.just("conversationUpdatedAt") | JUNK,
                "replication_key_value": st.just("2025-01-05T00:00:00.000Z") | JUNK,
                "starting_replication_value": JUNK,
                "progress_markers": st.dictionaries(STATE_NAMES, JUNK, max_size=3) | JUNK,
                "partitions": st.lists(st.dictionaries(STATE_NAMES, JUNK, max_size=3)) | JUNK,
                "filters": st.dictionaries(STATE_NAMES, JUNK, max_size=3) | JUNK,
                "context": JUNK,
            },
        )
        | JUNK
        for name in ("conversations", "bot_requests", "gone")
    },
)
STATES = st.fixed_dictionaries({"bookmarks": BOOKMARKS | JUNK}) | JUNK.filter(
    lambda junk: isinstance(junk, (dict, list))
)


def outcome(sandbox: Sandbox, **given: Any) -> str:
    """Run the tap; return its one sentence, or nothing after a whole run.

    Raises:
        Exception: anything that would be no sentence for the user.
    """
    try:
        run_tap(one_window(sandbox), **given)
    except FiniError as error:
        sentence = str(error)
        assert sentence.isprintable()
        assert len(sentence) < 400
        return sentence
    return ""


@settings(max_examples=PAYLOADS, deadline=None, suppress_health_check=list(HealthCheck))
@given(STATES)
def test_any_state_is_used_or_refused_in_one_sentence(state: Any) -> None:
    kept = copy.deepcopy(state)
    with Sandbox() as sandbox:
        sentence = outcome(sandbox, state=state)
    assert sentence == "" or "state" in sentence, kept


@pytest.mark.parametrize(
    "bookmark",
    [
        {"partitions": [{}]},
        {"partitions": [{"context": {}}, {}]},
        {"partitions": {"context": {}}},
        {"filters": ["source"]},
        {"progress_markers": [1]},
        {"replication_key": "updatedAt", "replication_key_value": math.nan},
        {"replication_key": "updatedAt", "replication_key_value": 10**400},
        {"replication_key": "updatedAt", "replication_key_value": {"$date": 5}},
        {"replication_key": "updatedAt", "replication_key_value": "9999-12-31T23:59:59-01:00"},
    ],
    ids=range(9),
)
def test_a_hostile_bookmark_is_refused_in_one_sentence(bookmark: dict[str, Any]) -> None:
    with Sandbox() as sandbox:
        assert "state" in outcome(sandbox, state={"bookmarks": {"conversations": bookmark}})
        assert sandbox.requests == []


def test_a_bookmark_in_the_far_future_reads_nothing_and_stays() -> None:
    state = {
        "bookmarks": {
            name: {"replication_key": key, "replication_key_value": "2999-01-01T00:00:00.000Z"}
            for name, key in (
                ("conversations", "updatedAt"),
                ("bot_requests", "conversationUpdatedAt"),
            )
        }
    }
    with Sandbox(make_conversations(10)) as sandbox:
        output = run_tap(config_for(sandbox), state=copy.deepcopy(state))
        assert sandbox.requests == []
    assert output.records("conversations") == []
    assert output.states == [state]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from nodes(inner, (*path, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from nodes(inner, (*path, place))


CATALOG = discover()
NODES = [path for path in nodes(CATALOG) if path]
CATALOG_WORDS = st.sampled_from(
    [
        *("conversations", "bot_requests", "gone", "properties", "id", "updatedAt", "FULL_TABLE"),
        *("INCREMENTAL", "LOG_BASED", "automatic", "unsupported", "available", "\n\x1b[31m"),
    ]
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(NODES),
        st.sampled_from(["set", "remove", "copy", "double"]),
        JUNK | CATALOG_WORDS | st.lists(CATALOG_WORDS, max_size=2),
        st.sampled_from(NODES),
    ),
    min_size=1,
    max_size=4,
)


def changed(change: list[tuple[tuple[Any, ...], str, Any, tuple[Any, ...]]]) -> Any:
    """Return a catalog with some of its parts replaced, removed, moved elsewhere or doubled."""
    catalog = copy.deepcopy(CATALOG)

    def at(path: tuple[Any, ...]) -> Any:
        found = catalog
        for step in path:
            found = found[step]
        return found

    for path, how, junk, source in change:
        # An earlier change may have taken the place away.
        with suppress(LookupError, TypeError):
            holder, name = at(path[:-1]), path[-1]
            if how == "remove":
                del holder[name]
            elif how == "double" and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[name]))
            else:
                holder[name] = copy.deepcopy(at(source)) if how == "copy" else junk
    return catalog


BROKEN_PARTS: list[dict[str, Any]] = [
    {"schema": []},
    {"schema": {"type": "object"}},
    {"schema": {"properties": {"id": {"type": False}}}},
    {"key_properties": 5},
    {"key_properties": [["id"]]},
    {"replication_key": ["updatedAt"]},
    {"replication_method": 1.5},
    {"metadata": {"breadcrumb": []}},
    {"metadata": [{"breadcrumb": [["properties"]], "metadata": {}}]},
    {"metadata": [{"breadcrumb": [], "metadata": [True]}]},
]
BROKEN_CATALOGS: list[Any] = [
    [],
    {},
    {"streams": None},
    {"streams": [{"tap_stream_id": "conversations"}]},
    {"streams": [{"tap_stream_id": ["conversations"], "schema": {"properties": {}}}]},
    *({"streams": [{**entry, **part} for entry in CATALOG["streams"]]} for part in BROKEN_PARTS),
]


@pytest.mark.parametrize("catalog", BROKEN_CATALOGS, ids=range(len(BROKEN_CATALOGS)))
def test_a_hostile_catalog_is_refused_in_one_sentence(catalog: Any) -> None:
    with Sandbox() as sandbox:
        assert "catalog" in outcome(sandbox, catalog=copy.deepcopy(catalog))
        assert sandbox.requests == []


@pytest.mark.parametrize("left_out", ["conversations", "bot_requests"])
def test_a_catalog_may_leave_out_a_stream(left_out: str) -> None:
    catalog = copy.deepcopy(CATALOG)
    catalog["streams"] = [s for s in catalog["streams"] if s["tap_stream_id"] != left_out]
    conversations = make_conversations(3)
    with Sandbox(conversations) as sandbox:
        output = run_tap(config_for(sandbox), catalog=catalog)
    rows = [*output.records("conversations"), *output.records("bot_requests")]
    expected = sum(len(c["botRequests"]) for c in conversations)
    assert len(rows) == (expected if left_out == "conversations" else 3)
    assert output.records(left_out) == []
    assert output.state["bookmarks"].keys() == {"conversations", "bot_requests"} - {left_out}


@settings(max_examples=PAYLOADS, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_any_catalog_is_used_or_refused_in_one_sentence(change: Any) -> None:
    catalog = changed(change)
    with Sandbox(make_conversations(3)) as sandbox:
        sentence = outcome(sandbox, catalog=copy.deepcopy(catalog))
    assert sentence == "" or "catalog" in sentence, catalog


# --- into real databases --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


Tables = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def in_duckdb(bodies: Sequence[bytes], folder: Path, kind: Kind = CHAT) -> Tables:
    """Load responses with target-duckdb, and return what the database then holds."""
    path = folder / "fini.duckdb"
    with serving(*bodies) as sandbox:
        config = {"path": str(path), "default_target_schema": "main"}
        settings, catalog = one_window(sandbox), kind.export.catalog()
        load("target-duckdb", settings, config, folder, catalog=catalog)
    question = {"path": str(path), "tables": kind.export.streams}
    held = venv("target-duckdb").ask(DUCKDB, question)["tables"]
    columns = {
        name: definition
        for schema in kind.schemas
        for name, definition in schema["properties"].items()
    }
    names = {name.lower(): name for name in columns}
    encoded = {name for name, d in columns.items() if {"array", "object"} & {*d["type"]}}

    def row(found: dict[str, Any]) -> dict[str, Any]:
        named = {names[name]: value for name, value in found.items()}
        for name in named.keys() & encoded:
            if named[name] is not None:
                named[name] = json.loads(named[name])
        return named

    parents, children = ([row(found) for found in held[table]] for table in kind.export.streams)
    return parents, children


def in_postgres(bodies: Sequence[bytes], folder: Path, url: str, kind: Kind = CHAT) -> Tables:
    """Load responses with target-postgres, and return what the database then holds."""
    with serving(*bodies) as sandbox:
        config = {"sqlalchemy_url": url, "default_target_schema": "fini"}
        settings, catalog = one_window(sandbox), kind.export.catalog()
        load("target-postgres", settings, config, folder, catalog=catalog)
    question = {"url": url, "tables": kind.export.streams}
    held = venv("target-postgres").ask(POSTGRES, question)["tables"]
    parents, children = (
        [{k: v for k, v in row.items() if not k.startswith("_sdc_")} for row in held[table]]
        for table in kind.export.streams
    )
    return parents, children


def large(size: int) -> bytes:
    """Return a conversation with an answer of that many bytes."""
    seed = "שלום, 👋 \\ \"quoted\" 'text'\r\n\ttab, <b>é</b> "
    answer = (seed * (size // len(seed.encode()) + 1)).encode()[:size].decode(errors="ignore")
    return json.dumps(conversation("large", botRequests=[{"answer": answer}])).encode()


def special_interactions() -> list[bytes]:
    """Return interactions, each odd in a way that Hypothesis does not come upon."""
    many = [{"id": "same", "createdAt": START + n * 7919 % 10_000} for n in range(3_000)]
    long_id = "".join(chr(0x10000 + n * 7919 % 60_000) for n in range(MAX_ID))
    events = [{"id": long_id[:length]} for length in (MAX_CHILD_ID, MAX_CHILD_ID + 1, MAX_ID)]
    rows = [
        {"id": "many", "createdAt": START, "events": many},
        {"id": long_id, "createdAt": START, "events": events},
    ]
    values = [nested(depth, shape) for depth in (62, 64, 66) for shape in ("arrays", "objects")]
    deep = [
        b'{"id":"deep %d","createdAt":%d,"userAttributes":{"y":%b},"events":[{"tags":%b}]}'
        % (number, START + number, value, value)
        for number, value in enumerate(values)
    ]
    return [*(json.dumps(row).encode() for row in rows), *deep]


def special() -> list[bytes]:
    """Return conversations, each odd in a way that Hypothesis does not come upon."""
    requests = [
        {"question": f"q{n}", "createdAt": START + n * 7919 % 10_000} for n in range(10_000)
    ]
    # Letters of four bytes that do not compress, for PostgreSQL's keys hold 2,704 bytes.
    long_ids = [
        "".join(chr(0x10000 + (n * 7919 + place * 104_729) % 60_000) for place in range(MAX_ID))
        for n in range(3)
    ]
    rows = [
        conversation("many", botRequests=requests),
        *(conversation(key, botRequests=[{"answer": "x"}]) for key in long_ids),
    ]
    values = [
        nested(depth, kind)
        for depth in (60, 62, 64, 65, 66, 100, 250)
        for kind in ("arrays", "objects", "deceptive")
    ]
    deep = [
        b'{"id":"deep %d","updatedAt":%d,"x":%b,"botRequests":[{"basedOn":[{"y":%b}],"z":%b}]}'
        % (number, START + number, value, value, value)
        for number, value in enumerate(values)
    ]
    return [*(json.dumps(row).encode() for row in rows), *deep]


@pytest.fixture(scope="module")
def odd_ones() -> list[bytes]:
    """Conversations that every target has to take."""
    return [*generated(), *special()]


def with_versions(odd_ones: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Add several versions of a conversation; return what is served, and what has to arrive."""
    one, two, four, five = versions(1, 2, 4, 5, key='k"1')
    return [*odd_ones[:PAGE], four, one, *odd_ones[PAGE:], five, two], [*odd_ones, five]


@pytest.mark.targets
def test_duckdb_takes_every_conversation(odd_ones: list[bytes], tmp_path: Path) -> None:
    served, expected = with_versions(odd_ones)
    compare(expected, *in_duckdb(pages_of(served), tmp_path), empty=False)


@pytest.mark.targets
def test_targets_take_every_interaction(tmp_path: Path, postgres: str) -> None:
    served = [*generated(NEWER), *special_interactions()]
    pages = pages_of(served, NEWER.key)
    compare(served, *in_duckdb(pages, tmp_path, NEWER), kind=NEWER, empty=False)
    compare(served, *in_postgres(pages, tmp_path, postgres, NEWER), kind=NEWER)


@pytest.mark.targets
def test_duckdb_takes_a_large_answer(tmp_path: Path) -> None:
    """target-duckdb has DuckDB read CSV, of which no line may pass 2,000,000 bytes."""
    payload = large(1_600_000)
    compare([payload], *in_duckdb([page([payload])], tmp_path), empty=False)


@pytest.mark.targets
def test_postgres_takes_every_conversation(
    odd_ones: list[bytes], tmp_path: Path, postgres: str
) -> None:
    served, expected = with_versions([*odd_ones, large(10_000_000)])
    compare(expected, *in_postgres(pages_of(served), tmp_path, postgres))
