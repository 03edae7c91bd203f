"""Made-up support chats: deterministic, and as varied as the real ones."""

from __future__ import annotations

import random
from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from tests.sandbox.texts import ARTICLES, CLOSINGS, REASONS, SECTIONS, TOPICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sandbox.world import Conversation

T = TypeVar("T")

START = 1_735_689_600_000
"""2025-01-01 UTC in epoch milliseconds."""

END = 1_751_328_000_000
"""2025-07-01 UTC in epoch milliseconds."""

Shape = Literal["even", "growing", "dense"]

_MINUTE = 60_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_LATE_SHARE = 0.08

# source, share of the conversations, escalation rate, channels
_SOURCES: tuple[tuple[str, float, float, tuple[str | None, ...]], ...] = (
    ("widget", 0.34, 0.11, (None,)),
    ("zendesk", 0.26, 0.19, ("email", "email", "web", "messaging")),
    ("intercom", 0.17, 0.23, ("chat", "chat", "email")),
    ("slack", 0.09, 0.06, ("#help", "#support", "#it-questions")),
    ("discord", 0.07, 0.09, ("support", "general")),
    ("api", 0.05, 0.15, (None, "ios", "android")),
    ("ui", 0.02, 0.02, (None,)),
)
_SOURCE_BOUNDS = tuple(accumulate(source[1] for source in _SOURCES))

_TURN_BOUNDS = tuple(accumulate((0.28, 0.25, 0.18, 0.12, 0.08, 0.05, 0.025, 0.015)))

# Zipf: the n-th article is used 1/n as often as the first.
_ARTICLE_BOUNDS = tuple(accumulate(1 / rank for rank in range(1, len(ARTICLES) + 1)))

_TOPIC_BOUNDS = tuple(accumulate((0.2, 0.24, 0.18, 0.19, 0.13, 0.06)))


def documented_example() -> Conversation:
    """Return the conversation on Fini's page "Get chat history", exactly."""
    return {
        "id": "a35607bc-8008-44fd-9991-1d7c2c5c3f22",
        "externalId": None,
        "source": "widget",
        "channel": None,
        "escalation": False,
        "hasLinks": True,
        "feedbackType": None,
        "expectingUserFollowup": False,
        "url": None,
        "categories": ["fini-other"],
        "createdAt": 1740407169191,
        "updatedAt": 1740407178879,
        "botRequests": [
            {
                "question": "Hello",
                "answer": "Hello, how can I help you?",
                "categories": ["fini-other"],
                "escalation": False,
                "reasoning": None,
                "feedbackType": None,
                "expectingUserFollowup": False,
                "createdAt": 1740407178963,
                "basedOn": [],
            }
        ],
    }


def make_conversations(
    count: int,
    *,
    seed: int = 0,
    start: int = START,
    end: int = END,
    marker: str = "",
    shape: Shape = "even",
) -> list[Conversation]:
    """Make up ``count`` conversations, the oldest first; the same arguments give the same ones.

    Args:
        count: how many.
        seed: another seed, other conversations, with other ids.
        start: nothing happens before, epoch milliseconds.
        end: everything happens before, epoch milliseconds.
        marker: put into every text that people or Fini wrote, for a grep to find.
        shape: how ``createdAt`` lies in the span: evenly; ever denser; or with 60 % of it in one
            hour (a tenth of a span below ten hours), several in the same millisecond.

    Raises:
        ValueError: the span is empty, or the shape unknown.
    """
    if end <= start:
        msg = "end must be after start"
        raise ValueError(msg)
    if shape not in get_args(Shape):
        msg = f"unknown shape {shape!r}"
        raise ValueError(msg)
    maker = _Maker(seed, start, end, f" {marker}" if marker else "")
    return [maker.conversation(created) for created in maker.times(count, shape)]


def edited(conversation: Conversation, at: int, *, seed: int = 0, marker: str = "") -> Conversation:
    """Return the conversation after another turn, or thumbs down, at ``at`` (epoch ms)."""
    maker = _Maker(seed, at, at + 1, f" {marker}" if marker else "")
    turns = list(conversation["botRequests"])
    changes: Conversation = {"updatedAt": at}
    if maker.chance(0.5):
        turns.append(maker.turn(at, maker.topic(), escalation=False))
    else:
        changes["feedbackType"] = "thumbs_down"
        turns[-1] = {**turns[-1], "feedbackType": "thumbs_down"}
    return {**conversation, **changes, "botRequests": turns}


