"""A Fini API that is never the bottleneck: one process, no framework, nothing looked up.

``python -m tests.benchmarks.server '{"stretches": [[start, end, count]]}'`` prints one line of
JSON when it listens, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import threading
import time
from collections import deque
from email.utils import formatdate
from typing import cast
from urllib.parse import parse_qsl

from tests.benchmarks.history import History, Stretch, place_of

PATH = "/v2/bots/requests/public"
NEWER_PATH = "/v2/hc-interactions/public"
CONTROL = "/control"


class Api:
    """Answers requests and counts them."""

    def __init__(self, history: History) -> None:
        """Serve a history, at once and without a throttle until told otherwise."""
        self.history = history
        self.latency = 0.0
        self.throttle = 0
        self.per = 60.0
        self.requests = 0
        self.refused = 0
        self._times: deque[float] = deque()

    def answer(self, target: str) -> tuple[float, bytes]:
        """Return the seconds to wait, and the whole response."""
        path, _, query = target.partition("?")
        params = dict(parse_qsl(query, keep_blank_values=True))
        if path == CONTROL:
            return 0.0, _response("200 OK", self._control(params))
        if path != (NEWER_PATH if self.history.newer else PATH):
            return 0.0, _response("404 Not Found", b'{"message":"Cannot GET"}')
        wait = self._throttled()
        if wait:
            self.refused += 1
            body = b'{"message":"ThrottlerException: Too Many Requests"}'
            headers = f"Retry-After: {math.ceil(wait)}\r\n"
            return self.latency, _response("429 Too Many Requests", body, headers)
        self.requests += 1
        return self.latency, _response("200 OK", self._page(params))

    def _page(self, params: dict[str, str]) -> bytes:
        history = self.history
        newer = history.newer
        first = history.before(int(params["since" if newer else "startEpoch"]))
        end = history.before(int(params["until" if newer else "endEpoch"]) + 1)
        if "cursor" in params:
            end = min(end, place_of(params["cursor"]))
        start = max(first, end - int(params.get("limit", 50)))
        rows = b",".join([history.conversation(n) for n in range(end - 1, start - 1, -1)])
        return b'{"%b":[%b],"hasMore":%b}' % (
            b"interactions" if newer else b"conversations",
            rows,
            b"true" if start > first else b"false",
        )

    def _throttled(self) -> float:
        """Count a request, or return the seconds until one is allowed again."""
        if not self.throttle:
            return 0.0
        now = time.monotonic()
        while self._times and self._times[0] <= now - self.per:
            self._times.popleft()
        if len(self._times) >= self.throttle:
            return self._times[0] + self.per - now
        self._times.append(now)
        return 0.0

    def _control(self, params: dict[str, str]) -> bytes:
        """Report the counts; with parameters, start counting anew under other conditions."""
        counts = {"requests": self.requests, "refused": self.refused, "cpu": time.process_time()}
        if params:
            self.latency = float(params.get("latency", 0))
            self.throttle = int(params.get("throttle", 0))
            self.per = float(params.get("per", 60))
            self.requests = self.refused = 0
            self._times.clear()
        return json.dumps(counts).encode()


class Connection(asyncio.Protocol):
    """One client's connection, kept alive."""

    def __init__(self, api: Api) -> None:
        """Belong to an API."""
        self._api = api
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that are whole. None of them has a body."""
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("ascii")
            wait, response = self._api.answer(target)
            if wait:
                asyncio.get_running_loop().call_later(wait, self._transport.write, response)
            else:
                self._transport.write(response)


def _response(status: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n{headers}\r\n"
    )
    return head.encode("ascii") + body


async def _serve(api: Api) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ready = {
        "url": f"http://127.0.0.1:{port}",
        "conversations": api.history.count,
        "bot_requests": api.history.children,
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve the history that the argument describes."""
    spec = json.loads(sys.argv[1])
    stretches = [Stretch(*stretch) for stretch in spec["stretches"]]
    history = History(
        stretches,
        seed=spec.get("seed", 0),
        huge=spec.get("huge", 0),
        newer=spec.get("newer", False),
    )
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_serve(Api(history)))


if __name__ == "__main__":
    main()
