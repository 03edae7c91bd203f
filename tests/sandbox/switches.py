"""What nobody knows about Fini's API, as switches, and what can go wrong, as faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

Kind = Literal[
    "429",
    "500",
    "502_html",
    "503",
    "reset",
    "stall",
    "truncated",
    "truncated_chunked",
    "bad_json",
    "html_200",
    "wrong_shape",
    "redirect",
    "empty_200",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """One possible Fini: an answer to every unknown in ``fini-api.md``.

    Times are seconds, windows are days; README.md says what each switch means.

    Raises:
        ValueError: a value that the switch does not have.
    """

    cursor: Literal[
        "last_id", "body_cursor", "body_next_cursor", "next_id", "ignored", "refused"
    ] = "last_id"
    unknown_cursor: Literal["empty", "refused", "first"] = "refused"
    order: Literal["newest", "oldest", "shuffled"] = "newest"
    order_field: Literal["createdAt", "updatedAt"] | None = None
    filter_field: Literal["createdAt", "updatedAt"] = "updatedAt"
    start_inclusive: bool = True
    end_inclusive: bool = True
    has_more: Literal["exact", "page_full", "always"] = "exact"
    max_limit: int = 100
    over_limit: Literal["capped", "refused"] = "capped"
    max_window_days: float | None = 90
    default_window_days: float = 7
    bot_request_order: Literal["oldest", "newest", "shuffled"] = "oldest"
    bot_request_ids: bool = False
    user_ids: bool = True
    interactions_key: Literal["interactions", "conversations"] = "interactions"
    throttle: int | None = None
    throttle_window: float = 60.0
    retry_after: Literal["seconds", "date"] | None = "seconds"
    latency: float = 0.0
    date_header: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        for field in fields(self):
            value = getattr(self, field.name)
            choices = CHOICES.get(field.name)
            if choices is not None and not any(
                value is c or (isinstance(value, str) and value == c) for c in choices
            ):
                msg = f"{field.name} must be one of {choices}, not {value!r}"
                raise ValueError(msg)
            if field.type == "bool" and not isinstance(value, bool):
                msg = f"{field.name} must be a boolean, not {value!r}"
                raise ValueError(msg)
        for name, value, least in (
            ("max_limit", self.max_limit, 1),
            ("max_window_days", self.max_window_days, 1 / 86_400_000),
            ("default_window_days", self.default_window_days, 1 / 86_400_000),
            ("throttle", self.throttle, 1),
            ("throttle_window", self.throttle_window, 0.001),
            ("latency", self.latency, 0),
        ):
            if value is not None and value < least:
                msg = f"{name} must be at least {least}, not {value!r}"
                raise ValueError(msg)


def _choices(hint: Any) -> tuple[str | None, ...] | None:
    """Return the values of a Literal, with None when it is optional; None for anything else."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    literals = [member for member in get_args(hint) if get_origin(member) is Literal]
    return (*get_args(literals[0]), None) if literals else None


CHOICES: dict[str, tuple[str | None, ...]] = {
    name: choices
    for name, hint in get_type_hints(Switches).items()
    if (choices := _choices(hint)) is not None
}
"""The values of every switch that is a choice, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """Something that goes wrong, and the requests it hits.

    Requests are counted from 1 since the start or the last reset. Without ``at``, ``every`` and
    ``rate`` it hits each request; with several of them, those that any of them names.

    Attributes:
        kind: what happens.
        at: the request or requests hit.
        every: each k-th request is hit.
        rate: the share of requests hit, 0 to 1, drawn from ``seed`` and the request's number alone.
        seed: see ``rate``.
        times: no more hits than this.
        retry_after: for 429 and 503. A number is sent as seconds, ``"date:2"`` as the HTTP-date two
            seconds from now, any other text as it is.
        body: for wrong_shape: what is answered.
        status: for wrong_shape: its status.
        location: for redirect: where to.

    Raises:
        ValueError: a field that makes no sense, or not for this kind.
    """

    kind: Kind
    at: int | tuple[int, ...] | None = None
    every: int | None = None
    rate: float | None = None
    seed: int = 0
    times: int | None = None
    retry_after: float | str | None = None
    body: bytes | None = None
    status: int = 200
    location: str | None = None

    def __post_init__(self) -> None:  # noqa: C901
        """Check every value."""
        wrong = ""
        if self.kind not in get_args(Kind):
            wrong = f"unknown kind {self.kind!r}"
        elif any(n < 1 for n in self.numbers):
            wrong = "at counts from 1"
        elif self.every is not None and self.every < 1:
            wrong = "every must be at least 1"
        elif self.rate is not None and not 0 <= self.rate <= 1:
            wrong = "rate must be from 0 to 1"
        elif self.times is not None and self.times < 1:
            wrong = "times must be at least 1"
        elif self.retry_after is not None and self.kind not in {"429", "503"}:
            wrong = f"retry_after means nothing to {self.kind}"
        elif (self.body is not None) != (self.kind == "wrong_shape"):
            wrong = "body belongs to wrong_shape, and wrong_shape needs it"
        elif (self.location is not None) != (self.kind == "redirect"):
            wrong = "location belongs to redirect, and redirect needs it"
        elif self.status != 200 and self.kind != "wrong_shape":
            wrong = f"status means nothing to {self.kind}"
        if wrong:
            raise ValueError(wrong)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The request numbers named by ``at``."""
        if self.at is None:
            return ()
        return (self.at,) if isinstance(self.at, int) else self.at

    def names(self, number: int) -> bool:
        """Whether the ``number``-th request (from 1) is one of those to hit."""
        if self.at is None and self.every is None and self.rate is None:
            return True
        return (
            number in self.numbers
            or (self.every is not None and number % self.every == 0)
            or (
                self.rate is not None
                and random.Random(f"{self.seed}:{number}").random() < self.rate
            )
        )
