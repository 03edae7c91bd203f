"""The way to Fini: what is sent and to whom, what is tried again, and what ends a run."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import certifi
import pytest
import requests

from tap_fini import client
from tap_fini.client import FiniError, Throttle, retry_after
from tap_fini.tap import TapFini
from tests.sandbox import (
    API_KEY,
    WRITE_ONLY_KEY,
    Fault,
    Sandbox,
    Switches,
    documented_example,
    make_conversations,
)
from tests.support import DAY, MARKER, Output, config_for, run_tap

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from tests.sandbox import Request

PATH = "/v2/bots/requests/public"
T0 = 1_735_689_600_000  # 2025-01-01
REAL_WAITS = client._WAITS
CONVERSATIONS = make_conversations(60, marker=MARKER)
EMPTY_PAGE = b'{"conversations":[],"hasMore":false}'


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that wait for a hundredth of a second instead of minutes."""
    monkeypatch.setattr(client, "_WAITS", (0.01,) * len(REAL_WAITS))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONVERSATIONS) as running:
        yield running


def read(sandbox: Sandbox, **settings: Any) -> Output:
    """Run the tap to its end: three windows, about ten pages."""
    return private(run_tap(config_for(sandbox, page_size=10, window_days=90, **settings)))


def refused(sandbox: Sandbox, **settings: Any) -> str:
    """Run the tap to its failure, and return the sentence."""
    settings = {"max_concurrent_requests": 1, "page_size": 10, "window_days": 90, **settings}
    output = private(run_tap(config_for(sandbox, **settings), fails=FiniError))
    return str(output.error)


def private(output: Output) -> Output:
    said = f"{output.text}\n{output.error}\n{json.dumps(output.of_type('STATE'))}"
    assert API_KEY not in said
    assert MARKER not in said
    return output


def timeless(output: Output) -> list[dict[str, Any]]:
    """Return the messages without the moment at which each was made."""
    return [{**message, "time_extracted": None} for message in output.messages]


def counted(output: Output, what: str) -> int:
    """Return a count of the run's last line."""
    found = re.search(rf": Read .*, (\d+) {what},", output.text)
    assert found, output.text
    return int(found[1])


@pytest.fixture(scope="module")
def undisturbed() -> Output:
    """What a run without any fault brings."""
    with Sandbox(CONVERSATIONS) as sandbox:
        output = read(sandbox)
        assert len(output.records("conversations")) == len(CONVERSATIONS)
        assert counted(output, "requests") == len(sandbox.requests)
        assert counted(output, "retries") == 0
        return output


# --- a server that does what no sandbox does ------------------------------------------------------


