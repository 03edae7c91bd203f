"""Run the pipeline, count what landed, show it."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tests.demo import page, picture, terminal
from tests.demo.first_look import Landed, look
from tests.demo.pipeline import ROOT, DemoError, Pipeline, api_key
from tests.sandbox import Sandbox, make_conversations

if TYPE_CHECKING:
    from collections.abc import Sequence

CONVERSATIONS = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0, or 1 after a sentence on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument(
        "--conversations",
        type=int,
        default=CONVERSATIONS,
        metavar="N",
        help=f"how many the made-up Fini holds (default {CONVERSATIONS:,})",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="also write what landed as a picture (SVG)",
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        if api_key():
            pipeline, landed = read_fini(console)
        else:
            pipeline, landed = read_sandbox(console, options.conversations)
        if options.picture is not None:
            options.picture.write_text(picture.render(pipeline, landed), encoding="utf-8")
    except DemoError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]The demo failed:[/] {error}", highlight=False
        )
        return 1
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print("Stopped. The next run goes on from here.")
        return 130
    return 0


def read_sandbox(console: Console, conversations: int) -> tuple[Pipeline, Landed]:
    """Read a made-up Fini and compare what landed with what it holds.

    Raises:
        DemoError: the pipeline failed, or the counts differ.
    """
    console.print(
        "No TAP_FINI_API_KEY: this reads a made-up Fini on this machine. "
        "With a key set, it reads yours.\n"
    )
    # The same conversations whatever day it is, so that a later run has nothing to add.
    with Sandbox(make_conversations(conversations)) as sandbox:
        truth = sandbox.truth()
        pipeline = Pipeline.for_sandbox(sandbox.url, sandbox.api_key)
        forget_others(pipeline, truth)
        before, landed = run(console, pipeline)
    expected = (len(truth), sum(len(conversation["botRequests"]) for conversation in truth))
    show(console, pipeline, before, landed, origin="a made-up Fini", expected=expected)
    if landed.counts != expected:
        msg = (
            f"{landed.conversations:,} conversations and {landed.bot_requests:,} bot requests "
            f"landed in {pipeline.database}, but the made-up Fini holds "
            f"{expected[0]:,} and {expected[1]:,}. To start over, delete that file."
        )
        raise DemoError(msg)
    check(landed)
    return pipeline, landed


def forget_others(pipeline: Pipeline, truth: list[dict[str, Any]]) -> None:
    """Delete a database of other made-up conversations, which would never match these."""
    note = pipeline.path.with_suffix(".sha256")
    digest = hashlib.sha256(json.dumps(truth).encode()).hexdigest()
    if not note.exists() or note.read_text(encoding="ascii") != digest:
        pipeline.path.unlink(missing_ok=True)
        pipeline.path.with_name(pipeline.path.name + ".wal").unlink(missing_ok=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest, encoding="ascii")


def read_fini(console: Console) -> tuple[Pipeline, Landed]:
    """Read Fini itself.

    Raises:
        DemoError: the pipeline failed, or bot requests are missing.
    """
    pipeline = Pipeline.for_fini()
    console.print(
        f"TAP_FINI_API_KEY is set: this reads {pipeline.api_url} into {pipeline.database}, "
        "on this machine.\n"
    )
    before, landed = run(console, pipeline)
    show(console, pipeline, before, landed, origin=pipeline.api_url)
    check(landed)
    return pipeline, landed


def run(console: Console, pipeline: Pipeline) -> tuple[Landed | None, Landed]:
    """What was in the database before the pipeline ran, and what is there now.

    Raises:
        DemoError: the pipeline or the database failed.
    """
    before = look(pipeline) if pipeline.python.exists() and pipeline.path.exists() else None
    pipeline.run(console)
    return before, look(pipeline)


def show(
    console: Console,
    pipeline: Pipeline,
    before: Landed | None,
    landed: Landed,
    *,
    origin: str,
    expected: tuple[int, int] | None = None,
) -> None:
    """Print the first look, and write it as a page beside the database."""
    terminal.show(console, landed, before=before, expected=expected)
    target = pipeline.path.with_suffix(".html")
    target.write_text(
        page.render(landed, origin=origin, database=pipeline.database), encoding="utf-8"
    )
    console.print(f"\nThe data: {pipeline.database}, schema {pipeline.schema}", highlight=False)
    console.print(
        f"The page: {target.relative_to(ROOT) if target.is_relative_to(ROOT) else target}",
        highlight=False,
    )


def check(landed: Landed) -> None:
    """Compare the database with itself.

    Raises:
        DemoError: a key comes twice, or a conversation lacks bot requests.
    """
    if landed.repeated:
        msg = f"{landed.repeated:,} rows have a key that is there already."
        raise DemoError(msg)
    if landed.incomplete:
        msg = f"{landed.incomplete:,} conversations do not have all of their bot requests."
        raise DemoError(msg)


if __name__ == "__main__":
    sys.exit(main())
