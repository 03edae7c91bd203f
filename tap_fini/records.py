"""From the API's JSON to rows that fit a schema. Pure: no HTTP, no Singer.

What does not fit is never dropped: it moves to the row's ``extra`` object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tap_fini.windows import to_instant, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXTRA = "extra"
"""The field that holds what the schema does not know."""

Report: TypeAlias = Callable[[str, str], None]
"""Called as ``report(field, problem)`` for each value that was put aside or replaced."""

MAX_ID = 500
"""Characters of the longest id: PostgreSQL's keys hold 2,704 bytes, MySQL's 3,072."""

MAX_CHILD_ID = 150
"""Characters of the longest id of a child, whose key holds its parent's id besides."""

MAX_LEVELS = 64
"""Levels of arrays and objects in a record. Parsers give up at 1,000 or so, MySQL at 100."""

NUL = rb"\u0000"
"""A character that PostgreSQL refuses, as JSON text writes it."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises that has to be mended first, or is of other types than expected."""

_MISFIT = object()
_BIGGEST = 2**63 - 1
_CONTAINERS = (dict, list)


def usable_id(value: object, longest: int = MAX_ID) -> str | None:
    """Return a record's id as text, or ``None`` if it could not serve as a key."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and 0 < len(value) <= longest else None


def _text(value: object) -> object:
    return value if type(value) is str else _MISFIT


def _boolean(value: object) -> object:
    return value if type(value) is bool else _MISFIT


def _integer_within(least: int, most: int) -> Callable[[object], object]:
    def fit(value: object) -> object:
        return value if type(value) is int and least <= value <= most else _MISFIT

    return fit


def _number(value: object) -> object:
    return value if type(value) in {int, float} else _MISFIT


def _time(value: object) -> object:
    instant = to_instant(value)
    return _MISFIT if instant is None else to_text(instant)


def _object(value: object) -> object:
    return value if type(value) is dict else _MISFIT


def _texts(value: object) -> object:
    if type(value) is not list:
        return _MISFIT
    for item in value:  # a generator inside all() takes twice as long
        if type(item) is not str:
            return _MISFIT
    return value


def _objects(value: object) -> object:
    if type(value) is not list:
        return _MISFIT
    for item in value:
        if type(item) is not dict:
            return _MISFIT
    return value


_FITTERS: dict[tuple[str, str | None], Callable[[object], object]] = {
    ("string", None): _text,
    ("string", "date-time"): _time,
    ("boolean", None): _boolean,
    ("number", None): _number,
    ("object", None): _object,
    ("array", "string"): _texts,
    ("array", "object"): _objects,
}


def _type_of(schema: Mapping[str, Any]) -> str:
    types = schema["type"]
    return types if isinstance(types, str) else next(name for name in types if name != "null")


def kind_of(schema: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the type that a schema allows, with its format, or the type of an array's items."""
    kind = _type_of(schema)
    return kind, _type_of(schema["items"]) if kind == "array" else schema.get("format")