class Raw:
    """Answers each request on each connection with bytes of a test's choice."""

    def __init__(
        self, answer: Callable[[socket.socket, bytes], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Raw:  # noqa: PYI034
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while chunk := connection.recv(65536):
                    head += chunk
                    if head.endswith(b"\r\n\r\n"):
                        self.heads.append(head)
                        self._answer(connection, head)
                        head = b""


def reply(body: bytes = EMPTY_PAGE, *headers: str, status: str = "200 OK") -> Any:
    """Make an answer for :class:`Raw`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    whole = "\r\n".join(lines).encode() + body

    def send(connection: socket.socket, head: bytes) -> None:  # noqa: ARG001
        connection.sendall(whole)

    return send


def at(url: str, **settings: Any) -> dict[str, Any]:
    """Return settings for a server that is no sandbox: one window, one worker."""
    return {
        "api_key": API_KEY,
        "api_url": url,
        "start_date": "2025-01-01",
        "end_date": "2025-01-02",
        "max_concurrent_requests": 1,
        "max_requests_per_minute": 0,
        **settings,
    }


def refused_at(url: str, **settings: Any) -> str:
    return str(private(run_tap(at(url, **settings), fails=FiniError)).error)


# --- what is sent ---------------------------------------------------------------------------------


def test_every_request_carries_the_key_and_says_who_asks(sandbox: Sandbox) -> None:
    read(sandbox)
    assert len(sandbox.requests) > 3
    for request in sandbox.requests:
        assert (request.method, request.path) == ("GET", PATH)
        assert request.headers == {
            "host": f"127.0.0.1:{sandbox.port}",
            "user-agent": f"tap-fini/{version('tap-fini')}",
            "accept-encoding": request.headers["accept-encoding"],
            "accept": "application/json",
            "connection": "keep-alive",
            "authorization": f"Bearer {API_KEY}",
        }


def test_the_user_agent_is_a_setting(sandbox: Sandbox) -> None:
    read(sandbox, user_agent="acme warehouse/2 (data@acme.example)")
    assert {r.headers["user-agent"] for r in sandbox.requests} == {
        "acme warehouse/2 (data@acme.example)"
    }


def test_a_base_path_and_a_slash_at_the_end_of_api_url_are_kept_apart(sandbox: Sandbox) -> None:
    assert refused(sandbox, api_url=f"{sandbox.url}/eu/").startswith(
        f"There is nothing at {sandbox.url}/eu{PATH} (404)"
    )
    assert [request.path for request in sandbox.requests] == [f"/eu{PATH}"]


@pytest.mark.parametrize("cursor", ["last_id", "body_cursor", "body_next_cursor"])
def test_the_exact_requests_of_a_whole_run(cursor: Any) -> None:
    row = {
        **documented_example(),
        "feedbackType": "thumbs_up",
        "externalId": "t/1?&=ü",
        "userId": "u 1+2",
    }
    rows = [
        {**row, "id": f"id-{n}", "createdAt": T0 + created * DAY, "updatedAt": T0 + updated * DAY}
        for n, (created, updated) in enumerate([(0, 9), (1, 7), (2, 8), (60, 60)])
    ]
    filters = {
        "source": "widget",
        "category": "fini-other",
        "feedbackType": "thumbs_up",
        "escalation": "false",
        "hasLinks": "true",
        "userId": "u 1+2",
        "ticketId": "t/1?&=ü",
        "question": "hel",
    }
    first = {"startEpoch": f"{T0 - 1}", "endEpoch": f"{T0 + 50 * DAY}", "limit": "2", **filters}
    second = {
        **first,
        "startEpoch": f"{T0 + 50 * DAY - 1}",
        "endEpoch": f"{T0 + 100 * DAY}",
    }
    switches = Switches(order="oldest", filter_field="createdAt", cursor=cursor)
    with Sandbox(rows, switches) as sandbox:
        output = private(
            run_tap(
                config_for(
                    sandbox,
                    end_date="2025-04-11T00:00:00Z",  # 100 days
                    window_days=50,
                    page_size=2,
                    max_concurrent_requests=1,
                    source="widget",
                    category="fini-other",
                    feedback_type="thumbs_up",
                    escalation=False,
                    has_links=True,
                    user_id="u 1+2",
                    ticket_id="t/1?&=ü",
                    question="hel",
                )
            )
        )
        sent = [request.params for request in sandbox.requests]
        token = "id-1" if cursor == "last_id" else sent[1]["cursor"]
        assert sent == [first, {**first, "cursor": token, "direction": "next"}, second]
        assert [request.status for request in sandbox.requests] == [200, 200, 200]
    assert [r["id"] for r in output.records("conversations")] == ["id-0", "id-1", "id-2", "id-3"]


def test_a_window_of_90_days_asks_for_no_more_than_90_days(sandbox: Sandbox) -> None:
    read(sandbox)
    spans = [int(r.params["endEpoch"]) - int(r.params["startEpoch"]) for r in sandbox.requests]
    assert max(spans) == 90 * DAY


def test_connections_are_kept() -> None:
    with Raw(reply()) as server:
        private(run_tap(at(server.url, end_date="2025-01-11", window_days=1)))
        assert (len(server.heads), server.connections) == (10, 1)


# --- to whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["other host", "same host", "http://[::1", "//", "", "x:\x00"])
def test_a_redirect_is_not_followed(sandbox: Sandbox, where: str) -> None:
    with Sandbox(CONVERSATIONS) as other:
        location = {
            "other host": f"{other.url}{PATH}",
            "same host": f"{sandbox.url}{PATH}?startEpoch=0&endEpoch=1",
        }.get(where, where)
        sandbox.faults = [Fault("redirect", location=location)]
        assert refused(sandbox) == (
            f"{sandbox.url} redirects elsewhere (302), where the API key must not go: set "
            "'api_url' to the final address."
        )
        assert other.requests == []
    assert len(sandbox.requests) == 1


def test_netrc_does_not_replace_the_key(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(sandbox.url) == ("somebody", "else")
    read(sandbox)
    assert {r.headers["authorization"] for r in sandbox.requests} == {f"Bearer {API_KEY}"}


def test_proxy_variables_are_honoured(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(reply()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        private(run_tap(at(sandbox.url)))
        assert sandbox.requests == []
        assert [head.split(b"?")[0] for head in proxy.heads] == [
            f"GET {sandbox.url}{PATH}".encode()
        ]
        proxy.heads.clear()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        private(run_tap(at(sandbox.url)))
        assert (proxy.heads, len(sandbox.requests)) == ([], 1)


# --- what is tried again --------------------------------------------------------------------------

FAULTS = {
    "429": Fault("429", every=3),
    "429 for seconds": Fault("429", at=2, retry_after=0.2),
    "429 until a date": Fault("429", at=2, retry_after="date:0.2"),
    "429 until yesterday": Fault("429", every=3, retry_after="Wed, 01 Jan 2020 00:00:00 GMT"),
    "429 until soon": Fault("429", every=3, retry_after="soon"),
    "500": Fault("500", every=3),
    "502 with HTML": Fault("502_html", every=3),
    "503": Fault("503", every=3),
    "503 for seconds": Fault("503", at=2, retry_after=0.2),
    "reset": Fault("reset", every=3),
    "stall": Fault("stall", at=2),
    "truncated": Fault("truncated", every=3),
    "truncated chunk": Fault("truncated_chunked", every=3),
    "bad JSON": Fault("bad_json", every=3),
    "HTML": Fault("html_200", every=3),
    "nothing": Fault("empty_200", every=3),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_changes_nothing_of_what_comes_out(
    sandbox: Sandbox, undisturbed: Output, name: str
) -> None:
    sandbox.faults = [FAULTS[name]]
    output = read(sandbox, request_timeout=1)
    assert timeless(output) == timeless(undisturbed)
    hit = [request for request in sandbox.requests if request.fault is not None]
    assert len(hit) >= 1
    assert counted(output, "retries") == len(hit)
    assert counted(output, "requests") == len(sandbox.requests)
    assert len(sandbox.requests) == counted(undisturbed, "requests") + len(hit)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_storm_of_all_faults_changes_nothing_either(
    sandbox: Sandbox, undisturbed: Output, seed: int
) -> None:
    fast = [f.kind for name, f in FAULTS.items() if name not in {"stall", "429 until soon"}]
    sandbox.faults = [
        Fault(kind, rate=0.05, seed=100 * seed + n) for n, kind in enumerate(sorted(set(fast)))
    ]
    sandbox.faults.append(Fault("stall", at=3 + seed))
    output = read(sandbox, request_timeout=1)
    assert timeless(output) == timeless(undisturbed)
    assert counted(output, "retries") == sum(r.fault is not None for r in sandbox.requests) > 2


@pytest.mark.usefixtures("quick")
def test_retries_are_mentioned_once_they_persist(sandbox: Sandbox) -> None:
    sandbox.faults = [Fault("500", times=4)]
    output = read(sandbox, max_concurrent_requests=1)
    assert [line for line in output.log if line.startswith("WARNING")] == [
        (
            "WARNING tap-fini.conversations: Try 4 of 12 to reach Fini failed (500 Internal Server "
            "Error Fini says: 'Internal server error'); the next one is in 0 s"
        )
    ]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (Fault("429"), "429 Too Many Requests Fini says: 'ThrottlerException: Too Many Requests'"),
        (Fault("500"), "500 Internal Server Error Fini says: 'Internal server error'"),
        (Fault("502_html"), "502 Bad Gateway"),
        (
            Fault("503", retry_after=0.01),
            "503 Service Unavailable Fini says: 'Service Unavailable'",
        ),
        (Fault("reset"), "connection error"),
        (Fault("truncated"), "chunked encoding error"),
        (Fault("truncated_chunked"), "chunked encoding error"),
        (Fault("html_200"), "200, but with a body that is not JSON"),
        (Fault("empty_200"), "200, but with a body that is not JSON"),
        (
            Fault("wrong_shape", body=b'{"conversations":' + b"[" * 100_000),
            "200, but with a body that is not JSON",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_an_end_of_patience_is_one_sentence(sandbox: Sandbox, fault: Fault, last: str) -> None:
    sandbox.faults = [fault]
    assert refused(sandbox) == (
        f"Fini at {sandbox.url} gave no proper answer for 12 tries over more than 5 minutes (the "
        f"last one: {last}). Finished windows are saved: run the tap again when Fini is back."
    )
    assert len(sandbox.requests) == 12


@pytest.mark.usefixtures("quick")
def test_what_was_finished_before_the_end_of_patience_is_in_the_state(sandbox: Sandbox) -> None:
    def go_down(number: int, request: Request) -> None:  # noqa: ARG001
        if int(request.params["startEpoch"]) > T0 + 30 * DAY and not sandbox.faults:
            sandbox.faults = [Fault("503")]

    sandbox.on_request = go_down
    config = config_for(sandbox, window_days=30, max_concurrent_requests=1)
    output = private(run_tap(config, fails=FiniError))
    reached = output.state["bookmarks"]["conversations"]["replication_key_value"]
    assert "2025-01-29" < reached <= "2025-03-02"
    ids = {record["id"] for record in output.records("conversations")}
    sandbox.faults, sandbox.on_request = [], None
    rest = private(run_tap(config, state=output.state))
    ids |= {record["id"] for record in rest.records("conversations")}
    assert ids == {c["id"] for c in CONVERSATIONS}


@pytest.mark.usefixtures("quick")
def test_nobody_listening_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "(the last one: connection error)" in refused_at(f"http://127.0.0.1:{port}")


@pytest.mark.usefixtures("quick")
def test_a_proxy_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "(the last one: proxy error)" in refused(sandbox)
    assert sandbox.requests == []


def test_a_compressed_body_is_read() -> None:
    rows = CONVERSATIONS[:20]
    body = gzip.compress(json.dumps({"conversations": rows, "hasMore": False}).encode())
    with Raw(reply(body, "Content-Encoding: gzip")) as server:
        output = private(run_tap(at(server.url, end_date="2025-07-01", window_days=90)))
    assert {r["id"] for r in output.records("conversations")} == {row["id"] for row in rows}


@pytest.mark.usefixtures("quick")
def test_a_body_that_cannot_be_decompressed_is_tried_again() -> None:
    with Raw(reply(EMPTY_PAGE, "Content-Encoding: gzip")) as server:
        assert "(the last one: content decoding error)" in refused_at(server.url)
        assert len(server.heads) == 12


@pytest.mark.parametrize("form", ["plain", "chunked"])
def test_a_body_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(client, "_WAITS", ())
    chunked = form == "chunked"
    head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(EMPTY_PAGE)}"

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        if chunked:
            connection.sendall(b"%x\r\n" % len(EMPTY_PAGE))
        for n in range(len(EMPTY_PAGE)):
            connection.sendall(EMPTY_PAGE[n : n + 1])
            time.sleep(0.2)

    with Raw(drip) as server:
        began = time.monotonic()
        assert "(the last one: read timeout)" in refused_at(server.url, request_timeout=1)
        assert 1 <= time.monotonic() - began < 3


# --- how patiently --------------------------------------------------------------------------------


def waits(*errors: Exception) -> list[float]:
    """Return the seconds of sleep that follow these failures."""
    stream: Any = TapFini(config={"api_key": API_KEY}).streams["conversations"]
    generator: Generator[float, Any, None] = stream.backoff_wait_generator()
    next(generator)
    return [generator.send(error) for error in errors]


def test_patience_lasts_five_minutes_whatever_the_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ConnectionError()] * len(REAL_WAITS)
    monkeypatch.setattr("tap_fini.client._RANDOM.uniform", lambda low, _: low)
    shortest = waits(*failures)
    assert shortest[0] == 1.5
    assert 300 <= sum(shortest) < 330
    monkeypatch.setattr("tap_fini.client._RANDOM.uniform", lambda _, high: high)
    assert sum(waits(*failures)) < 600


def test_waits_are_jittered() -> None:
    firsts = {round(waits(ConnectionError())[0], 6) for _ in range(20)}
    assert len(firsts) > 15
    assert all(1.5 <= first <= 2.5 for first in firsts)


class FakeClock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock that retries sleep by."""
    fake = FakeClock()
    monkeypatch.setattr("backoff._sync.time", fake)
    return fake


@pytest.mark.parametrize(
    "fault",
    [Fault("503"), Fault("503", retry_after=0.001), Fault("429", retry_after="0"), Fault("reset")],
    ids=lambda fault: f"{fault.kind} {fault.retry_after}",
)
def test_an_outage_of_five_minutes_is_sat_out(
    sandbox: Sandbox, undisturbed: Output, clock: FakeClock, fault: Fault
) -> None:
    def outage(number: int, request: Request) -> None:  # noqa: ARG001
        sandbox.faults = [fault] if number > 0 and clock.now < 300 else []

    sandbox.on_request = outage
    output = read(sandbox, max_concurrent_requests=1)
    assert timeless(output) == timeless(undisturbed)
    assert 300 <= clock.now < 600
    warnings = [line for line in output.log if line.startswith("WARNING")]
    assert warnings
    assert all("Try " in line and " of 12 to reach Fini failed (" in line for line in warnings)


@pytest.mark.parametrize("fault", [Fault("503"), Fault("503", retry_after=0.001)])
def test_a_longer_outage_ends_the_run(sandbox: Sandbox, clock: FakeClock, fault: Fault) -> None:
    sandbox.faults = [fault]
    assert refused(sandbox).startswith(f"Fini at {sandbox.url} gave no proper answer for 12 tries")
    assert 300 <= clock.now < 600
    assert len(sandbox.requests) == 12


# --- Retry-After ----------------------------------------------------------------------------------

NOON = "Tue, 24 Feb 2026 12:00:00 GMT"


def response_with(**headers: str) -> requests.Response:
    response = requests.Response()
    response.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
    return response


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("0.25", 0.25),
        ("1e1", 10),
        ("-5", 0),
        ("300", 300),
        ("301", 300),
        ("9" * 400, 300),
        ("inf", 300),
        ("-inf", 0),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("7 seconds", None),
        ("0x10", None),
        ("Tue, 24 Feb 2026 12:00:07 GMT", 7),
        ("Tue, 24 Feb 2026 13:00:07 +0100", 7),
        ("Tuesday, 24-Feb-26 12:00:07 GMT", 7),
        ("Tue Feb 24 12:00:07 2026", 7),
        ("Tue, 24 Feb 2026 11:59:59 GMT", 0),
        ("Tue, 24 Feb 2026 12:05:01 GMT", 300),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 300),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
        ("Tue, 99 Feb 2026 12:00:07 GMT", None),
        ("2026-02-24T12:00:07Z", None),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float | None) -> None:
    assert retry_after(response_with(Retry_After=text, Date=NOON)) == seconds


