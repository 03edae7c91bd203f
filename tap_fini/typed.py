"""Rows straight from the API's JSON, for pages of records that are just what the schemas expect.

Nearly all are. Their types are checked while they are decoded, which takes a fraction of the
time that :mod:`tap_fini.records` needs. A page with even one other record is left to that.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tap_fini.records import EXTRA, MAX_CHILD_ID, MAX_ID, NUL, UNREADABLE, kind_of, limits
from tap_fini.windows import to_instant, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tap_fini.records import Shape

_LEVELS = 4
"""Levels of arrays and objects in an object, itself included, that are taken as they are. A type
needs some limit, and what is deeper than ``MAX_LEVELS`` has to become a text."""


class TypedRow(msgspec.Struct):
    """A row with its fields as attributes. Those that are ``UNSET`` are not written."""

    def __getitem__(self, name: str) -> Any:
        """Return a field's value, as a row in a dict does."""
        return getattr(self, name)


_Field: TypeAlias = tuple[Any, ...]


def leave_out(row: dict[str, Any] | TypedRow, name: str) -> None:
    """Let a row be written without one of its fields."""
    if isinstance(row, dict):
        row.pop(name, None)
    elif name in row.__struct_fields__:  # there is no 'extra', for one
        setattr(row, name, UNSET)


class _UnexpectedError(Exception):
    """A record has the right types, but needs care all the same."""


class TypedDecoder:
    """Decodes parents, and the children inside them, to rows."""

    def __init__(
        self, shape: Shape, parent_schema: Mapping[str, Any], child_schema: Mapping[str, Any]
    ) -> None:
        """Prepare to decode rows of two schemas.

        Args:
            shape: The names of the fields that tie the two together.
            parent_schema: The parent stream's schema.
            child_schema: The child stream's schema.
        """
        self._shape = shape
        child = _row_type(
            child_schema,
            derived=(
                shape.child_parent_id,
                shape.child_position,
                shape.child_replication_key,
            ),
            given={shape.child_id: _id(MAX_CHILD_ID)} if shape.child_id else {},
        )
        parent = _row_type(
            parent_schema,
            derived=(shape.replication_key, shape.child_count),
            given={
                shape.id: _id(MAX_ID),
                shape.children: _optional(list[child]),  # type: ignore[valid-type]
                **({shape.updated: _TYPES["string", "date-time"]} if shape.updated else {}),
            },
        )
        is_field = shape.updated in parent_schema["properties"]
        self._consumed = None if is_field else shape.updated
        self._decoder = msgspec.json.Decoder(list[parent])  # type: ignore[valid-type]
        self._parent_times = _times(parent_schema, but=shape.replication_key)
        self._child_times = _times(child_schema, but=shape.child_replication_key)
        self._child_id = attrgetter(shape.child_id) if shape.child_id else None
        self._child_time = attrgetter(shape.child_time)

    def decode(self, content: bytes) -> list[tuple[TypedRow, list[TypedRow]]] | None:
        """Decode an array of records.

        Args:
            content: JSON, UTF-8.

        Returns:
            Each parent's row with the rows of its children; ``None`` if any record is not just
            what the schemas expect, or the text has to be mended.
        """
        if NUL in content:
            return None
        try:
            return [self._family(parent) for parent in self._decoder.decode(content)]
        except (*UNREADABLE, _UnexpectedError):
            return None

    def _family(self, parent: TypedRow) -> tuple[TypedRow, list[TypedRow]]:
        shape = self._shape
        children: list[TypedRow] = parent[shape.children] or []
        setattr(parent, shape.children, UNSET)
        _write_times([parent], self._parent_times)
        _write_times(children, self._child_times)
        if len(children) > 1:
            self._order(children)
        updated = self._updated(parent, children)
        if self._consumed:
            setattr(parent, self._consumed, UNSET)
        setattr(parent, shape.replication_key, updated)
        setattr(parent, shape.child_count, len(children))
        key = parent[shape.id]
        for position, child in enumerate(children):
            setattr(child, shape.child_parent_id, key)
            setattr(child, shape.child_position, position)
            setattr(child, shape.child_replication_key, updated)
        return parent, children

    def _order(self, children: list[TypedRow]) -> None:
        try:
            children.sort(key=self._child_time)  # texts of one width: the order of time
        except TypeError:  # some have no time
            raise _UnexpectedError from None
        if self._child_id and len({*map(self._child_id, children)}) < len(children):
            raise _UnexpectedError

    def _updated(self, parent: TypedRow, children: list[TypedRow]) -> str:
        shape = self._shape
        if shape.updated:
            return _time_text(parent[shape.updated])
        found: str | None = self._child_time(children[-1]) if children else parent[shape.created]
        if found is None:
            raise _UnexpectedError
        return found


def _write_times(rows: Iterable[TypedRow], names: Iterable[str]) -> None:
    for name in names:
        for row in rows:
            value = getattr(row, name)
            if value is not None:
                setattr(row, name, _time_text(value))


def _time_text(value: object) -> str:
    instant = to_instant(value)
    if instant is None:
        raise _UnexpectedError
    return to_text(instant)


def _row_type(
    schema: Mapping[str, Any], *, derived: Iterable[str], given: Mapping[str, _Field]
) -> type[TypedRow]:
    """Make the type of a stream's rows.

    Args:
        schema: The stream's schema.
        derived: Its fields that the API does not give: a record that has one is unexpected.
        given: The types of the API's fields that are not just what the schema says.
    """
    fields = {
        name: _field(definition)
        for name, definition in schema["properties"].items()
        if name != EXTRA
    }
    fields |= dict.fromkeys(derived, (UnsetType, UNSET))
    row: type[Any] = msgspec.defstruct(
        "Row",
        [(name, *field) for name, field in (fields | dict(given)).items()],
        bases=(TypedRow,),
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,  # no row is part of a cycle
    )
    return row


def _times(schema: Mapping[str, Any], *, but: str) -> tuple[str, ...]:
    return tuple(
        name
        for name, definition in schema["properties"].items()
        if definition.get("format") == "date-time" and name != but
    )


def _optional(kind: Any) -> _Field:
    return kind | None, None


def _id(longest: int) -> _Field:
    return (Annotated[str, Meta(min_length=1, max_length=longest)],)


def _field(schema: Mapping[str, Any]) -> _Field:
    kind = kind_of(schema)
    if kind[0] == "integer":
        least, most = limits(schema)
        return _optional(Annotated[int, Meta(ge=least, le=most)])
    return _TYPES[kind]


def _open(levels: int) -> Any:
    """Return the type of any value with so many levels of arrays and objects."""
    scalar: Any = str | int | float | bool | None
    inner: Any = _open(levels - 1) if levels > 1 else scalar
    return scalar | list[inner] | dict[str, inner]


_OBJECT: Any = dict[str, _open(_LEVELS - 1)]  # type: ignore[misc]
_TYPES: dict[tuple[str, str | None], _Field] = {
    ("string", None): _optional(str),
    ("string", "date-time"): _optional(int | float | str),
    ("boolean", None): _optional(bool),
    ("number", None): _optional(int | float),
    ("object", None): _optional(_OBJECT),
    ("array", "string"): _optional(list[str]),
    ("array", "object"): _optional(list[_OBJECT]),
}
