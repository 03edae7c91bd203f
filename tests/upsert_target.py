"""A small but real Singer target, run as a process of its own: upserts into SQLite.

    python tests/upsert_target.py rows.sqlite received.jsonl [pause]

Like the targets that users have, it loads in batches, stores all that came before a STATE before
it prints that STATE, and may be killed at any moment. Every byte that arrives is kept in the
second file, before anything is made of it, so that tests can look at what the tap wrote. A pause
after each batch, in seconds, makes it slower than the tap, which then waits amid its writes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 100
PIECE = 64 * 1024


class Target:
    """Rows by stream and key, durable when a STATE is printed."""

    def __init__(self, database: str, pause: float) -> None:
        self._pause = pause
        self._database = sqlite3.connect(database, isolation_level=None)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS row (stream, key, record, PRIMARY KEY (stream, key))"
        )
        self._keys: dict[str, list[str]] = {}
        self._batch: list[tuple[str, str, str]] = []

    def take(self, message: dict[str, Any]) -> None:
        """Deal with a message."""
        if message["type"] == "RECORD":
            stream, record = message["stream"], message["record"]
            key = json.dumps([record[name] for name in self._keys[stream]])
            self._batch.append((stream, key, json.dumps(record)))
            if len(self._batch) >= BATCH:
                self.store()
        elif message["type"] == "SCHEMA":
            self.store()
            self._keys[message["stream"]] = message["key_properties"]
        elif message["type"] == "STATE":
            self.store()
            os.write(1, json.dumps(message["value"]).encode() + b"\n")

    def store(self) -> None:
        """Write the batch: all of it or nothing, and on the disk when this returns."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT OR REPLACE INTO row VALUES (?, ?, ?)", self._batch)
        self._database.execute("COMMIT")
        self._batch.clear()
        time.sleep(self._pause)


def rows(database: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what a target has stored, by stream."""
    found: dict[str, list[dict[str, Any]]] = {}
    connection = sqlite3.connect(database)
    for stream, record in connection.execute("SELECT stream, record FROM row"):
        found.setdefault(stream, []).append(json.loads(record))
    connection.close()
    return found


def main(database: str, received: str, pause: str = "0") -> None:
    target, rest = Target(database, float(pause)), b""
    with Path(received).open("wb", buffering=0) as tee:
        while piece := os.read(0, PIECE):
            tee.write(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                target.take(json.loads(line))
    target.store()
    if rest:
        sys.exit("The input ends in the middle of a line.")


if __name__ == "__main__":
    main(*sys.argv[1:])