def test_without_retry_after_there_is_nothing_to_obey() -> None:
    assert retry_after(response_with(Date=NOON)) is None


@pytest.mark.parametrize("date", [{}, {"Date": "nonsense"}])
def test_a_date_is_compared_with_this_clock_if_there_is_no_other(date: dict[str, str]) -> None:
    soon = formatdate(time.time() + 100, usegmt=True)
    found = retry_after(response_with(Retry_After=soon, **date))
    assert found is not None
    assert 95 < found <= 100


def test_random_texts_never_break_retry_after() -> None:
    rng = random.Random(1)
    letters = "0123456789-+.:, eGMTFebuinfa\x00é"
    for _ in range(5000):
        text = "".join(rng.choices(letters, k=rng.randrange(30)))
        found = retry_after(response_with(Retry_After=text, Date=text[::-1]))
        assert found is None or 0 <= found <= 300


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["429", "503"])
def test_a_retry_after_holds_all_workers(kind: Any) -> None:
    together = threading.Barrier(4)

    def hold_together(number: int, request: Request) -> None:  # noqa: ARG001
        # All four workers have a request under way when the third request is refused.
        if number <= 4:
            together.wait(timeout=5)
            if number != 3:
                time.sleep(0.1)

    with Sandbox(CONVERSATIONS) as sandbox:
        sandbox.on_request = hold_together
        sandbox.faults = [Fault(kind, at=3, retry_after=0.4)]
        output = private(run_tap(config_for(sandbox, window_days=10)))
        times = sorted(request.at for request in sandbox.requests)
        assert sandbox.violations == 0
        assert times[4] - times[3] >= 0.4
    assert len(output.records("conversations")) == len(CONVERSATIONS)


