"""Made-up histories of any length that take no memory: found by arithmetic, made up on demand."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tests.sandbox.data import make_conversations
from tests.sandbox.interaction_data import as_interaction

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = 86_400_000

_TIME = re.compile(rb'(?<=At":)\d{13}')

DISTINCT = 5_000
"""Different conversations. A longer history repeats them under other ids and times, so that a
conversation costs the same in a history of any length."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a history: so many conversations, evenly spread over a span of time.

    Attributes:
        start: epoch milliseconds.
        end: epoch milliseconds; the next stretch starts no earlier.
        count: how many.
    """

    start: int
    end: int
    count: int

    def time(self, place: int) -> int:
        """Return when the conversation at a place was updated."""
        return self.start + place * (self.end - self.start) // self.count

    def before(self, instant: int) -> int:
        """Count the conversations updated before an instant."""
        if self.count == 0 or instant <= self.start:
            return 0
        return min(self.count, -(-(instant - self.start) * self.count // (self.end - self.start)))


class _Story(NamedTuple):
    """The JSON of an interaction, from its id on, with places for its times.

    Attributes:
        text: a bytes format.
        before: how long before the latest event each of the times lies, in milliseconds.
        children: the number of events.
    """

    text: bytes
    before: tuple[int, ...]
    children: int


class _Body(NamedTuple):
    """The JSON of a conversation, cut where its id and its times belong."""

    after_id: bytes
    after_times: bytes
    lasted: int
    children: int


class History:
    """Conversations in the order of ``updatedAt``, each known by its place in that order."""

    def __init__(
        self, stretches: Sequence[Stretch], *, seed: int = 0, huge: int = 0, newer: bool = False
    ) -> None:
        """Make up what the conversations consist of.

        Args:
            stretches: how they lie in time, in order.
            seed: another seed, other texts.
            huge: the number of bot requests of the conversation in the middle, if not 0.
            newer: whether it is told in interactions.
        """
        self.newer = newer
        self._stretches = stretches
        self._starts = [0, *accumulate(stretch.count for stretch in stretches)]
        self.count = self._starts[-1]
        conversations = make_conversations(min(max(self.count, 1), DISTINCT), seed=seed)
        self._special: dict[int, _Body] = {}
        if huge and self.count:
            turns = [turn for conversation in conversations for turn in conversation["botRequests"]]
            grown = {
                **conversations[0],
                "botRequests": [turns[n % len(turns)] for n in range(huge)],
            }
            self._special[self.count // 2] = _cut(grown)
        self._bodies: list[_Body] | list[_Story] = (
            [_tell(as_interaction(conversation)) for conversation in conversations]
            if newer
            else [_cut(conversation) for conversation in conversations]
        )

    @property
    def children(self) -> int:
        """How many bot requests there are in all."""
        rounds, rest = divmod(self.count, len(self._bodies))
        counts = [body.children for body in self._bodies]
        total = rounds * sum(counts) + sum(counts[:rest])
        for place, body in self._special.items():
            total += body.children - counts[place % len(counts)]
        return total

    def before(self, instant: int) -> int:
        """Count the conversations updated before an instant."""
        return sum(stretch.before(instant) for stretch in self._stretches)

    def conversation(self, place: int) -> bytes:
        """Return the JSON of a conversation."""
        body: _Body | _Story = self._special.get(place) or self._bodies[place % len(self._bodies)]
        number = next(n for n, start in enumerate(self._starts) if place < start) - 1
        updated = self._stretches[number].time(place - self._starts[number])
        if isinstance(body, _Story):
            return body.text % (place, *[updated - before for before in body.before])
        times = (place, body.after_id, updated - body.lasted, updated, body.after_times)
        return b'{"id":"%08x%b,"createdAt":%d,"updatedAt":%d%b' % times


def place_of(conversation_id: str) -> int:
    """Return a conversation's place, which its id begins with.

    Raises:
        ValueError: it is no id of a history's conversation.
    """
    return int(conversation_id[:8], 16)


def even(count: int, *, start: int = 1_704_067_200_000, days: float = 365) -> list[Stretch]:
    """A history without ups and downs, from 2024-01-01 unless told otherwise."""
    return [Stretch(start, start + int(days * DAY), count)]


def _tell(interaction: dict[str, Any]) -> _Story:
    text = msgspec.json.encode(interaction)[len(b'{"id":"') + 8 :].replace(b"%", b"%%")
    latest = max(event["createdAt"] for event in interaction["events"])
    before = tuple(latest - int(found) for found in _TIME.findall(text))
    return _Story(b'{"id":"%08x' + _TIME.sub(b"%d", text), before, len(interaction["events"]))


def _cut(conversation: dict[str, Any]) -> _Body:
    text = msgspec.json.encode(conversation)
    created, updated = conversation["createdAt"], conversation["updatedAt"]
    before, times, after = text.partition(b',"createdAt":%d,"updatedAt":%d' % (created, updated))
    assert times, "the times of a conversation stand side by side, before its bot requests"
    after_id = before[len(b'{"id":"') + 8 :]
    children = len(conversation["botRequests"])
    return _Body(sys.intern(after_id.decode()).encode(), after, updated - created, children)
