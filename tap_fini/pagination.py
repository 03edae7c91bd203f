"""Pages of an export, and the paginator that follows them without trusting them."""

from __future__ import annotations

import abc
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk.pagination import BaseAPIPaginator

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

from tap_fini.records import MAX_LEVELS, NUL, UNREADABLE, flatten, repair, usable_id
from tap_fini.windows import to_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import requests

    from tap_fini.records import Shape


class EnvelopeError(Exception):
    """A response that is JSON, but not a page of the export. Says what was found."""


class UntrustedPagingError(Exception):
    """The pages of a window cannot be shown to be complete. Says why."""


_ENVELOPE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, Any]])
_RAW_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_LEVELS = MAX_LEVELS + 3  # the page is an object, with an array, of objects


@dataclass(frozen=True, slots=True)
class Page:
    """One response: the heads of its records, the records still as JSON."""

    ids: tuple[str, ...]
    """The records' ids, in the response's order; those without a usable one are left out."""

    created: tuple[object, ...]
    """When the records were made, as far as they tell."""

    updated: tuple[object, ...]
    """When the records last changed, as far as they tell."""

    has_more: bool
    cursor: str | None
    """What to send to get the next page: the response's own cursor, else the last id."""

    content: msgspec.Raw
    """The array of records, undecoded: a third of the memory of decoded ones."""

    served_at: int | None = None
    """The server's clock (the Date header), in epoch milliseconds."""

    replaced: int = 0
    """How many characters and values of the response had to be replaced to read it."""

    @property
    def size(self) -> int:
        """The size in bytes of the undecoded records."""
        return memoryview(self.content).nbytes

    def records(self) -> tuple[list[dict[str, Any]], int]:
        """Decode the records.

        Returns:
            The records, and how many characters and values had to be replaced.

        Raises:
            msgspec.DecodeError: If they are not an array of objects.
        """
        content = bytes(self.content)
        if NUL not in content:
            try:
                return _OBJECTS.decode(content), self.replaced
            except UNREADABLE:
                pass
        content, replaced = _mend(content, _LEVELS - 1)
        return _OBJECTS.decode(content), self.replaced + replaced


class PageForm(abc.ABC):
    """The form of an endpoint's responses."""

    expected: str
    """What a response has to be, in words."""

    levels: int
    """The levels of arrays and objects in a response."""

    def parse(self, content: bytes, *, served_at: int | None = None) -> Page:
        """Read a response's body.

        Args:
            content: The body: JSON, UTF-8.
            served_at: The server's clock, in epoch milliseconds.

        Raises:
            msgspec.DecodeError: If the body is no JSON, or (a subclass, ``ValidationError``)
                JSON of another type.
            EnvelopeError: If it is not a page: says what else.
        """
        try:
            return self._parse(content, served_at, 0)
        except (*UNREADABLE, EnvelopeError):
            mended, replaced = _mend(content, self.levels)
            return self._parse(mended, served_at, replaced)

    @abc.abstractmethod
    def _parse(self, content: bytes, served_at: int | None, replaced: int) -> Page:
        """Read a body that may have been mended."""


class BareArray(PageForm):
    """All the records there are, in an array and nothing else."""

    expected = "an array of objects"
    levels = _LEVELS - 1

    @override
    def _parse(self, content: bytes, served_at: int | None, replaced: int) -> Page:
        try:
            _RAW_OBJECTS.decode(content)
        except msgspec.ValidationError as error:
            found = msgspec.json.decode(content)
            if isinstance(found, dict):
                raise EnvelopeError(_describe(found)) from error
            if isinstance(found, list):
                message = "an array of something else than objects"
                raise EnvelopeError(message) from error
            raise
        return Page(
            ids=(),
            created=(),
            updated=(),
            has_more=False,
            cursor=None,
            content=msgspec.Raw(content),
            served_at=served_at,
            replaced=replaced,
        )


class ExportPage(PageForm):
    """A page of an export: an object with an array of records and a boolean ``hasMore``."""

    levels = _LEVELS

    def __init__(self, keys: Sequence[str], shape: Shape) -> None:
        """Learn where things stand.

        Args:
            keys: The names under which the array of records may stand.
            shape: The names of the records' fields that matter here.
        """
        array = " or ".join(repr(key) for key in keys)
        self.expected = f"an object with an array {array} and a boolean 'hasMore'"
        self._keys = keys
        self._heads = _Heads(shape)

    @override
    def _parse(self, content: bytes, served_at: int | None, replaced: int) -> Page:
        envelope = _ENVELOPE.decode(content)
        key = next((key for key in self._keys if key in envelope), None)
        has_more = _decode_or_none(envelope.get("hasMore"))
        if key is None or not isinstance(has_more, bool):
            raise EnvelopeError(_describe(envelope))
        try:
            heads = self._heads.decode(envelope[key])
        except msgspec.ValidationError as error:
            message = f"an object whose {key!r} is not an array of objects"
            raise EnvelopeError(message) from error
        ids = tuple(text for head in heads if (text := usable_id(head[0])) is not None)
        cursor = next(
            (
                str(value)
                for name in ("nextCursor", "cursor")
                if isinstance(value := _decode_or_none(envelope.get(name)), (str, int)) and value
            ),
            ids[-1] if ids else None,
        )
        return Page(
            ids=ids,
            created=tuple(head[1] for head in heads),
            updated=tuple(head[2] for head in heads),
            has_more=has_more,
            cursor=cursor,
            content=envelope[key],
            served_at=served_at,
            replaced=replaced,
        )