@pytest.mark.usefixtures("quick")
def test_a_429_without_retry_after_holds_all_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_WAITS", (0.4,))
    monkeypatch.setattr(client, "_JITTER", 0)
    together = threading.Barrier(4)

    def hold_together(number: int, request: Request) -> None:  # noqa: ARG001
        if number <= 4:
            together.wait(timeout=5)
            if number != 3:
                time.sleep(0.1)

    with Sandbox(CONVERSATIONS) as sandbox:
        sandbox.on_request = hold_together
        sandbox.faults = [Fault("429", at=3)]
        private(run_tap(config_for(sandbox, window_days=10)))
        times = sorted(request.at for request in sandbox.requests)
        assert times[4] - times[3] >= 0.4


# --- the throttle ---------------------------------------------------------------------------------


def most_within(times: list[float], seconds: float) -> int:
    """Return how many of the times lie at most in any span of so many seconds."""
    times = sorted(times)
    return max(
        sum(start <= other < start + seconds for other in times[n:])
        for n, start in enumerate(times)
    )


def test_the_throttle_allows_a_burst_and_then_no_more_than_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(client, "time", clock)
    throttle, turns = Throttle(100), list[float]()
    rng = random.Random(2)
    while len(turns) < 1000:
        wait = throttle._wait()
        if wait == 0:
            turns.append(clock.now)
            clock.now += rng.choice((0, 0, 0, 0.001, 0.7))
        else:
            assert wait > 0
            clock.now += wait
    assert most_within(turns, 60) == 100
    # Nor slower than it has to be: all but the last hundred are followed by a wait of a window.
    assert turns[-1] < 9 * client.THROTTLE_WINDOW + 0.7 * 100


