"""What the export endpoints share: refusals, windows, pages cut out of a sorted listing."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from tests.sandbox.world import shuffle_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tests.sandbox.switches import Switches
    from tests.sandbox.world import Entry, World

DAY = 86_400_000
"""Milliseconds in a day."""

DEFAULT_LIMIT = 50

SortKey: TypeAlias = "tuple[int | str, str]"


class Refusal(Exception):  # noqa: N818
    """A request that the API answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status and Fini's message."""
        super().__init__(message)
        self.status = status
        self.message = message


class Window(NamedTuple):
    """A span of time in epoch milliseconds; the switches say which ends belong to it."""

    start: int
    end: int


@dataclass(slots=True)
class Listing:
    """All that a query finds, in the API's order."""

    rows: Sequence[Entry]
    keys: Sequence[SortKey]  # of the rows, but always ascending: bisect needs that
    descending: bool
    places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Note where each row stands."""
        self.places = {row.id: place for place, row in enumerate(self.rows)}

    def key_at(self, place: int) -> SortKey:
        """Return the sort key of a row."""
        return self.keys[-1 - place if self.descending else place]

    def around(self, key: SortKey) -> tuple[int, int]:
        """Count the rows before ``key``, and say where those after it begin."""
        left, right = bisect_left(self.keys, key), bisect_right(self.keys, key)
        return (len(self.keys) - right, len(self.keys) - left) if self.descending else (left, right)


class Page(NamedTuple):
    """A page, and what its envelope says about its neighbours."""

    rows: Sequence[Entry]
    has_more: bool
    cursors: dict[str, str | None]


def listing_of(entries: Sequence[Entry], switches: Switches) -> Listing:
    """Sort ``entries`` as the switches want it; ties are broken by id."""
    if switches.order == "shuffled":
        keyed: list[tuple[SortKey, Entry]] = [((shuffle_key(e.id), e.id), e) for e in entries]
    else:
        by = switches.order_field or switches.filter_field
        keyed = [((e.times[by], e.id), e) for e in entries]
    keyed.sort(key=lambda pair: pair[0])
    rows = [entry for _, entry in keyed]
    descending = switches.order == "newest"
    if descending:
        rows.reverse()
    return Listing(rows, [key for key, _ in keyed], descending)


def refuse_unknown(params: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse parameters that an endpoint does not have, and empty ones.

    Raises:
        Refusal: there is one.
    """
    unknown = params.keys() - known
    if unknown:
        raise Refusal(400, f"property {min(unknown)} should not exist")
    for name, value in params.items():
        if not value and name not in {"cursor", "direction"}:
            raise Refusal(400, f"{name} should not be empty")


def page_of(
    world: World,
    params: Mapping[str, str],
    window: Window,
    tests: Mapping[str, Callable[[Entry], bool]],
    switches: Switches,
) -> tuple[bytes, Page]:
    """Find the page that a query asks for.

    Args:
        world: what there is.
        params: the query parameters.
        window: the span they ask for.
        tests: what the filters among them let through, by their names.
        switches: how this Fini behaves.

    Returns:
        The JSON of the records, separated by commas, and the page.

    Raises:
        Refusal: the request breaks a rule.
    """
    limit = limit_of(params.get("limit"), switches)
    shape = (
        window,
        tuple((name, params[name]) for name in tests),
        switches.filter_field,
        switches.start_inclusive,
        switches.end_inclusive,
        switches.order,
        switches.order_field,
    )

    def build() -> Listing:
        entries = _within(world, window, switches)
        return listing_of([e for e in entries if all(t(e) for t in tests.values())], switches)

    with world.lock:
        page = cut(world.memo(shape, build), params, limit, switches)
        return b",".join([world.served(entry, switches) for entry in page.rows]), page


def _within(world: World, window: Window, switches: Switches) -> Sequence[Entry]:
    """Find the records of a window, by the field that the switches filter by."""
    by = switches.filter_field

    def by_time() -> tuple[list[int], list[Entry]]:
        entries = sorted(world.entries, key=lambda entry: entry.times[by])
        return [entry.times[by] for entry in entries], entries

    times, entries = world.memo(("by time", by), by_time)
    first = (bisect_left if switches.start_inclusive else bisect_right)(times, window.start)
    last = (bisect_right if switches.end_inclusive else bisect_left)(times, window.end)
    return entries[first:last]


def integer(name: str, text: str) -> int:
    """Read a parameter that has to be a non-negative integer.

    Raises:
        Refusal: it is not.
    """
    if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII):
        raise Refusal(400, f"{name} must be a non-negative integer")
    return int(text)


