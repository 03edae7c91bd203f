"""The way to Fini: session, key, throttle, retries, and what an error means to the user."""

from __future__ import annotations

import functools
import logging
import os
import random
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

import backoff
import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError
from singer_sdk.streams import RESTStream
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError

from tap_fini.pagination import (
    CursorPaginator,
    EnvelopeError,
    UntrustedPagingError,
)
from tap_fini.windows import to_text

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from backoff.types import Details
    from pyrate_limiter import InMemoryBucket
    from singer_sdk import Tap
    from singer_sdk.helpers.types import Auth

    from tap_fini.pagination import Page, PageForm

MAX_BODY = 64 * 1024 * 1024
"""Bytes of the largest response that is read."""

MAX_RETRY_AFTER = 300.0
"""Seconds of the longest Retry-After that is waited for; a longer one ends the run."""

THROTTLE_WINDOW = 60.5
"""Seconds over which requests are counted. Fini counts over 60; requests that travel at
different speeds must not look closer together there than they were here."""

_WAITS = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0)
"""Seconds between tries. With a jitter of a quarter they last 316 seconds at the least."""

_JITTER = 0.25
_RANDOM = random.SystemRandom()  # without a state that threads, or whoever seeds, would share
_YEAR = 366 * 86_400.0
_PIECE = 64 * 1024
_NO_OBJECT = {
    b"[": "a bare array",
    b'"': "a text",
    b"n": "null",
    b"t": "a boolean",
    b"f": "a boolean",
}
_QUIET_TRIES = 3
_RETRIABLE = (
    RetriableAPIError,
    requests.exceptions.Timeout,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
_HOPELESS_ERRORS = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class FiniError(FatalAPIError):
    """A failure whose text is one plain sentence for the user, saying what to do."""


class BusyError(RetriableAPIError):
    """A response that is worth another try, which ``retry_after`` may put off."""

    def __init__(
        self, message: str, response: requests.Response, retry_after: float | None = None
    ) -> None:
        """Keep what is known of the wait.

        Args:
            message: What came back.
            response: The response.
            retry_after: Seconds, if the response asked for a wait.
        """
        super().__init__(message, response)
        self.retry_after = retry_after


class Throttle:
    """Keeps all workers together below a number of requests a minute."""

    def __init__(self, per_minute: int) -> None:
        """Start with a full allowance.

        Args:
            per_minute: Requests in any 60 seconds; 0 for no limit.
        """
        self.waited = 0.0
        """Seconds that workers have spent waiting for their turn, all together."""

        self._stopped = threading.Event()
        self._why_stopped = ""
        self._lock = threading.Lock()
        self._held_until = 0.0
        self._bucket: InMemoryBucket | None = None
        if per_minute:
            # Imported here: a run that only tells about itself needs no limiter.
            from pyrate_limiter import InMemoryBucket, Rate  # noqa: PLC0415

            self._bucket = InMemoryBucket([Rate(per_minute, int(THROTTLE_WINDOW * 1000))])

    def acquire(self) -> None:
        """Wait for the turn of one request.

        Raises:
            FiniError: If the run was stopped meanwhile; says why.
        """
        began = time.monotonic()
        if self._stopped.is_set():  # while this one slept between two tries
            raise FiniError(self._why_stopped)
        while (wait := self._wait()) > 0:
            if self._stopped.wait(wait):
                raise FiniError(self._why_stopped)
        with self._lock:
            self.waited += time.monotonic() - began

    def hold(self, seconds: float) -> None:
        """Let no request start for a while, from no worker."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def start(self) -> None:
        """Let turns be taken."""
        self._stopped.clear()

    def stop(self, why: str = "The run was stopped.") -> None:
        """Wake everybody who waits for a turn; they get none, but a reason."""
        self._why_stopped = why
        self._stopped.set()

    def _wait(self) -> float:
        """Take a turn and return 0, or return the seconds until one may come."""
        with self._lock:
            now = time.monotonic()
            if now < self._held_until:
                return self._held_until - now
            if self._bucket is None:
                return 0.0
            from pyrate_limiter import RateItem  # noqa: PLC0415

            turn = RateItem("request", int(now * 1000))
            self._bucket.leak(turn.timestamp)
            if self._bucket.put(turn):
                return 0.0
            wait: int = self._bucket.waiting(turn)  # type: ignore[assignment]
            return max(1, wait) / 1000


@dataclass(slots=True)
class Traffic:
    """What a run has cost so far."""

    requests: int = 0
    retries: int = 0


class _Session(requests.Session):
    """A session that does not even look where a redirect leads."""

    @override
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing: requests would read the body without end, and trip over odd targets."""


class Connection:
    """What all streams of a run share: one session, one throttle, one count."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Prepare to connect; nothing is sent yet.

        Args:
            config: The tap's settings.

        Raises:
            FiniError: If the certificates named by the environment are not there.
        """
        self.throttle = Throttle(config["max_requests_per_minute"])
        self.traffic = Traffic()
        self.key: str = config["api_key"]
        self.authenticator = BearerTokenAuthenticator(token=self.key)
        self.session = _Session()
        self.session.headers["Accept"] = "application/json"
        # The proxies of the environment, looked up once instead of for each request. Besides, the
        # key goes where it is sent, and not what a .netrc holds.
        self.session.proxies.update(get_environ_proxies(config["api_url"]))
        self.session.trust_env = False
        # Bodies are read here, up to MAX_BODY, instead of by requests, without end.
        self.session.stream = True
        # Session.send, which the SDK uses, does not look these up as Session.request does.
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            if path := os.environ.get(name):
                if not os.path.exists(path):  # noqa: PTH110 - any text may stand there
                    message = f"What {name} names does not exist: correct it, or unset it."
                    raise FiniError(message)
                self.session.verify = path
                break
        # Its lines hold whole addresses: the filters too, and a question may be one. What it
        # warns of, such as a header that is none, it says with the server's own text.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        adapter = HTTPAdapter(pool_maxsize=config["max_concurrent_requests"])
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def open(self) -> None:
        """Let requests start, and count them anew."""
        self.traffic = Traffic()
        self.throttle.waited = 0.0
        self.throttle.start()

    def close(self) -> None:
        """Wake who waits for a turn, in vain, and close what is open."""
        self.throttle.stop()
        self.session.close()


class FiniStream(RESTStream["str | None"]):
    """An endpoint of Fini, read page by page."""

    allow_redirects = False
    form: PageForm
    """What its responses look like."""

    def __init__(self, tap: Tap, connection: Callable[[], Connection]) -> None:
        """Belong to a tap.

        Args:
            tap: The tap.
            connection: Returns the connection of the tap's run.
        """
        super().__init__(tap=tap)
        self._connect = connection
        self._pages: WeakKeyDictionary[requests.Response, Page] = WeakKeyDictionary()

    @property
    def connection(self) -> Connection:
        """The connection that the tap's streams share."""
        return self._connect()

    @property
    @override
    def url_base(self) -> str:
        return str(self.config["api_url"]).rstrip("/")

    @property
    @override
    def requests_session(self) -> requests.Session:
        return self.connection.session

    @property
    @override
    def authenticator(self) -> Auth:
        return self.connection.authenticator

    @property
    @override
    def timeout(self) -> int:
        seconds: int = self.config["request_timeout"]
        return seconds

    @functools.cached_property
    @override
    def user_agent(self) -> str:
        name: str | None = self.config.get("user_agent")
        return name or f"{self.tap_name}/{self._tap.plugin_version}"

    @override
    def get_new_paginator(self) -> CursorPaginator:
        return CursorPaginator(self._pages.__getitem__)

    @override
    def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
        """Yield one item for the response: its page, still undecoded."""
        yield {"page": self._pages[response]}

    @override
    def request_decorator(
        self, func: Callable[..., requests.Response]
    ) -> Callable[..., requests.Response]:
        """Make each try wait for its turn, and failures be tried again with patience.

        Raises:
            FiniError: When patience is at an end.
        """

        @functools.wraps(func)
        def take_turn(*args: object, **kwargs: object) -> requests.Response:
            self.connection.throttle.acquire()
            self.connection.traffic.requests += 1
            return func(*args, **kwargs)

        patient = backoff.on_exception(
            self.backoff_wait_generator,
            _RETRIABLE,
            max_tries=self.backoff_max_tries,
            giveup=_is_hopeless,
            on_backoff=self.backoff_handler,
            jitter=None,
            logger=None,
        )(take_turn)

        @functools.wraps(func)
        def request(*args: object, **kwargs: object) -> requests.Response:
            try:
                return patient(*args, **kwargs)
            except _RETRIABLE as error:
                raise FiniError(_explain_failure(error, self.url_base)) from None
            except requests.exceptions.RequestException as error:
                message = f"The request to {self.url_base} could not be made: {_name(error)}."
                raise FiniError(message) from None

        return request

    @override
    def backoff_max_tries(self) -> int:
        return len(_WAITS) + 1

    @override
    def backoff_wait_generator(self) -> Generator[float, Any, None]:
        """Yield the seconds to wait after each failed try.

        A Retry-After does not shorten them, for patience has to last; where it asks for
        more, the throttle holds all workers until it has passed.
        """
        yield 0.0
        for seconds in _WAITS:
            yield seconds * _RANDOM.uniform(1 - _JITTER, 1 + _JITTER)

    @override
    def backoff_handler(self, details: Details) -> None:
        """Count a retry; slow everybody down if Fini asked for it; speak up if it persists."""
        error, wait = details.get("exception"), details.get("wait", 0.0)
        asked = getattr(error, "retry_after", None)
        self.connection.traffic.retries += 1
        if (
            isinstance(error, BusyError)
            and asked is None
            and error.response is not None
            and error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
        ):
            self.connection.throttle.hold(wait)
        self.log(
            "Try %d of %d to reach Fini failed (%s); the next one is in %.0f s",
            details["tries"],
            self.backoff_max_tries(),
            error if isinstance(error, BusyError) else _name(error),
            max(wait, asked or 0.0),
            level=logging.WARNING if details["tries"] > _QUIET_TRIES else logging.DEBUG,
        )

    @override
    def validate_response(self, response: requests.Response) -> None:
        """Read the response and keep its page.

        Raises:
            BusyError: If the response is worth another try.
            FiniError: If it is not; the text tells the user what to do.
            UntrustedPagingError: If Fini refused the cursor that was sent.
        """
        status = response.status_code
        content = self._read(response)
        if status == HTTPStatus.OK:
            self._pages[response] = self._page(response, content)
            return
        said = self._said(content)
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            message = f"{status} {_phrase(status)}{said}"
            asked = _asked_wait(response)
            if asked is not None:
                self.connection.throttle.hold(asked)
                if asked > MAX_RETRY_AFTER:
                    moment = to_text(int((time.time() + asked) * 1000))
                    sentence = (
                        f"Fini asks not to be called before {moment} ({message}). Finished "
                        "windows are saved: run the tap again after that."
                    )
                    self.connection.throttle.stop(sentence)  # the other workers
                    raise FiniError(sentence)
            raise BusyError(message, response, retry_after(response))
        sent = parse_qs(urlsplit(response.request.url or "").query)
        if status == HTTPStatus.BAD_REQUEST and "cursor" in sent:
            message = "Fini refused the cursor"
            raise UntrustedPagingError(message)
        raise FiniError(self.response_error_message(response) + said)

    @override
    def response_error_message(self, response: requests.Response) -> str:
        """Return a sentence that says what a refusal means and what to do about it."""
        status = response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                "Fini does not know the API key (401): set 'api_key' (TAP_FINI_API_KEY) to a key "
                "from Fini's page Deploy > API Keys."
            )
        if status == HTTPStatus.FORBIDDEN:
            return (
                "The API key may not read this (403): give it the 'read' scope on Fini's page "
                "Deploy > API Keys, or use another key."
            )
        if status == HTTPStatus.NOT_FOUND:
            return (
                f"There is nothing at {self.url_base}{self.path} (404): check 'api_url', or ask "
                "Fini whether your workspace has this export."
            )
        if status == HTTPStatus.BAD_REQUEST:
            return "Fini refused the request (400): check the filters and dates in the settings."
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return (
                f"{self.url_base} redirects elsewhere ({status}), where the API key must not go: "
                "set 'api_url' to the final address."
            )
        return f"Fini refused the request ({status} {_phrase(status)})."

    def _read(self, response: requests.Response) -> bytes:
        """Read a body, up to a size and within the time limit.

        Raises:
            requests.exceptions.ReadTimeout: If it takes longer than the setting says.
            FiniError: If it is larger than :data:`MAX_BODY`.
        """
        content = bytearray()
        deadline = time.monotonic() + self.timeout
        for chunk in _pieces(response):
            content += chunk
            if len(content) > MAX_BODY:
                response.close()
                message = (
                    f"Fini sent a response of more than {MAX_BODY // 1024 // 1024} MiB: "
                    "set 'page_size' to a lower number."
                )
                raise FiniError(message)
            if time.monotonic() > deadline:
                response.close()
                raise requests.exceptions.ReadTimeout
        return bytes(content)

    def _page(self, response: requests.Response, content: bytes) -> Page:
        """Find the page in a body.

        Raises:
            BusyError: If the body is not JSON.
            FiniError: If it is JSON of another shape.
        """
        served_at = _instant(response.headers.get("Date"))
        try:
            return self.form.parse(content, served_at=served_at)
        except msgspec.ValidationError:
            found = _NO_OBJECT.get(content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1], "a number")
        except msgspec.DecodeError as error:
            message = "200, but with a body that is not JSON"
            raise BusyError(message, response) from error
        except EnvelopeError as error:
            found = str(error)
        message = (
            f"Fini's response is {found}; expected {self.form.expected}: "
            "check 'api_url', and whether a newer tap-fini is out."
        )
        raise FiniError(message)

    def _said(self, content: bytes) -> str:
        """Return Fini's own words on an error, short, harmless and without the key."""
        try:
            text = msgspec.json.decode(content)["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        words = " ".join(str(text or "").replace(self.connection.key, "***").split())
        printable = "".join(c if c.isprintable() else "?" for c in words)
        return f" Fini says: {printable[:200]!r}" if printable else ""


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield a body as it arrives.

    ``iter_content`` waits for whole pieces, which a slow server can make last for hours.

    Raises:
        requests.exceptions.RequestException: If the body breaks off or cannot be read.
    """
    try:
        while piece := response.raw.read1(_PIECE, decode_content=True):
            yield piece
    except ReadTimeoutError:
        raise requests.exceptions.ReadTimeout from None
    except DecodeError:
        raise requests.exceptions.ContentDecodingError from None
    except HTTPError:
        raise requests.exceptions.ChunkedEncodingError from None


def retry_after(response: requests.Response) -> float | None:
    """Return the wait that a response asks for, in seconds, at most 5 minutes."""
    asked = _asked_wait(response)
    return None if asked is None else min(asked, MAX_RETRY_AFTER)


def _asked_wait(response: requests.Response) -> float | None:
    """Return the wait that a response asks for, in seconds, at most a year.

    Both forms of RFC 9110 are known: seconds, and a date, which is compared with the
    response's own Date where there is one, for the two clocks may differ.
    """
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        until = _instant(value)
        if until is None:
            return None
        now = _instant(response.headers.get("Date"))
        seconds = (until - (time.time() * 1000 if now is None else now)) / 1000
    return min(max(seconds, 0.0), _YEAR) if seconds == seconds else None  # noqa: PLR0124


def _instant(date: str | None) -> int | None:
    """Return an HTTP date in epoch milliseconds."""
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)


def _causes(error: BaseException) -> Iterable[BaseException]:
    """Yield an exception and those it was made of (urllib3 wraps them as ``reason``)."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        cause = todo.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        todo += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _is_hopeless(error: Exception) -> bool:
    """Tell failures that no patience mends: no such host, an untrusted certificate."""
    return isinstance(error, requests.exceptions.SSLError) or any(
        isinstance(cause, socket.gaierror) and cause.errno in _HOPELESS_ERRORS
        for cause in _causes(error)
    )


def _explain_failure(error: Exception, url: str) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return (
            f"The certificate of {url} is not trusted: check 'api_url', or point "
            "REQUESTS_CA_BUNDLE to your organisation's certificates."
        )
    if _is_hopeless(error):
        return f"There is no host of the name in {url}: check 'api_url' and the network."
    last = str(error) if isinstance(error, BusyError) else _name(error)
    return (
        f"Fini at {url} gave no proper answer for {len(_WAITS) + 1} tries over more than 5 "
        f"minutes (the last one: {last}). Finished windows are saved: run the tap again when "
        "Fini is back."
    )


def _name(error: BaseException | None) -> str:
    """Return an exception's class name in words: its text may hold what must stay private."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in type(error).__name__).strip()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"
