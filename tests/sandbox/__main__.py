"""``python -m tests.sandbox``: the local Fini API on the command line."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import MISSING, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tests.sandbox.data import Shape, edited, make_conversations
from tests.sandbox.interaction_data import make_agents, make_interactions
from tests.sandbox.server import Request, Sandbox
from tests.sandbox.switches import CHOICES, Fault, Switches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DAY = 86_400_000
_DEFAULT_SPAN = 180 * _DAY


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    # Blocked before any thread starts, so that only sigwait below sees them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    end = options.end if options.end is not None else _now() // _DAY * _DAY
    start = options.start if options.start is not None else end - _DEFAULT_SPAN
    conversations = make_conversations(
        options.conversations,
        seed=options.seed,
        start=start,
        end=end,
        marker=options.marker,
        shape=options.shape,
    )
    interactions = make_interactions(
        options.interactions, seed=options.seed, start=start, end=end, marker=options.marker
    )
    switches = Switches(**{field.name: getattr(options, field.name) for field in fields(Switches)})
    sandbox = Sandbox(
        conversations,
        switches,
        interactions=interactions,
        agents=make_agents(),
        port=options.port,
    )
    sandbox.faults = options.fault
    if options.churn and conversations:
        sandbox.on_request = _churn(sandbox, [c["id"] for c in conversations], options)
    with sandbox:
        counts = {
            "conversations": len(conversations),
            "bot_requests": sum(len(c["botRequests"]) for c in conversations),
        }
        # The world has its own copy, and a benchmark's 70 MB need not be held twice.
        conversations.clear()
        interactions.clear()
        if options.ready_file is not None:
            _write_whole(
                options.ready_file,
                json.dumps({"url": sandbox.url, "api_key": sandbox.api_key, **counts}),
            )
        sys.stdout.write(
            f"{sandbox.url} api_key={sandbox.api_key} conversations={counts['conversations']} "
            f"bot_requests={counts['bot_requests']}\n"
        )
        sys.stdout.flush()
        signal.sigwait(signals)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sandbox",
        description="A local Fini API with made-up conversations.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--conversations", type=int, default=2000, help="how many")
    parser.add_argument("--interactions", type=int, default=0, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up data and of --churn")
    parser.add_argument("--start", type=_date, help="default: 180 days before --end")
    parser.add_argument("--end", type=_date, help="default: today's midnight, UTC")
    parser.add_argument(
        "--shape", choices=get_args(Shape), default="even", help="how they lie in time"
    )
    parser.add_argument("--marker", default="", help="put into every text")
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="FAULT",
        help="KIND:name=value,name=value, e.g. 429:every=7,retry_after=1 or reset:at=3/5; "
        "body= comes last and takes the rest",
    )
    parser.add_argument(
        "--churn", type=int, default=0, metavar="N", help="an edit every N requests"
    )
    parser.add_argument(
        "--ready-file", type=Path, help="JSON with url, key and counts, once listening"
    )
    switches = parser.add_argument_group("switches (README.md says what they mean)")
    for field in fields(Switches):
        option = "--" + field.name.replace("_", "-")
        assert field.default is not MISSING
        if field.type == "bool":
            switches.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default, help=" "
            )
        elif field.name in CHOICES:
            switches.add_argument(
                option,
                type=_optional(str),
                choices=CHOICES[field.name],
                default=field.default,
                help=" ",
            )
        else:
            number: Callable[[str], Any] = int if str(field.type).startswith("int") else float
            switches.add_argument(
                option, type=_optional(number), default=field.default, help=" ", metavar="NUMBER"
            )
    return parser


def _optional(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Take ``none`` for None."""

    def converted(text: str) -> Any:
        return None if text.lower() == "none" else convert(text)

    return converted


def _date(text: str) -> int:
    """Read an ISO date or date-time, UTC when it does not say, as epoch milliseconds."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def _fault(text: str) -> Fault:
    """Read a fault: ``KIND:name=value,name=value``."""
    kind, _, rest = text.partition(":")
    rest, with_body, body = rest.partition("body=")
    values: dict[str, Any] = {"body": body.encode()} if with_body else {}
    for pair in filter(None, rest.split(",")):
        name, _, value = pair.partition("=")
        if name == "at":
            values[name] = tuple(int(number) for number in value.split("/"))
        elif name in {"every", "seed", "times", "status"}:
            values[name] = int(value)
        elif name == "rate":
            values[name] = float(value)
        elif name == "retry_after":
            values[name] = float(value) if value.replace(".", "", 1).isdecimal() else value
        elif name == "location":
            values[name] = value
        else:
            msg = f"unknown field {name!r} of a fault"
            raise argparse.ArgumentTypeError(msg)
    try:
        return Fault(kind, **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _churn(
    sandbox: Sandbox, ids: Sequence[str], options: argparse.Namespace
) -> Callable[[int, Request], None]:
    """Edit a conversation, now, every ``options.churn`` requests."""

    def change(number: int, _: Request) -> None:
        if number % options.churn == 0:
            seed = options.seed + number
            chosen = ids[int(random.Random(seed).random() * len(ids))]
            before = sandbox.world.get(chosen)
            sandbox.world.upsert(edited(before, _now(), seed=seed, marker=options.marker))

    return change


def _write_whole(path: Path, text: str) -> None:
    """Write a file that nobody can see half of."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)  # noqa: PTH105


def _now() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(main())
