"""The conversations that the sandbox holds: the truth, whatever the switches make of it."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from tests.sandbox.switches import Switches

Conversation: TypeAlias = "dict[str, Any]"
T = TypeVar("T")

_MEMO_SIZE = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One conversation or interaction, encoded, with what the API's filters look at.

    Kept as JSON: small, and a copy by nature, so that nobody changes the world through a dict.
    """

    id: str
    json: bytes
    times: dict[str, int]
    source: Any
    channel: Any = None
    agent: Any = None
    categories: tuple[Any, ...] = ()
    feedback: Any = None
    escalation: Any = None
    has_links: Any = None
    user_id: Any = None
    ticket_id: Any = None

    @classmethod
    def of(cls, conversation: Conversation) -> Entry:
        """Encode a conversation.

        Raises:
            ValueError: no id, or no time at all to select it by.
        """
        if not isinstance(conversation.get("id"), str) or not conversation["id"]:
            msg = "a conversation needs an id"
            raise ValueError(msg)
        times = {
            name: value
            for name in ("createdAt", "updatedAt")
            if isinstance(value := conversation.get(name), int) and not isinstance(value, bool)
        }
        if not times:
            msg = "a conversation needs createdAt or updatedAt in epoch milliseconds"
            raise ValueError(msg)
        # A misfit in one of the two (a test's own) must not make the conversation unreachable.
        fallback = next(iter(times.values()))
        categories = conversation.get("categories")
        return cls(
            id=conversation["id"],
            json=msgspec.json.encode(conversation),
            times={name: times.get(name, fallback) for name in ("createdAt", "updatedAt")},
            source=conversation.get("source"),
            categories=tuple(categories) if isinstance(categories, list) else (),
            feedback=conversation.get("feedbackType"),
            escalation=conversation.get("escalation"),
            has_links=conversation.get("hasLinks"),
            user_id=conversation.get("userId"),
            ticket_id=conversation.get("externalId"),
        )

    def decoded(self) -> Conversation:
        """Return a fresh dict of the conversation."""
        conversation: Conversation = msgspec.json.decode(self.json)
        return conversation


class World:
    """The conversations, changed by tests and read by the server, thread-safe."""

    def __init__(
        self,
        conversations: Iterable[Conversation] = (),
        *,
        entry_of: Callable[[Conversation], Entry] = Entry.of,
        as_served: Callable[[Conversation, Switches], Conversation] | None = None,
    ) -> None:
        """Take copies of ``conversations``; a later one replaces an earlier one of the same id.

        Args:
            conversations: what there is at first.
            entry_of: encodes one.
            as_served: turns one, in place, into what the API shows.
        """
        self.lock = threading.RLock()
        self._entry_of = entry_of
        self._as_served = as_served or conversation_as_served
        self._entries = {entry.id: entry for entry in map(entry_of, conversations)}
        self._memo: dict[Hashable, Any] = {}
        self._served: dict[Hashable, dict[str, bytes]] = {}

    def __len__(self) -> int:
        """How many conversations there are."""
        return len(self._entries)

    @property
    def conversations(self) -> list[Conversation]:
        """Copies of all conversations, in the order they first came."""
        return [entry.decoded() for entry in self.entries]

    @property
    def entries(self) -> list[Entry]:
        """All conversations as they are kept."""
        with self.lock:
            return list(self._entries.values())

    def get(self, conversation_id: str) -> Conversation:
        """Return a copy of one conversation.

        Raises:
            KeyError: there is none of that id.
        """
        with self.lock:
            return self._entries[conversation_id].decoded()

    def upsert(self, conversation: Conversation) -> None:
        """Put a copy of ``conversation`` in, in place of the one with its id."""
        entry = self._entry_of(conversation)
        with self.lock:
            self._entries[entry.id] = entry
            self._forget(entry.id)

    def delete(self, conversation_id: str) -> None:
        """Take a conversation out.

        Raises:
            KeyError: there is none of that id.
        """
        with self.lock:
            del self._entries[conversation_id]
            self._forget(conversation_id)

    def memo(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return what ``build`` made for ``key`` since the last change; call it under ``lock``."""
        found: T | None = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO_SIZE:
                del self._memo[next(iter(self._memo))]
            found = self._memo[key] = build()
        return found

    def served(self, entry: Entry, switches: Switches) -> bytes:
        """Return the JSON of a conversation as the API shows it; call it under ``lock``."""
        form = (switches.bot_request_order, switches.bot_request_ids, switches.user_ids)
        known = self._served.setdefault(form, {})
        found = known.get(entry.id)
        if found is None:
            found = known[entry.id] = msgspec.json.encode(
                self._as_served(entry.decoded(), switches)
            )
        return found

    def truth(self, switches: Switches) -> list[Conversation]:
        """Return all conversations as they are served, by id."""
        entries = sorted(self.entries, key=lambda entry: entry.id)
        return [self._as_served(entry.decoded(), switches) for entry in entries]

    def _forget(self, conversation_id: str) -> None:
        self._memo.clear()
        for known in self._served.values():
            known.pop(conversation_id, None)


def shuffle_key(*parts: object) -> str:
    """Make a fixed pseudo-random sort key, the same in every run and on every Python."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def conversation_as_served(conversation: Conversation, switches: Switches) -> Conversation:
    """Turn a conversation, in place, into what the API shows under ``switches``."""
    if not switches.user_ids:
        conversation.pop("userId", None)
    rows = conversation.get("botRequests")
    if are_timed(rows):
        rows.sort(key=lambda row: row["createdAt"])
        rows = [
            _with_id(row, conversation["id"], place)
            if switches.bot_request_ids
            else _without_id(row)
            for place, row in enumerate(rows)
        ]
        conversation["botRequests"] = in_order(rows, conversation["id"], switches)
    return conversation


def are_timed(rows: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Tell whether these can be put in order; a test's own misfits go out as they came."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("createdAt"), int) for row in rows
    )


def in_order(rows: list[Any], record_id: str, switches: Switches) -> list[Any]:
    """Put what is inside a record, oldest first, into the order that the switches want."""
    if switches.bot_request_order == "newest":
        return rows[::-1]
    if switches.bot_request_order == "shuffled":
        places = sorted(range(len(rows)), key=lambda place: shuffle_key(record_id, place))
        return [rows[place] for place in places]
    return rows


def _with_id(row: Conversation, conversation_id: str, place: int) -> Conversation:
    digits = shuffle_key("bot request", conversation_id, place)
    made = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
    return {"id": made, **row}


def _without_id(row: Conversation) -> Conversation:
    return {name: value for name, value in row.items() if name != "id"}
