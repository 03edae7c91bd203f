"""The tap under a profiler that counts: what it calls does not depend on the machine's speed."""

from __future__ import annotations

import json
import sys
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singer_sdk.streams import Stream

from tap_fini.__main__ import main

if TYPE_CHECKING:
    from types import FrameType


def run(counts: Path) -> None:
    """Run the tap, and write down what all of its threads called.

    Args:
        counts: a JSON file: ``calls`` of functions of any kind, ``writes`` to stdout, and
            ``syncs`` of streams.
    """
    calls, writes, syncs = count(), count(), count()  # whose next() threads cannot get between
    sync, stdout = Stream.sync.__code__, sys.stdout.buffer

    def see(frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            next(calls)
            if frame.f_code is sync:
                next(syncs)
        elif event == "c_call":
            next(calls)
            if called.__name__ == "write" and called.__self__ is stdout:
                next(writes)

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        main()
    finally:
        sys.setprofile(None)
        made = {"calls": next(calls), "writes": next(writes), "syncs": next(syncs)}
        counts.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    run(Path(sys.argv.pop(1)))