def test_many_threads_share_one_throttle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "THROTTLE_WINDOW", 0.25)
    throttle, turns = Throttle(6), list[float]()

    def work() -> None:
        for _ in range(3):
            throttle.acquire()
            turns.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    assert len(turns) == 24
    assert most_within(turns, 0.2) <= 6
    assert 0.7 < max(turns) - min(turns) < 1.5
    assert throttle.waited > 1  # of eight threads together


def test_no_limit_is_no_wait() -> None:
    throttle = Throttle(0)
    began = time.monotonic()
    for _ in range(1000):
        throttle.acquire()
    assert time.monotonic() - began < 0.3
    assert throttle.waited < 0.1


def test_a_hold_is_never_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(client, "time", clock)
    throttle = Throttle(0)
    throttle.hold(10)
    throttle.hold(2)
    assert throttle._wait() == 10
    clock.now = 9.5
    assert throttle._wait() == 0.5
    clock.now = 10
    assert throttle._wait() == 0


def test_stopping_wakes_who_waits() -> None:
    throttle, errors = Throttle(0), []
    throttle.hold(60)

    def work() -> None:
        try:
            throttle.acquire()
        except FiniError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    throttle.stop()
    for thread in threads:
        thread.join(timeout=2)
    assert errors == ["The run was stopped."] * 4


