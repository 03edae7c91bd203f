"""Pages of an export, and the paginator that follows them without trusting them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk.pagination import BaseAPIPaginator

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

from tap_fini.records import MAX_LEVELS, flatten, repair, usable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import requests


class EnvelopeError(Exception):
    """A response that is JSON, but not a page of the export. Says what was found."""


class UntrustedPagingError(Exception):
    """The pages of a window cannot be shown to be complete. Says why."""


class _Head(msgspec.Struct):
    """What has to be known of a conversation before its turn comes to be decoded."""

    id: Any = None
    createdAt: Any = None  # noqa: N815
    updatedAt: Any = None  # noqa: N815


_ENVELOPE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_HEADS = msgspec.json.Decoder(list[_Head])
_RECORDS = msgspec.json.Decoder(list[dict[str, Any]])
_NUL = rb"\u0000"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LEVELS = MAX_LEVELS + 3  # the page is an object, with an array, of objects


@dataclass(frozen=True, slots=True)
class Page:
    """One response: the heads of its records, the records still as JSON."""

    ids: tuple[str, ...]
    """The records' ids, in the response's order; those without a usable one are left out."""

    created: tuple[object, ...]
    """The records' ``createdAt`` values."""

    updated: tuple[object, ...]
    """The records' ``updatedAt`` values."""

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
        if _NUL not in content:
            try:
                return _RECORDS.decode(content), self.replaced
            except _UNREADABLE:
                pass
        content, replaced = _mend(content, _LEVELS - 1)
        return _RECORDS.decode(content), self.replaced + replaced


def parse_page(content: bytes, keys: Sequence[str], *, served_at: int | None = None) -> Page:
    """Read a response's body.

    Args:
        content: The body: JSON, UTF-8.
        keys: The names under which the array of records may stand.
        served_at: The server's clock, in epoch milliseconds.

    Raises:
        msgspec.DecodeError: If the body is no JSON object (a subclass, ``ValidationError``,
            tells JSON of another type).
        EnvelopeError: If it is not a page: no array of objects under one of the keys, or
            no boolean ``hasMore``.
    """
    try:
        return _parse(content, keys, served_at, 0)
    except (*_UNREADABLE, EnvelopeError):
        mended, replaced = _mend(content, _LEVELS)
        return _parse(mended, keys, served_at, replaced)


def _mend(content: bytes, levels: int) -> tuple[bytes, int]:
    content, characters = repair(content)
    content, values = flatten(content, levels)
    return content, characters + values


def _parse(content: bytes, keys: Sequence[str], served_at: int | None, replaced: int) -> Page:
    envelope = _ENVELOPE.decode(content)
    key = next((key for key in keys if key in envelope), None)
    has_more = _decode_or_none(envelope.get("hasMore"))
    if key is None or not isinstance(has_more, bool):
        raise EnvelopeError(_describe(envelope))
    try:
        heads = _HEADS.decode(envelope[key])
    except msgspec.ValidationError as error:
        message = f"an object whose {key!r} is not an array of objects"
        raise EnvelopeError(message) from error
    ids = tuple(text for head in heads if (text := usable_id(head.id)) is not None)
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
        created=tuple(head.createdAt for head in heads),
        updated=tuple(head.updatedAt for head in heads),
        has_more=has_more,
        cursor=cursor,
        content=envelope[key],
        served_at=served_at,
        replaced=replaced,
    )


def _decode_or_none(raw: msgspec.Raw | None) -> object:
    return None if raw is None else msgspec.json.decode(raw)


def _describe(envelope: dict[str, msgspec.Raw]) -> str:
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