def window_of(
    params: Mapping[str, str], names: tuple[str, str], now: int, switches: Switches
) -> Window:
    """Return the window a query asks for, the API's defaults filled in.

    Args:
        params: the query parameters.
        names: those of the two ends.
        now: the server's time in epoch milliseconds.
        switches: how this Fini behaves.

    Raises:
        Refusal: the window is empty or too wide, or an end is no epoch.
    """
    start, end = names
    last = integer(end, params[end]) if end in params else now
    first = (
        integer(start, params[start])
        if start in params
        else now - int(switches.default_window_days * DAY)
    )
    if first >= last:
        raise Refusal(400, f"{start} must be before {end}")
    widest = switches.max_window_days
    if widest is not None and last - first > widest * DAY:
        raise Refusal(400, f"The time range must not be wider than {widest:g} days")
    return Window(first, last)


def limit_of(text: str | None, switches: Switches) -> int:
    """Return how many rows a page holds.

    Raises:
        Refusal: below 1, no integer, or above the maximum where that is refused.
    """
    if text is None:
        return min(DEFAULT_LIMIT, switches.max_limit)
    limit = integer("limit", text)
    if limit < 1:
        raise Refusal(400, "limit must not be less than 1")
    if limit > switches.max_limit and switches.over_limit == "refused":
        raise Refusal(400, f"limit must not be greater than {switches.max_limit}")
    return min(limit, switches.max_limit)


def query_digest(params: Mapping[str, str]) -> str:
    """Digest what a token belongs to: the query without its paging."""
    paging = {"cursor", "direction", "limit"}
    asked = sorted(item for item in params.items() if item[0] not in paging)
    return hashlib.blake2b(repr(asked).encode(), digest_size=6).hexdigest()


def cut(listing: Listing, params: Mapping[str, str], limit: int, switches: Switches) -> Page:
    """Cut the page that ``cursor`` and ``direction`` ask for.

    Raises:
        Refusal: the cursor or the direction is not one that this API takes.
    """
    cursor = params.get("cursor", "")
    direction = params.get("direction") or "next"
    if direction not in {"next", "previous"}:
        raise Refusal(400, "direction must be one of the following values: next, previous")
    if direction == "previous" and not cursor:
        raise Refusal(400, "direction previous needs a cursor")
    digest = query_digest(params)
    place = _around_cursor(listing, cursor, digest, switches)
    size = len(listing.rows)
    if place is None:
        first, last = 0, 0
    elif direction == "next":
        first, last = place[1], min(place[1] + limit, size)
    else:
        first, last = max(place[0] - limit, 0), place[0]
    rows = listing.rows[first:last]
    before = first > 0 and place is not None
    after = last < size and place is not None
    has_more = {
        "exact": after if direction == "next" else before,
        "page_full": len(rows) == limit,
        "always": True,
    }[switches.has_more]
    cursors: dict[str, str | None] = {}
    if switches.cursor in {"body_cursor", "body_next_cursor", "next_id"}:
        ends: tuple[str | None, str | None] = (None, None)
        if rows and switches.cursor == "next_id":
            ends = rows[0].id, rows[-1].id
        elif rows:
            keys = listing.key_at(first), listing.key_at(last - 1)
            ends = _token(keys[0], digest), _token(keys[1], digest)
        if switches.cursor == "body_cursor":
            # There even when nothing follows: only hasMore says that it is over.
            cursors["cursor"] = ends[1] if direction == "next" else ends[0]
        else:
            onward, back = (has_more, before) if direction == "next" else (after, has_more)
            cursors["nextCursor"] = ends[1] if onward else None
            cursors["prevCursor"] = ends[0] if back else None
    return Page(rows, has_more, cursors)


def _around_cursor(
    listing: Listing, cursor: str, digest: str, switches: Switches
) -> tuple[int, int] | None:
    """Count the rows before the cursor, and say where those after it begin; None: no rows."""
    if not cursor or switches.cursor == "ignored":
        return (0, 0)
    if switches.cursor == "refused":
        raise Refusal(400, "cursor is not valid")
    if switches.cursor not in {"last_id", "next_id"}:
        return listing.around(_untoken(cursor, digest))
    found = listing.places.get(cursor)
    if found is not None:
        return (found, found + 1)
    if switches.unknown_cursor == "refused":
        raise Refusal(400, "cursor is not valid")
    return (0, 0) if switches.unknown_cursor == "first" else None


def _token(key: SortKey, digest: str) -> str:
    """Make an opaque cursor.

    Standard base64 on purpose: its ``+``, ``/`` and ``=`` break a client that does not encode.
    """
    # The leading bytes put '+' and '/' into every token, not into some by chance.
    return base64.b64encode(b"\xfb\xef\xff" + msgspec.json.encode((*key, digest))).decode()


def _untoken(token: str, digest: str) -> SortKey:
    try:
        raw = base64.b64decode(token, validate=True)
        if not raw.startswith(b"\xfb\xef\xff"):
            raise Refusal(400, "cursor is not valid")
        value, entry_id, made_for = msgspec.json.decode(raw[3:], type=tuple[int | str, str, str])
    except (binascii.Error, UnicodeEncodeError, ValueError, msgspec.DecodeError) as error:
        raise Refusal(400, "cursor is not valid") from error
    if made_for != digest:
        raise Refusal(400, "cursor belongs to another query")
    return (value, entry_id)