def test_nobody_gets_a_turn_after_the_end() -> None:
    """Not even who slept between two tries meanwhile, though there is room."""
    throttle = Throttle(0)
    throttle.stop("It is over.")
    with pytest.raises(FiniError, match="It is over"):
        throttle.acquire()
    throttle.start()
    throttle.acquire()


def throttled(monkeypatch: pytest.MonkeyPatch, per_window: int) -> tuple[Sandbox, Output]:
    """Read 20 windows from a sandbox that allows 6 requests in 0.8 seconds.

    The margin between the two is wide, for requests may be on their way for long here.
    """
    monkeypatch.setattr(client, "THROTTLE_WINDOW", 1.2)
    switches = Switches(throttle=6, throttle_window=0.8, retry_after=None)
    with Sandbox(CONVERSATIONS, switches) as sandbox:
        config = config_for(sandbox, window_days=10, max_requests_per_minute=per_window)
        output = private(run_tap(config))
    assert len(output.records("conversations")) == len(CONVERSATIONS)
    return sandbox, output


def test_a_tap_set_to_finis_throttle_never_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, output = throttled(monkeypatch, 6)
    assert sandbox.violations == 0
    assert {request.status for request in sandbox.requests} == {200}
    assert counted(output, "retries") == 0
    assert len(sandbox.requests) == 21  # windows of ten days


@pytest.mark.usefixtures("quick")
def test_a_tap_set_too_fast_is_slowed_down_by_fini(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_WAITS", (0.1,) * 30)
    sandbox, output = throttled(monkeypatch, 0)
    assert sandbox.violations == counted(output, "retries") > 0


# --- what ends a run at once ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "switches", "sentence"),
    [
        (
            {"api_key": "fini_unknown"},
            {},
            (
                "Fini does not know the API key (401): set 'api_key' (TAP_FINI_API_KEY) to a key "
                "from Fini's page Deploy > API Keys. Fini says: 'Invalid API key'"
            ),
        ),
        (
            {"api_key": WRITE_ONLY_KEY},
            {},
            (
                "The API key may not read this (403): give it the 'read' scope on Fini's page "
                "Deploy > API Keys, or use another key. Fini says: 'API key does not have the "
                "required scope for this operation'"
            ),
        ),
        (
            {"page_size": 80},
            {"max_limit": 50, "over_limit": "refused"},
            (
                "Fini refused the request (400): check the filters and dates in the settings. Fini "
                "says: 'limit must not be greater than 50'"
            ),
        ),
        (
            {"window_days": 40},
            {"max_window_days": 31},
            (
                "Fini refused the request (400): check the filters and dates in the settings. Fini "
                "says: 'The time range must not be wider than 31 days'"
            ),
        ),
    ],
    ids=["401", "403", "400 limit", "400 window"],
)
def test_a_refusal_ends_the_run_at_once(
    settings: dict[str, Any], switches: dict[str, Any], sentence: str
) -> None:
    with Sandbox(CONVERSATIONS, Switches(**switches)) as sandbox:
        said = refused(sandbox, **settings)
        assert said == sentence
        assert str(settings.get("api_key", API_KEY)) not in said
        assert len(sandbox.requests) == 1