def limits(schema: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the largest integer that a schema allows."""
    return schema.get("minimum", -_BIGGEST), schema.get("maximum", _BIGGEST)


def _fitter(schema: Mapping[str, Any]) -> Callable[[object], object]:
    kind = kind_of(schema)
    return _integer_within(*limits(schema)) if kind[0] == "integer" else _FITTERS[kind]


class RowMaker:
    """Makes rows that fit one stream's schema."""

    def __init__(
        self,
        schema: Mapping[str, Any],
        *,
        derived: Iterable[str],
        consumed: Iterable[str] = (),
        levels: int = MAX_LEVELS,
        report: Report,
    ) -> None:
        """Learn the fields from a JSON schema.

        Args:
            schema: The stream's schema. Fields of the API stand in it under its own names.
            derived: The fields of the schema that are not copied from the API.
            consumed: The fields of the API that the caller turns into derived ones.
            levels: The levels of arrays and objects in a value; deeper ones become texts.
            report: Told of each value that does not fit.
        """
        aside = {*derived, EXTRA}
        self._fields = tuple(
            (name, _fitter(definition))
            for name, definition in schema["properties"].items()
            if name not in aside
        )
        self._open = tuple(name for name, fit in self._fields if fit in {_object, _objects})
        self._consumed = frozenset(consumed)
        self._known = self._consumed.union(name for name, _ in self._fields)
        self._levels = levels
        self._report = report

    def fill(self, row: dict[str, Any], raw: Mapping[str, Any]) -> None:
        """Put a raw object's fields into a row: a value or ``None`` for each of the schema."""
        taken = 0
        for name, fit in self._fields:
            value = raw.get(name, _MISFIT)
            if value is _MISFIT:
                row[name] = None
                continue
            taken += 1
            if value is None:
                row[name] = None
                continue
            row[name] = fitted = fit(value)
            if fitted is _MISFIT:
                row[name] = None
                self.put_aside(row, name, value, "has a value of an unexpected type")
        for name in self._open:
            if row[name]:
                row[name] = self._shallow(name, row[name])
        for name in self._consumed:
            taken += name in raw
        if taken != len(raw):
            for name in raw.keys() - self._known:
                self.put_aside(row, name, raw[name], "is a field this version does not know")

    def put_aside(self, row: dict[str, Any], name: str, value: object, problem: str) -> None:
        """Keep a value in the row's ``extra`` object and report it."""
        row.setdefault(EXTRA, {})[name] = self._shallow(name, value)
        self._report(name, problem)

    def _shallow(self, name: str, value: Any) -> Any:
        if not _is_deep(value, self._levels):
            return value
        self._report(name, f"is nested too deeply: below {MAX_LEVELS} levels its JSON is a text")
        return _flattened(value, self._levels)


class UnusableIdError(Exception):
    """A record has no id that could serve as its key, so no target could load it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which fields tie a parent record to the child records inside it."""

    id: str
    """The parent's key, in the API and in its stream."""

    updated: str | None
    """The API's field that tells when the parent last changed. ``None`` if there is none: the
    time of its latest child has to serve, or its creation."""

    created: str
    """The parent's field that tells when it was made, in the API and in its stream."""

    replication_key: str
    """The parent stream's field that tells when it last changed."""

    children: str
    """The API's field that holds the children, and none of the parent stream's."""

    child_count: str
    """The parent stream's field that counts them."""

    child_id: str | None
    """The field that tells the children of one parent apart, in the API and in the child stream.
    ``None`` if nothing does but their position."""

    child_time: str
    """The API's field of a child that puts the children in order."""

    child_parent_id: str
    """The child stream's field that names the parent."""

    child_replication_key: str
    """The child stream's field that repeats the parent's replication key."""

    child_position: str
    """The child stream's field that numbers the children of one parent from 0."""


class FamilyMaker:
    """Makes the row of a parent record and the rows of the children inside it."""

    def __init__(
        self,
        shape: Shape,
        parent_schema: Mapping[str, Any],
        child_schema: Mapping[str, Any],
        *,
        report_parent: Report,
        report_child: Report,
    ) -> None:
        """Prepare to make rows for two schemas.

        Args:
            shape: The names of the fields that tie the two together.
            parent_schema: The parent stream's schema.
            child_schema: The child stream's schema.
            report_parent: Told of what does not fit the parent's schema.
            report_child: Told of what does not fit the child's schema.
        """
        self._shape = shape
        self._report = report_parent
        self._report_child = report_child
        self._parent = RowMaker(
            parent_schema,
            derived=(shape.id, shape.replication_key, shape.child_count),
            consumed=[name for name in (shape.id, shape.updated, shape.children) if name],
            report=report_parent,
        )
        child_id = [shape.child_id] if shape.child_id else []
        self._child = RowMaker(
            child_schema,
            derived=(
                shape.child_parent_id,
                shape.child_position,
                shape.child_replication_key,
                *child_id,
            ),
            consumed=child_id,
            levels=MAX_LEVELS - 2,  # a parent's array and its object are the first two
            report=report_child,
        )

    def parent_row(
        self, raw: Mapping[str, Any], fallback: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Make the parent's row.

        Args:
            raw: The record as the API gave it.
            fallback: The instant that stands in for its replication key if it has no time
                at all, in epoch milliseconds.

        Returns:
            The row, and the raw children in their order.

        Raises:
            UnusableIdError: If there is nothing to serve as the key.
        """
        shape = self._shape
        key = usable_id(raw.get(shape.id))
        if key is None:
            raise UnusableIdError
        row: dict[str, Any] = {shape.id: key}
        children = self._children(row, raw)
        row[shape.replication_key] = to_text(self._updated(row, raw, children, fallback))
        row[shape.child_count] = len(children)
        self._parent.fill(row, raw)
        return row, children

    def child_rows(
        self, parent: Mapping[str, Any], children: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Make the rows of one parent's children."""
        shape = self._shape
        key, updated = parent[shape.id], parent[shape.replication_key]
        ids, problems = self._child_ids(children)
        rows = []
        for position, raw in enumerate(children):
            row = {
                shape.child_parent_id: key,
                shape.child_position: position,
                shape.child_replication_key: updated,
            }
            if shape.child_id:
                row[shape.child_id] = ids[position]
                if position in problems:
                    self._put_id_aside(shape.child_id, row, raw, problems[position])
            self._child.fill(row, raw)
            rows.append(row)
        return rows

    def _child_ids(self, children: list[dict[str, Any]]) -> tuple[list[str], dict[int, str]]:
        """Find an id for each of one parent's children, no two the same.

        Returns:
            The ids, and by its position what is wrong with each child's own one, if it
            cannot serve. In its place stands one made of the position.
        """
        name = self._shape.child_id
        if not name:
            return [], {}
        own = [usable_id(child.get(name), MAX_CHILD_ID) for child in children]
        ids = dict.fromkeys(own)
        if None not in ids and len(ids) == len(own):
            return list(ids), {}  # type: ignore[arg-type]
        taken, found, problems = set(own), [], {}
        first = {key: position for position, key in reversed(list(enumerate(own)))}
        for position, key in enumerate(own):
            if key is not None and first[key] == position:
                found.append(key)
                continue
            problems[position] = "is not usable" if key is None else "is another record's too"
            made = f"position:{position}"
            while made in taken:
                made = f"position:{made}"
            taken.add(made)
            found.append(made)
        return found, problems

    def _put_id_aside(
        self, name: str, row: dict[str, Any], raw: Mapping[str, Any], problem: str
    ) -> None:
        problem = f"{problem}, so its position serves in its place"
        if raw.get(name) is None:
            self._report_child(name, problem)
        else:
            self._child.put_aside(row, name, raw[name], problem)

    def _children(self, row: dict[str, Any], raw: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = self._shape.children
        found = raw.get(name)
        if found is None:
            return []
        if type(found) is not list:
            self._parent.put_aside(row, name, found, "has a value of an unexpected type")
            return []
        children = [child for child in found if type(child) is dict]
        if len(children) < len(found):
            others = [child for child in found if type(child) is not dict]
            self._parent.put_aside(row, name, others, "has an item of an unexpected type")
        if len(children) > 1:
            children.sort(key=self._child_instant)
        return children

    def _child_instant(self, child: Mapping[str, Any]) -> float:
        instant = to_instant(child.get(self._shape.child_time))
        return math.inf if instant is None else instant

    def _latest(self, children: list[dict[str, Any]]) -> int | None:
        """Return the time of the latest child; they are in the order of time, if they have one."""
        for child in reversed(children):
            instant = to_instant(child.get(self._shape.child_time))
            if instant is not None:
                return instant
        return None

    def _updated(
        self,
        row: dict[str, Any],
        raw: Mapping[str, Any],
        children: list[dict[str, Any]],
        fallback: int,
    ) -> int:
        shape = self._shape
        name = shape.updated
        instant = to_instant(raw.get(name)) if name else self._latest(children)
        if instant is not None:
            return instant
        if name and raw.get(name) is not None:
            self._parent.put_aside(row, name, raw[name], "has a value of an unexpected type")
        instant = to_instant(raw.get(shape.created))
        if instant is not None:
            if name:
                self._report(name, f"has no usable value, so {shape.created!r} serves in its place")
            return instant
        self._report(
            name or shape.replication_key,
            "has no usable value, nor has any other time of the record",
        )
        instant = self._latest(children)
        return fallback if instant is None else instant


_ESCAPE = re.compile(
    r"\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    r"|[dD][89a-fA-F][0-9a-fA-F]{2}|0000)"
)
_TOKEN = re.compile(r'"[^"]*"?|-?(?:NaN|Infinity)|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?')
_BRACKET = re.compile(r'"[^"]*"?|[\[\]{}]')
_CONTROL = re.compile(r"[\x00-\x1f]")
_ESCAPE_LENGTH = 6
_MAX_DIGITS = 4300  # of an integer that Python reads


def repair(content: bytes) -> tuple[bytes, int]:
    """Rewrite JSON text so that every parser and every database takes it.

    NUL characters (PostgreSQL refuses them), halves of surrogate pairs and bytes that are
    not UTF-8 become U+FFFD, the replacement character. Numbers that JSON or Python does not
    have (NaN, Infinity, 1e999, an integer of thousands of digits) become texts.

    Args:
        content: JSON text, or what was meant to be.

    Returns:
        The repaired text, and how many characters were replaced.
    """
    replaced = 0

    def repair_escape(escape: str) -> str:
        nonlocal replaced
        if len(escape) > _ESCAPE_LENGTH:
            return escape
        replaced += 1
        return "\\ufffd"

    text = content.decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")
    replaced = text.count("\ufffd") - content.count("\ufffd".encode())
    text = _substitute(_ESCAPE, text, repair_escape)
    return _substitute(_TOKEN, text, _repair_token).encode(), replaced


def _repair_token(token: str) -> str:
    if token[0] == '"':
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", token)
    if token.lstrip("-").isdecimal():
        return token if len(token) <= _MAX_DIGITS else f'"{token}"'
    return token if math.isfinite(float(token)) else f'"{token}"'


def _substitute(pattern: re.Pattern[str], text: str, replacement: Callable[[str], str]) -> str:
    """Replace what a pattern finds in JSON text; no escaped quote or backslash deceives it."""
    pieces: list[str] = []
    done = 0
    for match in pattern.finditer(_masked(text)):
        start, end = match.span()
        token = text[start:end]
        new = replacement(token)
        if new != token:
            pieces += text[done:start], new
            done = end
    return "".join((*pieces, text[done:]))


def _masked(text: str) -> str:
    """Hide escaped backslashes and quotes, so that each quote left begins or ends a string.

    A pattern can then find strings without repeating a group, which takes Python's ``re``
    time and memory out of all proportion on hostile text.
    """
    return text.replace("\\\\", "xx").replace('\\"', "xx")


def flatten(content: bytes, levels: int) -> tuple[bytes, int]:
    """Turn what is nested too deeply in JSON text into texts, which hold its JSON.

    Args:
        content: JSON, UTF-8.
        levels: The number of levels of arrays and objects to keep.

    Returns:
        The flatter JSON, and how many values became texts.
    """
    text = content.decode()
    pieces: list[str] = []
    done = start = depth = flattened = 0
    for match in _BRACKET.finditer(_masked(text)):
        bracket = match[0]
        if bracket in "[{":
            if depth == levels:
                start = match.start()
            depth += 1
        elif bracket in "]}":
            depth -= 1
            if depth == levels:
                pieces += text[done:start], _as_text(text[start : match.end()])
                done = match.end()
                flattened += 1
    if depth > levels:  # broken off
        pieces.append(text[done:start])
        done = len(text)
    return "".join((*pieces, text[done:])).encode(), flattened


def _as_text(inner: str) -> str:
    return msgspec.json.encode(inner).decode()


def _is_deep(value: Any, levels: int) -> bool:
    """Tell whether a value has more levels of arrays and objects than that."""
    layer = [value] if type(value) in _CONTAINERS else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]
        if not layer:
            return False
    return bool(layer)


def _flattened(value: Any, levels: int) -> Any:
    """Copy a value, as texts of JSON what is below that many levels of arrays and objects.

    Layer by layer, for a recursion would leave the encoder too little of Python's stack.
    """
    top = [value]
    layer: list[tuple[Any, Any]] = [(top, 0)]
    for _ in range(levels):
        below: list[tuple[Any, Any]] = []
        for outer, place in layer:
            inner = outer[place] = outer[place].copy()
            items = inner.items() if type(inner) is dict else enumerate(inner)
            below += [(inner, at) for at, found in items if type(found) in _CONTAINERS]
        layer = below
    for outer, place in layer:
        outer[place] = msgspec.json.encode(outer[place]).decode()
    return top[0]