class _Maker:
    """Draws conversations.

    Only ``random()`` and ``getrandbits()`` are used: those are the same on every Python, and fast.
    """

    def __init__(self, seed: int, start: int, end: int, marker: str) -> None:
        rng = random.Random(seed)
        self.random = rng.random
        self.bits = rng.getrandbits
        self.start = start
        self.end = end
        self.marker = marker

    def chance(self, share: float) -> bool:
        return self.random() < share

    def below(self, bound: int) -> int:
        return int(self.random() * bound)

    def one_of(self, values: Sequence[T]) -> T:
        return values[int(self.random() * len(values))]

    def place(self, bounds: Sequence[float]) -> int:
        return bisect(bounds, self.random() * bounds[-1], hi=len(bounds) - 1)

    def uuid(self) -> str:
        digits = f"{self.bits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def times(self, count: int, shape: Shape) -> list[int]:
        """Draw when the conversations begin, ascending."""
        span = self.end - self.start
        if shape == "even":
            return [self.start + int((i + self.random()) / count * span) for i in range(count)]
        if shape == "growing":
            return [
                self.start + int(((i + self.random()) / count) ** 0.5 * span) for i in range(count)
            ]
        length = max(min(_HOUR, span // 10), 1)
        # Coarse enough for ties, fine enough that a page holds all of a millisecond.
        step = max(length // max(count // 3, 1), 1)
        begin = self.start + span * 2 // 3
        burst = [
            min(begin + self.below(length) // step * step, self.end - 1)
            for _ in range(count * 3 // 5)
        ]
        rest = [self.start + self.below(span) for _ in range(count - len(burst))]
        return sorted(burst + rest)

    def topic(self) -> int:
        return self.place(_TOPIC_BOUNDS)

    def conversation(self, created: int) -> Conversation:
        source, _, escalation_rate, channels = _SOURCES[self.place(_SOURCE_BOUNDS)]
        last = self.end - 1
        topic = self.topic()
        count = self.place(_TURN_BOUNDS) + 1
        escalated = self.chance(escalation_rate)
        moment = created
        turns = []
        for number in range(count):
            moment = min(moment + 1_500 + int(self.random() ** 3 * 20 * _MINUTE), last)
            turns.append(
                self.turn(
                    moment,
                    topic if self.chance(0.85) else self.topic(),
                    escalation=escalated and number == count - 1,
                )
            )
        # As in Fini's own example, the last answer can be a little younger than updatedAt.
        updated = moment - self.below(101) if self.chance(0.6) else moment + self.below(3_000)
        if self.chance(_LATE_SHARE):
            updated = created + _DAY + self.below(19 * _DAY)
            if self.chance(0.5):
                turns[-1]["createdAt"] = min(updated + self.below(101), last)
        number = self.bits(24)
        conversation: Conversation = {
            "id": self.uuid(),
            "externalId": None,
            "source": source,
            "channel": self.one_of(channels),
            "escalation": escalated,
            "hasLinks": any(turn["basedOn"] for turn in turns) or self.chance(0.1),
            "feedbackType": next((t["feedbackType"] for t in turns if t["feedbackType"]), None),
            "expectingUserFollowup": turns[-1]["expectingUserFollowup"],
            "url": None,
            "categories": list(dict.fromkeys(name for t in turns for name in t["categories"])),
            "createdAt": created,
            "updatedAt": min(max(updated, created), last),
            "userId": None if self.chance(0.3) else f"user_{self.bits(20):05x}",
            "botRequests": turns,
        }
        if source == "zendesk":
            conversation["externalId"] = f"{number}"
            conversation["url"] = f"https://acme.zendesk.com/agent/tickets/{number}"
        elif source == "intercom":
            conversation["externalId"] = f"21546{number:09d}"
            conversation["url"] = f"https://app.intercom.com/a/inbox/acme/conversation/{number}"
        elif source == "slack":
            conversation["url"] = f"https://acme.slack.com/archives/C04{number:08X}/p{created}"
        return conversation

    def turn(self, moment: int, topic: int, *, escalation: bool) -> Conversation:
        """Draw a bot request."""
        category, questions, answers = TOPICS[topic]
        number = f"{self.bits(20):06d}"
        answer = f"{self.one_of(answers)}\n\n{self.one_of(CLOSINGS)}"
        if self.chance(0.12):
            answer += "\n\n" + "\n".join(self.one_of(SECTIONS) for _ in range(8 + self.below(5)))
        elif self.chance(0.75):
            answer += f"\n\n{self.one_of(SECTIONS)}"
        reasoning = None
        if self.chance(0.35):
            reasoning = self.one_of(REASONS).format(n=number) + self.marker
        thumbs = self.random()
        return {
            "question": self.one_of(questions).format(n=number) + self.marker,
            "answer": answer.format(n=number) + self.marker,
            "categories": [category] if self.chance(0.9) else [category, "vip"],
            "escalation": escalation,
            "reasoning": reasoning,
            "feedbackType": "thumbs_up"
            if thumbs < 0.06
            else "thumbs_down"
            if thumbs > 0.96
            else None,
            "expectingUserFollowup": self.chance(0.25),
            "createdAt": moment,
            "basedOn": [] if self.chance(0.3) else self.sources(number),
        }

    def sources(self, number: str) -> list[dict[str, Any]]:
        """Draw the knowledge an answer used, in each of the shapes that clients have seen."""
        used: list[dict[str, Any]] = []
        for place in {self.place(_ARTICLE_BOUNDS) for _ in range(1 + self.below(3))}:
            title = ARTICLES[place]
            item: dict[str, Any] = {"id": f"article-{place:03d}", "title": title}
            shape = self.random()
            if shape < 0.5:
                item |= {"sourceId": f"src_{place:04d}", "sourceType": "article"}
            elif shape < 0.75:
                item |= {"source_id": f"src_{place:04d}", "source_type": "zendesk"}
            elif shape < 0.85:
                item["id"] = [item["id"], f"article-{place:03d}-b"]
            elif shape < 0.95:
                item |= {
                    "question": f"What about {number}?{self.marker}",
                    "answer": f"See “{title}”.{self.marker}",
                }
            else:
                item["entry"] = f"{title}: the short version.{self.marker}"
            item["score"] = round(0.4 + self.random() * 0.6, 4)
            used.append(item)
        return used