def test_a_wrong_address_ends_the_run_at_once(sandbox: Sandbox) -> None:
    assert refused(sandbox, api_url=f"{sandbox.url}/v3") == (
        f"There is nothing at {sandbox.url}/v3{PATH} (404): check 'api_url', or ask Fini whether "
        f"your workspace has this export. Fini says: 'Cannot GET /v3{PATH}'"
    )
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("status", "name"),
    [(402, "Payment Required"), (405, "Method Not Allowed"), (410, "Gone"), (422, None)],
)
def test_any_other_refusal_ends_the_run_at_once(
    sandbox: Sandbox, status: int, name: str | None
) -> None:
    body = b'{"statusCode":0,"message":"Pay first.","error":"?"}'
    sandbox.faults = [Fault("wrong_shape", status=status, body=body)]
    said = refused(sandbox)
    if name is not None:
        assert said == f"Fini refused the request ({status} {name}). Fini says: 'Pay first.'"
    assert len(sandbox.requests) == 1


def test_a_status_nobody_knows_ends_the_run_at_once() -> None:
    with Raw(reply(b"", status="499 Oh")) as server:
        assert refused_at(server.url) == "Fini refused the request (499 unknown status)."
        assert len(server.heads) == 1


LONG = "x" * 300


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps({"message": f"No {LONG}"}), f" Fini says: 'No {LONG[:197]}'"),
        (
            json.dumps({"message": f"{API_KEY} is bad, {API_KEY}!"}),
            " Fini says: '*** is bad, ***!'",
        ),
        # A key that the cut would go through is masked before.
        (
            json.dumps({"message": f"{LONG[:190]}{API_KEY}"}),
            f" Fini says: '{LONG[:190]}***'",
        ),
        (
            json.dumps({"message": "a\r\n2026-01-01 | ERROR | forged\t\x1b[31m\x00\u202eb\u2028c"}),
            " Fini says: 'a 2026-01-01 | ERROR | forged ?[31m??b c'",
        ),
        (
            json.dumps({"message": ["limit must be a number", "it's not"]}),
            " Fini says: '[\\'limit must be a number\\', \"it\\'s not\"]'",
        ),
        (json.dumps({"message": None}), ""),
        (json.dumps({"message": "  "}), ""),
        (json.dumps({"error": "Forbidden"}), ""),
        (json.dumps(["message"]), ""),
        (json.dumps("message"), ""),
        ("<html>Forbidden</html>", ""),
        ("", ""),
        (b'{"message":"\xff"}', ""),
        ('{"message":' + "[" * 100_000, ""),
    ],
    ids=range(14),
)
def test_finis_own_words_are_short_harmless_and_without_the_key(
    sandbox: Sandbox, body: str | bytes, words: str
) -> None:
    encoded = body if isinstance(body, bytes) else body.encode()
    sandbox.faults = [Fault("wrong_shape", status=403, body=encoded)]
    assert refused(sandbox) == (
        "The API key may not read this (403): give it the 'read' scope on Fini's page Deploy > API "
        f"Keys, or use another key.{words}"
    )
    assert len(sandbox.requests) == 1


def test_the_key_is_masked_while_waiting_too(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_WAITS", (0.01,) * 5)
    body = json.dumps({"message": f"{API_KEY}\nERROR"}).encode()
    sandbox.faults = [Fault("wrong_shape", status=500, body=body)]
    assert "(the last one: 500 Internal Server Error Fini says: '*** ERROR')" in refused(sandbox)


# --- envelopes that are none ----------------------------------------------------------------------

NO_OBJECTS = "an object whose 'conversations' is not an array of objects"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            '{"interactions":[],"hasMore":false}',
            "an object with the keys 'interactions', 'hasMore'",
        ),
        ('{"conversations":[]}', "an object with the keys 'conversations'"),
        (
            '{"conversations":[],"hasMore":"true"}',
            "an object with the keys 'conversations', 'hasMore'",
        ),
        ('{"conversations":[],"hasMore":0}', "an object with the keys 'conversations', 'hasMore'"),
        ("{}", "an empty object"),
        ("[]", "a bare array"),
        (" \n[{}]", "a bare array"),
        ("null", "null"),
        ('"Sign in"', "a text"),
        ("true", "a boolean"),
        ("12", "a number"),
        ('{"conversations":null,"hasMore":false}', NO_OBJECTS),
        ('{"conversations":{},"hasMore":false}', NO_OBJECTS),
        ('{"conversations":[1],"hasMore":false}', NO_OBJECTS),
        ('{"conversations":[null],"hasMore":false}', NO_OBJECTS),
        ('{"conversations":["PRIVATE-TEXT-7c1e"],"hasMore":false}', NO_OBJECTS),
        ('{"\\u001b[31m\\n":1}', "an object with the keys '\\x1b[31m\\n'"),
        (
            '{"conversations":[],"hasMore":' + "[" * 100_000 + "]" * 100_000 + "}",
            "an object with the keys 'conversations', 'hasMore'",
        ),
        ("[" * 100_000 + "]" * 100_000, "a bare array"),
    ],
    ids=range(19),
)
def test_another_envelope_is_named_and_ends_the_run(
    sandbox: Sandbox, body: str, found: str
) -> None:
    sandbox.faults = [Fault("wrong_shape", body=body.encode())]
    assert refused(sandbox) == (
        f"Fini's response is {found}; expected an object with an array 'conversations' and a "
        "boolean 'hasMore': check 'api_url', and whether a newer tap-fini is out."
    )
    assert len(sandbox.requests) == 1


