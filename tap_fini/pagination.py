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

from tap_fini.records import repair, usable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


@dataclass(frozen=True, slots=True)
class Page:
    """One response: the heads of its records, the records still as JSON."""

    ids: tuple[str, ...]
    """The records' ids, in the response's order; those without a usable one are left out."""

    times: tuple[tuple[object, ...], ...]
    """The records' ``createdAt`` and ``updatedAt`` values, a tuple for each."""

    has_more: bool
    cursor: str | None
    """What to send to get the next page: the response's own cursor, else the last id."""

    content: msgspec.Raw
    """The array of records, undecoded: a third of the memory of decoded ones."""

    served_at: int | None = None
    """The server's clock (the Date header), in epoch milliseconds."""

    @property
    def size(self) -> int:
        """The size in bytes of the undecoded records."""
        return memoryview(self.content).nbytes

    def records(self) -> tuple[list[dict[str, Any]], int]:
        """Decode the records.

        Returns:
            The records, and how many characters had to be replaced in them.

        Raises:
            msgspec.DecodeError: If they are not an array of objects.
            RecursionError: If they are nested too deeply.
        """
        content = bytes(self.content)
        if _NUL not in content:
            try:
                return _RECORDS.decode(content), 0
            except msgspec.DecodeError:
                pass
        content, replaced = repair(content)
        return _RECORDS.decode(content), replaced


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
        times=(tuple(h.createdAt for h in heads), tuple(h.updatedAt for h in heads)),
        has_more=has_more,
        cursor=cursor,
        content=envelope[key],
        served_at=served_at,
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