class _Heads:
    """Reads of each record what has to be known before its turn comes to be decoded."""

    def __init__(self, shape: Shape) -> None:
        """Prepare to decode no other fields than these.

        Args:
            shape: The names of the fields.
        """
        self._shape = shape
        fields = [_field("id", Any, shape.id), _field("created", Any, shape.created)]
        if shape.updated is None:
            child = msgspec.defstruct("_ChildHead", [_field("time", Any, shape.child_time)])
            fields.append(_field("children", list[child] | None, shape.children))  # type: ignore[valid-type]
        else:
            fields.append(_field("updated", Any, shape.updated))
        head = msgspec.defstruct("_Head", fields)
        self._decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(list[head])  # type: ignore[valid-type]

    def decode(self, records: msgspec.Raw) -> list[tuple[object, object, object]]:
        """Return each record's id, when it was made, and when it last changed.

        Raises:
            msgspec.ValidationError: If the records are not an array of objects.
        """
        shape = self._shape
        if shape.updated is not None:
            return [(head.id, head.created, head.updated) for head in self._decoder.decode(records)]
        try:
            return [
                (
                    head.id,
                    head.created,
                    _latest([c.time for c in head.children or ()], head.created),
                )
                for head in self._decoder.decode(records)
            ]
        except msgspec.ValidationError:  # perhaps some children are no objects
            return [self._of(record) for record in _OBJECTS.decode(records)]

    def _of(self, record: dict[str, Any]) -> tuple[object, object, object]:
        shape = self._shape
        found, created = record.get(shape.children), record.get(shape.created)
        children = found if isinstance(found, list) else ()
        times = [child.get(shape.child_time) for child in children if isinstance(child, dict)]
        return record.get(shape.id), created, _latest(times, created)


def _field(attribute: str, kind: Any, name: str) -> tuple[str, Any, Any]:
    return attribute, kind, msgspec.field(default=None, name=name)


def _latest(times: list[object], otherwise: object) -> object:
    instants = [instant for time in times if (instant := to_instant(time)) is not None]
    return max(instants, default=otherwise)


def _mend(content: bytes, levels: int) -> tuple[bytes, int]:
    content, characters = repair(content)
    content, values = flatten(content, levels)
    return content, characters + values


def _decode_or_none(raw: msgspec.Raw | None) -> object:
    return None if raw is None else msgspec.json.decode(raw)


def _describe(envelope: dict[str, Any]) -> str:
    names = ", ".join(f"{name[:40]!a}" for name in list(envelope)[:10])
    return f"an object with the keys {names}" if names else "an empty object"


class CursorPaginator(BaseAPIPaginator["str | None"]):
    """Follows ``hasMore`` and the cursor for as long as they can be believed.

    Fini does not say what its cursor is, so nothing is taken on trust: each page after the
    first has to bring at least one record that this paginator has not seen, and no cursor
    may come round again. Whoever pages learns of a broken promise by an exception, and
    can fall back on windows that need no cursor at all.
    """

    def __init__(self, page_of: Callable[[requests.Response], Page]) -> None:
        """Start before the first page.

        Args:
            page_of: Finds the page that a response holds.
        """
        super().__init__(None)
        self._page_of = page_of
        self._seen: set[str] = set()
        self._cursors: set[str] = set()

    @override
    def continue_if_empty(self, response: requests.Response) -> bool:
        return True

    @override
    def has_more(self, response: requests.Response) -> bool:
        """Tell whether there is a next page.

        Raises:
            UntrustedPagingError: If this page, asked for because more was promised,
                brought nothing new.
        """
        page = self._page_of(response)
        known = len(self._seen)
        self._seen.update(page.ids)
        if len(self._seen) == known and self.count > 1:
            message = "a page that was promised brought nothing new"
            raise UntrustedPagingError(message)
        return page.has_more and bool(page.ids)

    @override
    def get_next(self, response: requests.Response) -> str | None:
        """Return the next cursor.

        Raises:
            UntrustedPagingError: If it has been used before.
        """
        cursor = self._page_of(response).cursor
        if cursor is None or cursor in self._cursors:
            message = "the cursor came round again"
            raise UntrustedPagingError(message)
        self._cursors.add(cursor)
        return cursor


class MovementCheck:
    """Finds out whether records changed places while a window was read.

    If Fini selects by the time of creation but lists the latest change first, a record that
    changes while a window is read jumps from a page still to come to the first page, which
    has been read. It would be missed, and if it is old, for good. Such a jump shows on the
    first page, when that is read once more: above the records that have stayed where they
    were, there is one that no page brought.
    """

    def __init__(self) -> None:
        """Have seen no page yet."""
        self._pages = 0
        self._versions: set[tuple[str, str]] = set()
        self._ids: set[str] = set()
        self._created: list[object] = []
        self._updated: list[object] = []

    def see(self, page: Page) -> None:
        """Take note of a page of the window."""
        self._pages += 1
        self._ids.update(page.ids)
        self._versions.update(_versions(page))
        self._created += page.created
        self._updated += page.updated

    @property
    def is_needed(self) -> bool:
        """Whether records could have moved unseen.

        Not on a single page; and not in an order that is that of creation, and only that.
        """
        return self._pages > 1 and (not _is_ordered(self._created) or _is_ordered(self._updated))

    def confirm(self, first: Page) -> None:
        """Compare the first page, read once more.

        Raises:
            UntrustedPagingError: If a record has moved.
        """
        versions = set(_versions(first))
        if not self._ids.issuperset(first.ids) or (versions and not versions & self._versions):
            message = "records moved while the window was read"
            raise UntrustedPagingError(message)


def _versions(page: Page) -> Iterator[tuple[str, str]]:
    # As texts, for anything may come as a time, also what no set takes.
    return zip(page.ids, map(str, page.updated), strict=False)


def _is_ordered(values: list[object]) -> bool:
    instants = [value for value in values if type(value) is int]
    ascending = sorted(instants)
    return len(instants) == len(values) and instants in (ascending, ascending[::-1])