def test_bytes_that_are_no_utf_8_are_replaced(sandbox: Sandbox) -> None:
    row = json.dumps({**documented_example(), "url": "@"}).encode()
    body = b'{"x\xff":0,"conversations":[' + row.replace(b"@", b"a\xffb") + b'],"hasMore":false}'
    sandbox.faults = [Fault("wrong_shape", body=body)]
    output = read(sandbox, start_date="2025-05-01T00:00:00Z")
    assert [record["url"] for record in output.records("conversations")] == ["a\ufffdb"]


def test_a_response_that_is_too_large_is_refused_with_advice(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 2 * 1024 * 1024)
    body = EMPTY_PAGE.ljust(2 * 1024 * 1024)
    sandbox.faults = [Fault("wrong_shape", body=body)]
    read(sandbox)  # exactly as large as allowed
    sandbox.faults = [Fault("wrong_shape", body=body + b" ")]
    sandbox.reset()
    assert refused(sandbox) == (
        "Fini sent a response of more than 2 MiB: set 'page_size' to a lower number."
    )
    assert len(sandbox.requests) == 1


@pytest.mark.usefixtures("quick")
def test_a_small_response_that_unpacks_to_a_large_one_is_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 1024 * 1024)
    bomb = gzip.compress(b" " * 50 * 1024 * 1024)
    with Raw(reply(bomb, "Content-Encoding: gzip")) as server:
        assert "more than 1 MiB: set 'page_size'" in refused_at(server.url)


# --- certificates and names -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def tls(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Raw]:
    """A server with that certificate, and no word about it in the environment."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Raw(reply(), context) as server:
        yield server


def untrusted(url: str) -> str:
    return (
        f"The certificate of {url} is not trusted: check 'api_url', or point REQUESTS_CA_BUNDLE to "
        "your organisation's certificates."
    )


@pytest.mark.usefixtures("quick")
def test_a_certificate_that_nobody_signed_is_refused_at_once(tls: Raw) -> None:
    began = time.monotonic()
    assert refused_at(tls.url) == untrusted(tls.url)
    assert time.monotonic() - began < 1.4
    assert (tls.heads, tls.connections) == ([], 1)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_named_in_the_environment_is_trusted(
    tls: Raw, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(certificate[0]))
    private(run_tap(at(tls.url)))
    assert len(tls.heads) == 1
    assert f"Authorization: Bearer {API_KEY}\r\n".encode() in tls.heads[0]


@pytest.mark.usefixtures("quick")
def test_requests_own_variable_goes_first(
    tls: Raw, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    assert refused_at(tls.url) == untrusted(tls.url)


@pytest.mark.usefixtures("quick")
def test_a_certificate_for_another_name_is_refused(
    tls: Raw, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    url = f"https://localhost:{tls.port}"
    assert refused_at(url) == untrusted(url)
    assert tls.heads == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_that_are_not_there_are_named(
    tls: Raw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "nothing.pem"))
    assert refused_at(tls.url) == (f"What {name} names does not exist: correct it, or unset it.")


@pytest.mark.usefixtures("quick")
def test_a_host_that_does_not_exist_is_one_sentence_at_once() -> None:
    try:
        socket.getaddrinfo("nonexistent.invalid", 443)
    except OSError as error:
        if error.errno == socket.EAI_AGAIN:
            pytest.skip("there is no name service here to ask")
    began = time.monotonic()
    assert refused_at("https://nonexistent.invalid") == (
        "There is no host of the name in https://nonexistent.invalid: check 'api_url' and the "
        "network."
    )
    assert time.monotonic() - began < 1.4
