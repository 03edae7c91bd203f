"""The HTTP server: connections, counting, throttle, faults. The endpoints know the rest."""

from __future__ import annotations

import math
import re
import selectors
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from tests.sandbox import agents as agent_list
from tests.sandbox import chat_history
from tests.sandbox import interactions as interaction_export
from tests.sandbox.paging import Refusal
from tests.sandbox.switches import Fault, Switches
from tests.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from tests.sandbox.world import Conversation

API_KEY = "fini_sandbox_5d1f0c7e9ab34826b7c3e0f4a2d9186c"
"""The key that may read. Long and unmistakable, so that a grep for a leak finds every one."""

WRITE_ONLY_KEY = "fini_sandbox_write_only"
"""A key without the read scope: answered by 403."""

_HEAD_LIMIT = 65_536
_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"


@dataclass(slots=True, eq=False)
class Request:
    """A request as it came, and what became of it.

    Attributes:
        path: without the query.
        params: the query parameters, decoded; of a repeated one the last.
        headers: by lower-case name; repeated ones joined by a comma.
        at: ``time.monotonic()`` at its arrival, seconds.
        method: ``GET``, or a mistake.
        status: what was answered, None while or when nothing was.
        ids: the conversations in the answer, in its order; none when a fault spoilt it.
        fault: the kind of the fault that hit it.
    """

    path: str
    params: dict[str, str]
    headers: dict[str, str]
    at: float
    method: str = "GET"
    status: int | None = None
    ids: tuple[str, ...] = ()
    fault: str | None = None


class _Parsed(NamedTuple):
    """A request off the wire; ``wrong`` says why it cannot be answered properly, if so."""

    request: Request
    keep_alive: bool
    wrong: str | None


@dataclass(slots=True)
class _Answer:
    """What goes back, before it is bytes."""

    status: int
    body: bytes = b""
    content_type: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    quiet: float = 0.0  # seconds of silence that a Retry-After asked for


class _BrokenOffError(Exception):
    """The connection is over."""


