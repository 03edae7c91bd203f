"""Who does the job: the command that starts each contestant, and where its rows are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tests.benchmarks.measure import ROOT, Messages, Places, read_messages
from tests.exports import INTERACTIONS
from tests.targets import CACHE

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent

Command: TypeAlias = Callable[[Path, Path], list[str]]
"""From the paths of the settings and of the output folder to a program and its arguments."""

EXTRAS = {
    "dlt": ("dlt[duckdb]==1.31.0", "duckdb==1.4.2"),
    "airbyte": ("airbyte-cdk==7.39.1",),
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that reads the history and writes it.

    Attributes:
        name: in the report.
        command: how it is started.
        settings: what it is told besides the address, the key, the span and the page size.
        read: counts the rows in the output folder.
        largest: the largest history worth waiting for.
    """

    name: str
    command: Command
    settings: Mapping[str, Any]
    read: Callable[[Path], Messages]
    largest: int = 100_000


def _read_singer(folder: Path) -> Messages:
    with (folder / "out").open("rb") as lines:
        return read_messages(lines)


class _Conversation(msgspec.Struct):
    id: str
    botRequests: list[msgspec.Raw] = []  # noqa: N815


class _AirbyteRecord(msgspec.Struct):
    data: _Conversation


class _AirbyteLine(msgspec.Struct):
    type: str
    record: _AirbyteRecord | None = None


def _read_airbyte(folder: Path) -> Messages:
    found, seen = Messages(), Places()
    decode = msgspec.json.Decoder(_AirbyteLine).decode
    with (folder / "out").open("rb") as lines:
        for text in lines:
            found.size += len(text)
            line = decode(text)
            if line.type == "RECORD" and line.record is not None:
                found.conversations += 1
                found.bot_requests += len(line.record.data.botRequests)
                seen.add(line.record.data.id)
            found.states += line.type == "STATE"
    found.distinct = seen.count
    return found


def _read_dlt_files(folder: Path) -> Messages:
    found, seen = Messages(), Places()
    decode = msgspec.json.Decoder(_Conversation).decode
    for path in folder.glob("files/*/conversations/*.jsonl"):
        with path.open("rb") as lines:
            for text in lines:
                found.size += len(text)
                found.conversations += 1
                seen.add(decode(text).id)
    for path in folder.glob("files/*/conversations__bot_requests/*.jsonl"):
        with path.open("rb") as lines:
            for text in lines:
                found.size += len(text)
                found.bot_requests += 1
    found.distinct = seen.count
    return found


_COUNT = """
import duckdb, json, sys
path, parents, children = sys.argv[1:]
ask = duckdb.connect(path, read_only=True).sql
parents = ask(f"select count(*), count(distinct id) from {parents}").fetchone()
print(json.dumps([*parents, *ask(f"select count(*) from {children}").fetchone()]))
"""


def read_duckdb(python: Path, database: Path, parents: str, children: str) -> Messages:
    """Count the rows of two tables of a DuckDB database."""
    command = [str(python), "-c", _COUNT, str(database), parents, children]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    counts = json.loads(done.stdout)
    return Messages(conversations=counts[0], distinct=counts[1], bot_requests=counts[2])


def environment(name: str) -> Path:
    """Return the Python of an extra's own virtual environment, made by uv the first time."""
    packages = EXTRAS[name]
    digest = hashlib.sha256(repr((packages, sys.version_info[:3])).encode()).hexdigest()[:12]
    folder = CACHE / f"benchmark-{name}-{digest}"
    if not (folder / "complete").exists():
        uv = os.environ.get("UV") or shutil.which("uv")
        assert uv, "the extras need uv"
        CACHE.mkdir(exist_ok=True)
        python = f"--python={folder / 'bin' / 'python'}"
        venv = [uv, "venv", "--quiet", "--clear", f"--python={sys.executable}", str(folder)]
        for command in (venv, [uv, "--no-config", "pip", "install", "--quiet", python, *packages]):
            subprocess.run(command, check=True, timeout=900)
        (folder / "complete").touch()
    return folder / "bin" / "python"


def tap_command(config: Path, _: Path) -> list[str]:
    """The tap, as its console script starts it."""
    script = Path(sys.executable).with_name("tap-fini")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "tap_fini"]
    return [*start, "--config", str(config)]


TAP = Contestant("tap-fini", tap_command, {"max_requests_per_minute": 0}, _read_singer, 10**9)


def _newer_command(config: Path, folder: Path) -> list[str]:
    catalog = folder / "catalog.json"
    catalog.write_text(json.dumps(INTERACTIONS.catalog()), encoding="utf-8")
    return [*tap_command(config, folder), "--catalog", str(catalog)]


TAP_NEWER = Contestant("interactions (tap-fini)", _newer_command, TAP.settings, _read_singer, 10**9)


def _counted_command(config: Path, folder: Path) -> list[str]:
    module = ["-m", "tests.benchmarks.counted", str(folder / "counts.json")]
    return [sys.executable, *module, "--config", str(config)]


def _read_counted(folder: Path) -> Messages:
    messages = _read_singer(folder)
    messages.counts = json.loads((folder / "counts.json").read_bytes())
    return messages


COUNTED = Contestant("counted (tap-fini)", _counted_command, TAP.settings, _read_counted)
PLAIN = Contestant(
    "plain SDK tap",
    lambda config, _: [sys.executable, str(HERE / "plain_tap.py"), "--config", str(config)],
    {},
    _read_singer,
)
FLOOR = Contestant(
    "floor (no framework)",
    lambda config, _: [sys.executable, str(HERE / "floor.py"), str(config)],
    {},
    _read_singer,
    10**9,
)


def extras() -> list[Contestant]:
    """What users would pick instead, each in a virtual environment of its own."""
    dlt, airbyte = environment("dlt"), environment("airbyte")

    def run_dlt(config: Path, folder: Path) -> list[str]:
        return [str(dlt), str(HERE / "dlt_pipeline.py"), str(config), str(folder), "files"]

    def run_airbyte(config: Path, folder: Path) -> list[str]:
        return [str(airbyte), str(HERE / "airbyte_source.py"), str(config), str(folder)]

    return [
        Contestant("dlt (files)", run_dlt, {}, _read_dlt_files),
        Contestant("Airbyte CDK", run_airbyte, {}, _read_airbyte, 20_000),
    ]


def dlt_to_duckdb() -> Contestant:
    """The dlt pipeline with DuckDB as its destination."""
    dlt = environment("dlt")
    return Contestant(
        "dlt into DuckDB",
        lambda config, folder: [
            *(str(dlt), str(HERE / "dlt_pipeline.py"), str(config), str(folder), "duckdb")
        ],
        {},
        lambda folder: read_duckdb(
            dlt, folder / "dlt.duckdb", "chats.conversations", "chats.conversations__bot_requests"
        ),
    )


assert ROOT in HERE.parents