class Sandbox:
    """A local Fini API on 127.0.0.1, for as long as the ``with`` block lasts."""

    def __init__(
        self,
        conversations: Iterable[Conversation] = (),
        switches: Switches | None = None,
        *,
        interactions: Iterable[Conversation] = (),
        agents: Iterable[dict[str, Any]] = (),
        port: int = 0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """Prepare a server; ``start()`` or ``with`` starts it.

        Args:
            conversations: what there is at first.
            switches: which Fini this is; may be replaced at any time.
            interactions: what the newer export has at first.
            agents: the workspace's agents.
            port: 0 for any free one.
            clock: the server's time in epoch milliseconds, for its Date header and default window.
        """
        self.world = World(conversations)
        self.interactions = interaction_export.world_of(interactions)
        self.agents = list(agents)
        self.switches = Switches() if switches is None else switches
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.violations = 0
        self.on_request: Callable[[int, Request], None] | None = None
        self.api_key = API_KEY
        self.port = port
        self._endpoints = {
            chat_history.PATH: partial(chat_history.answer, self.world),
            interaction_export.PATH: partial(interaction_export.answer, self.interactions),
            agent_list.PATH: partial(agent_list.answer, self.agents),
        }
        self._clock = clock or _now
        self._lock = threading.Lock()
        self._hits: dict[Fault, int] = {}
        self._arrivals: deque[float] = deque()
        self._quiet_until = 0.0
        self._stopping = threading.Event()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._acceptor: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL, once started."""
        return f"http://127.0.0.1:{self.port}"

    def truth(self) -> list[Conversation]:
        """Every conversation as it is served under the present switches, by id."""
        return self.world.truth(self.switches)

    def reset(self) -> None:
        """Forget the requests, the violations and the hits of faults.

        What the throttle has seen stays: it would not forgive a client for a new test run either.
        """
        with self._lock:
            self.requests = []
            self.violations = 0
            self._hits.clear()

    def start(self) -> None:
        """Listen, and answer in threads of its own."""
        self._stopping.clear()
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = listener.getsockname()[1]
        waker, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener, waker), name="sandbox", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Close everything: the listener, every connection, every thread."""
        if self._acceptor is None:
            return
        self._stopping.set()
        self._waker.close()
        self._acceptor.join()
        self._acceptor = None
        with self._lock:
            connections = dict(self._connections)
        for connection in connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            # A test may stop the server from within on_request.
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Sandbox:  # noqa: PYI034
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _accept(self, listener: socket.socket, waker: socket.socket) -> None:
        with listener, waker, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if not any(key.fileobj is listener for key, _ in selector.select()):
                    continue
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name="sandbox connection", daemon=True
                )
                with self._lock:
                    self._connections[thread] = connection
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            buffer = bytearray()
            keep_alive = True
            while keep_alive:
                parsed = _receive(connection, buffer)
                self._exchange(connection, parsed)
                keep_alive = parsed.keep_alive
        except (OSError, _BrokenOffError):
            # The client hung up, a fault broke the connection off, or the server stops.
            pass
        finally:
            connection.close()
            with self._lock:
                del self._connections[threading.current_thread()]

    def _exchange(self, connection: socket.socket, parsed: _Parsed) -> None:
        """Count a request, and answer it or let it meet its fault."""
        request, keep_alive, wrong = parsed
        number, wait = self._arrive(request)
        if self.on_request is not None:
            self.on_request(number, request)
        switches = self.switches
        if switches.latency:
            self._stopping.wait(switches.latency)
        if wait is not None:
            answer = _error(429, "ThrottlerException: Too Many Requests")
            self._ask_for_silence(answer, wait, switches.retry_after)
        elif (fault := self._fault(number)) is None:
            answer = self._answer(request, wrong, switches)
        else:
            request.fault = fault.kind
            if fault.kind in {"reset", "stall"}:
                _break_off(connection, stall=fault.kind == "stall")
            answer = self._spoilt(fault, request, wrong, switches)
        request.ids = answer.ids
        request.status = answer.status
        if answer.quiet:
            # Before it is sent: the client may be back before this thread is.
            with self._lock:
                self._quiet_until = max(self._quiet_until, time.monotonic() + answer.quiet)
        broken = request.fault if request.fault in {"truncated", "truncated_chunked"} else None
        connection.sendall(self._bytes(answer, request.method, broken, keep_alive=keep_alive))
        if broken:
            raise _BrokenOffError

    def _arrive(self, request: Request) -> tuple[int, float | None]:
        """Return the request's number, and when throttled for how many seconds more."""
        switches = self.switches
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
            now = request.at = time.monotonic()
            arrivals = self._arrivals
            while arrivals and arrivals[0] <= now - switches.throttle_window:
                arrivals.popleft()
            exhausted = switches.throttle is not None and len(arrivals) >= switches.throttle
            if exhausted or now < self._quiet_until:
                self.violations += 1
            if exhausted and switches.throttle is not None:
                freed = arrivals[len(arrivals) - switches.throttle]
                return number, freed + switches.throttle_window - now
            arrivals.append(now)
            return number, None

    def _fault(self, number: int) -> Fault | None:
        """Find the first fault that hits this request."""
        with self._lock:
            for fault in self.faults:
                hits = self._hits.get(fault, 0)
                if fault.names(number) and (fault.times is None or hits < fault.times):
                    self._hits[fault] = hits + 1
                    return fault
        return None

    def _answer(self, request: Request, wrong: str | None, switches: Switches) -> _Answer:
        """Answer properly."""
        try:
            endpoint = self._endpoints.get(request.path)
            if endpoint is None:
                raise Refusal(404, f"Cannot {request.method} {request.path}")  # noqa: TRY301
            if request.method != "GET":
                raise Refusal(405, "Method Not Allowed")  # noqa: TRY301
            key = request.headers.get("authorization")
            if key == f"Bearer {WRITE_ONLY_KEY}":
                raise Refusal(  # noqa: TRY301
                    403, "API key does not have the required scope for this operation"
                )
            if key != f"Bearer {API_KEY}":
                raise Refusal(401, "Invalid API key" if key else "Missing API key")  # noqa: TRY301
            if wrong is not None:
                raise Refusal(400, wrong)  # noqa: TRY301
            body, ids = endpoint(request.params, switches, self._clock())
        except Refusal as refusal:
            return _error(refusal.status, refusal.message)
        return _Answer(200, body, ids=ids)

    def _spoilt(
        self, fault: Fault, request: Request, wrong: str | None, switches: Switches
    ) -> _Answer:
        """Answer as the fault wants it."""
        if fault.kind in _MESSAGES:
            answer = _error(int(fault.kind), _MESSAGES[fault.kind])
            self._retry_after(answer, fault)
        elif fault.kind in _PAGES:
            answer = _Answer(*_PAGES[fault.kind])
        elif fault.kind == "wrong_shape":
            answer = _Answer(fault.status, fault.body or b"")
        elif fault.kind == "redirect":
            answer = _Answer(302, headers={"Location": fault.location or ""})
        else:
            answer = self._answer(request, wrong, switches)
            answer.ids = ()
            if fault.kind == "bad_json":
                answer.body = answer.body[: len(answer.body) // 2]
        return answer

    def _retry_after(self, answer: _Answer, fault: Fault) -> None:
        """Add the fault's Retry-After, if it has one."""
        wanted = fault.retry_after
        if isinstance(wanted, str) and wanted.startswith("date:"):
            self._ask_for_silence(answer, float(wanted.removeprefix("date:")), "date")
        elif isinstance(wanted, str):
            answer.headers["Retry-After"] = wanted
        elif wanted is not None:
            answer.headers["Retry-After"] = f"{wanted:g}"
            answer.quiet = wanted

    def _ask_for_silence(self, answer: _Answer, seconds: float, form: str | None) -> None:
        """Add a Retry-After of at least ``seconds``, in whole seconds as both forms have it."""
        if form == "seconds":
            answer.quiet = math.ceil(seconds)
            answer.headers["Retry-After"] = f"{math.ceil(seconds)}"
        elif form == "date":
            now = self._clock() / 1000
            then = math.ceil(now + seconds)
            answer.quiet = then - now
            answer.headers["Retry-After"] = formatdate(then, usegmt=True)

    def _bytes(
        self, answer: _Answer, method: str, broken: str | None, *, keep_alive: bool
    ) -> bytes:
        """Make one piece of it: head and body in two writes would wait for a delayed ACK."""
        body = answer.body
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        if self.switches.date_header:
            lines.append(f"Date: {formatdate(self._clock() // 1000, usegmt=True)}")
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines.append(f"Content-Type: {answer.content_type}")
        lines.append(f"Connection: {'keep-alive' if keep_alive else 'close'}")
        if broken == "truncated_chunked":
            lines.append("Transfer-Encoding: chunked")
            half = body[: len(body) // 2]
            body = b"%x\r\n%b\r\n" % (len(half), half)
        else:
            lines.append(f"Content-Length: {len(body)}")
            if broken == "truncated":
                body = body[: len(body) // 2]
        head = "\r\n".join((*lines, "", "")).encode()
        return head if method == "HEAD" else head + body


_MESSAGES = {
    "429": "ThrottlerException: Too Many Requests",
    "500": "Internal server error",
    "503": "Service Unavailable",
}
_PAGES = {
    "502_html": (
        502,
        (
            b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
            b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
        ),
        _HTML,
    ),
    "html_200": (
        200,
        b"<!DOCTYPE html><html><head><title>Fini</title></head><body>Sign in</body></html>",
        _HTML,
    ),
    "empty_200": (200, b"", _JSON),
}


def _now() -> int:
    """Return the real time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def _error(status: int, message: str) -> _Answer:
    """Make an answer with Fini's error body."""
    body = {"statusCode": status, "message": message, "error": HTTPStatus(status).phrase}
    return _Answer(status, msgspec.json.encode(body))


def _break_off(connection: socket.socket, *, stall: bool) -> None:
    """End a connection without an answer: at once by a RST, or when the client has had enough."""
    if stall:
        while connection.recv(_HEAD_LIMIT):
            pass
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise _BrokenOffError


def _receive(connection: socket.socket, buffer: bytearray) -> _Parsed:
    """Read the next request; what comes after it stays in ``buffer``."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        chunk = connection.recv(_HEAD_LIMIT)
        if not chunk or len(buffer) > _HEAD_LIMIT:
            raise _BrokenOffError
        buffer += chunk
    head = buffer[:end].decode("latin-1")
    del buffer[: end + 4]
    first, *rest = head.split("\r\n")
    method, _, target = first.partition(" ")
    target, _, version = target.partition(" ")
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = target.partition("?")
    params, wrong = _params(query)
    if version != "HTTP/1.1" or "host" not in headers:
        wrong = "HTTP/1.1 and a Host header, please"
    length = headers.get("content-length", "0")
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if length.isdecimal() and "transfer-encoding" not in headers:
        missing = int(length)
        while len(buffer) < missing:
            chunk = connection.recv(_HEAD_LIMIT)
            if not chunk:
                raise _BrokenOffError
            buffer += chunk
        if missing:
            wrong = wrong or "A GET request has no body"
        del buffer[:missing]
    else:
        # Where its body ends is not known, so nothing can follow it.
        wrong, keep_alive = "A GET request has no body", False
    return _Parsed(Request(path, params, headers, 0.0, method), keep_alive, wrong)


def _params(query: str) -> tuple[dict[str, str], str | None]:
    """Return the query parameters, and what is wrong with them."""
    if not query:
        return {}, None
    # A raw space, quote or non-ASCII letter means that the client did not encode.
    if re.search(r"[^!$%&-;=?-Z_a-z~]|%(?![0-9A-Fa-f]{2})", query):
        return {}, "The query is not percent-encoded"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        return {}, "The query cannot be parsed"
    params = dict(pairs)
    return params, None if len(params) == len(pairs) else "A parameter is repeated"
