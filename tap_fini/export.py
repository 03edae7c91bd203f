"""How an export becomes two streams: a parent read in windows, and the children inside.

An :class:`Export` declares what is particular to one of Fini's exports;
:class:`ExportStream` and :class:`InnerStream` make a parent and a child stream of any.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk import metrics
from singer_sdk.batch import Batcher
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL
from singer_sdk.streams import Stream

from tap_fini.client import FiniError, FiniStream
from tap_fini.pagination import ExportPage, MovementCheck
from tap_fini.progress import FieldWarnings, Progress, QuietCounter, QuietTimer, silence
from tap_fini.reader import IncompleteError, WindowReader
from tap_fini.records import FamilyMaker, Shape
from tap_fini.run import PageDecoder, Run
from tap_fini.typed import TypedDecoder, TypedRow, leave_out
from tap_fini.windows import DAY, Plan, Window, to_instant, to_text
from tap_fini.writer import BUFFER_SIZE, BufferedWriter

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from singer_sdk import Tap
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.streams.rest import HTTPRequest, PageContext

    from tap_fini.client import Connection
    from tap_fini.pagination import Page
    from tap_fini.run import Family


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that an export has."""

    param: str
    """The API's parameter."""

    values: tuple[str, ...] = ()
    """What Fini takes for it; nothing said means any text."""

    is_list: bool = False
    """Whether it takes several values, separated by commas."""

    def text(self, setting: object) -> str:
        """Return what is sent for a setting."""
        return ",".join(self._parts(setting))

    def expected(self, setting: object) -> str:
        """Say what the setting has to be, if it cannot be that."""
        parts = self._parts(setting)
        if parts and (not self.values or set(parts) <= set(self.values)):
            return ""
        several = "one or more, separated by commas," if self.is_list else "one"
        return f"{several} of {', '.join(self.values)}" if self.values else "a text"

    def _parts(self, setting: object) -> list[str]:
        text = str(setting).lower() if isinstance(setting, bool) else str(setting)
        if not self.is_list:
            return [text]
        # In one order, so that the same filter leaves the same fingerprint in the state.
        return sorted({part.strip() for part in text.split(",")} - {""})


@dataclass(frozen=True, slots=True)
class Export:
    """What is particular to one of Fini's exports of records with children inside."""

    path: str
    record_keys: tuple[str, ...]
    """The names under which a response may hold its array of records."""

    start_param: str
    end_param: str
    filters: Mapping[str, Filter]
    """The export's filters, by the settings that set them."""

    shape: Shape


class CheckpointedStream(Stream):
    """A stream whose state moves at the reader's checkpoints and at no other time."""

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE  # rows fit their schema already

    message_writer: object
    """What the tap writes its messages with."""

    counter: metrics.Counter
    """Counts the records of the run."""

    @property
    def line_end(self) -> bytes:
        """The end of a RECORD line, with the time at which its page was taken in."""
        raise NotImplementedError

    @property
    def plain_writer(self) -> BufferedWriter | None:
        """The writer for rows that nothing changes any more; ``None`` if the SDK has to see them.

        It has to where stream maps change them, where they go into BATCH files, and on a
        dry run, which counts them one by one.
        """
        if not self._is_plain or self.ABORT_AT_RECORD_COUNT is not None:
            return None
        return self.message_writer if isinstance(self.message_writer, BufferedWriter) else None

    @functools.cached_property
    def _is_plain(self) -> bool:
        (stream_map, *copies) = self.stream_maps
        return (
            type(stream_map) is SameRecordTransform
            and not copies
            and not stream_map.flattening_enabled
            and not self.emit_activate_version_messages
            and self.get_batch_config(self.config) is None
            and all(selected or len(path) <= 2 for path, selected in self.mask.items())  # noqa: PLR2004
        )

    def write_rows(self, writer: BufferedWriter, rows: Sequence[Record | TypedRow]) -> None:
        """Write and count rows as they are.

        For each single record the SDK looks up the selection of each field, copies, dates
        and rebuilds: more work than all that the tap does itself.

        Args:
            writer: The :attr:`plain_writer`.
            rows: The rows.
        """
        for name in self._deselected:
            for row in rows:
                leave_out(row, name)
        writer.write_rows(self._line_start, rows, self.line_end)
        self.counter.increment(len(rows))

    @functools.cached_property
    def _deselected(self) -> tuple[str, ...]:
        return tuple(path[-1] for path, selected in self.mask.items() if path and not selected)

    @functools.cached_property
    def _line_start(self) -> bytes:
        return f'{{"type":"RECORD","stream":"{self.name}","record":'.encode()

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Return nothing: the reader caps the bookmark at each window's end."""

    @override
    def _write_starting_replication_value(self, context: Context | None) -> None:
        # Private, for want of a hook. The SDK would note in the state where each sync starts,
        # also of a stream that is not selected. tests/test_sdk_hooks.py fails when the SDK
        # stops calling this, or one of the two below.
        pass

    @override
    def _increment_stream_state(
        self, latest_record: Record, *, context: Context | None = None
    ) -> None:
        # The SDK would move the state with every record, warn that an unsorted stream cannot
        # be resumed, and send a STATE after every child sync.
        pass

    @override
    def _write_state_message(self) -> None:
        # The SDK calls this after every child sync and every 10,000 records, whereas a STATE
        # belongs at the end of a window.
        pass

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterator[tuple[BaseBatchFileEncoding, list[str]]]:
        """Yield files of the rows that RECORD messages would carry.

        The SDK's own files keep deselected fields and know no stream maps (its issue 1117).

        Raises:
            FiniError: If stream maps make several streams of this one.
        """
        if len(self.stream_maps) > 1:
            message = (
                f"'batch_config' cannot be used with stream maps that copy '{self.name}': leave "
                "out one of the two."
            )
            raise FiniError(message)
        rows = (
            message.record
            for record in self._sync_records(context, write_messages=False)
            for message in self._generate_record_messages(record)
        )
        batcher = Batcher(self.tap_name, self.name, batch_config)
        for manifest in batcher.get_batches(rows):
            yield batch_config.encoding, manifest

    @property
    def is_incremental(self) -> bool:
        """Whether the stream keeps a bookmark."""
        return self.replication_method == REPLICATION_INCREMENTAL

    def bookmark(self) -> int | None:
        """Return the bookmark in epoch milliseconds, ``None`` without one.

        Raises:
            FiniError: If the state holds something that is no time.
        """
        state = self.stream_state
        value = state.get("replication_key_value")
        if (
            not self.is_incremental
            or value is None
            or state.get("replication_key") != self.replication_key
        ):
            return None
        instant = to_instant(value)
        if instant is None:
            message = (
                f"The state's bookmark of '{self.name}' is not a time: correct the state, or run "
                "without it (meltano run --full-refresh) to read everything again."
            )
            raise FiniError(message)
        return instant

    def checkpoint(self, reached: str | None, filters: Mapping[str, str]) -> None:
        """Note in the state how far the stream has been written.

        Args:
            reached: A time as the records write it, ``None`` if there was no record. The
                bookmark never goes back.
            filters: The fingerprints of the filters in force.
        """
        state = self.stream_state
        self.state_manager.finalize_state(state)
        if not self.is_incremental:
            return
        bookmark = self.bookmark()
        known = "" if bookmark is None else to_text(bookmark)
        if reached or known:
            state["replication_key"] = self.replication_key
            state["replication_key_value"] = max(reached or "", known)
        state.pop("filters", None)
        if filters:
            state["filters"] = dict(filters)


class ExportStream(CheckpointedStream, FiniStream):
    """The parent stream of an export: reads it in windows and hands down the children."""

    export: ClassVar[Export]

    def __init__(self, tap: Tap, connection: Callable[[], Connection]) -> None:
        """Belong to a tap.

        Args:
            tap: The tap.
            connection: Returns the connection of the tap's run.
        """
        self.path = self.export.path
        self.form = ExportPage(self.export.record_keys, self.export.shape)
        super().__init__(tap, connection)
        self.families: list[Family] = []
        """The rows whose children are being handed down, each with those children."""

        self._page_at_hand: list[Family] = []
        self._now = tap.initialized_at
        self._state_writer = tap.state_writer
        self.message_writer = tap.message_writer
        self._line_end = b""
        silence(self.logger)

    # Requests

    @override
    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Build the request for one page of the window in the context."""
        request = super().get_http_request(page=page)
        context = page.stream_context or {}
        window: Window = context["window"]
        start, end = window.query
        request.params = {
            self.export.start_param: start,
            self.export.end_param: end,
            "limit": context["page_size"],
            **self.filters(),
        }
        if page.next_page_token is not None:
            request.params |= {"cursor": page.next_page_token, "direction": "next"}
        return request

    @override
    def get_record_counter(
        self, *, endpoint: str | None = None, log_interval: float = metrics.DEFAULT_LOG_INTERVAL
    ) -> metrics.Counter:
        self.counter = super().get_record_counter(endpoint=endpoint, log_interval=log_interval)
        return self.counter

    @override
    def get_http_request_counter(self) -> metrics.Counter:
        return QuietCounter(metrics.Metric.HTTP_REQUEST_COUNT)

    def filters(self) -> dict[str, str]:
        """Return the filters in force: the API's parameters and their values."""
        return {
            known.param: known.text(value)
            for setting, known in self.export.filters.items()
            if (value := self.config.get(setting)) is not None
        }

    def filter_problems(self, settings: Iterable[str]) -> list[str]:
        """Say which filters this export cannot apply, in a sentence each.

        Nothing is asked of an export with fewer filters than the user wants: it would bring
        what was meant to stay out, and a warning is seen too late for that.

        Args:
            settings: The settings that filter some export.
        """
        problems = []
        for name in settings:
            value = self.config.get(name)
            known = self.export.filters.get(name)
            if value is None:
                continue
            if known is None:
                streams = " and ".join(repr(s.name) for s in self.selected_streams)
                problems.append(
                    f"The filter '{name}' cannot be applied to {streams}, for Fini has none of "
                    "that kind there: leave it out, or deselect what it does not fit."
                )
            elif expected := known.expected(value):
                problems.append(f"The setting '{name}' has to be {expected} for '{self.name}'.")
        return problems

    def _fetch(self, window: Window, *, other_size: bool = False) -> Iterator[Page]:
        """Yield a window's pages, as the reader wants it."""
        check = MovementCheck()
        size = self.config["page_size"]
        if other_size:
            size = size - 1 or 2
        context = {"window": window, "page_size": size}
        for item in self.request_records(context):
            check.see(item["page"])
            yield item["page"]
        if check.is_needed and not self._run.selects_by_change:
            for item in self.request_records(context):
                yield item["page"]
                check.confirm(item["page"])
                break

    # A run

    @property
    def inner_streams(self) -> list[InnerStream]:
        """The selected streams of children."""
        return [s for s in self.child_streams if isinstance(s, InnerStream) and s.selected]

    @property
    def selected_streams(self) -> list[CheckpointedStream]:
        """The streams that this export's records are written to."""
        return [*([self] if self.selected else []), *self.inner_streams]

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        """Read all windows, oldest first, and yield their rows.

        The code after a ``yield`` runs when the SDK has written what was yielded, so a
        window's checkpoint comes after its last row.

        Raises:
            FiniError: If something cannot be read. What was finished is in the state.
        """
        plan = self._new_plan()
        self._warn_of_changed_filters()
        progress = Progress(self.logger, plan, self.name, self.child_streams[0].name)
        progress.start([stream.name for stream in self.selected_streams], self.filters())
        reader = WindowReader(plan, self._fetch, workers=self.config["max_concurrent_requests"])
        decoder = PageDecoder(
            self.export.shape,
            self.maker,
            self.typed_decoder if self._bulk_writer else None,
            self.logger,
        )
        self._run = run = Run(
            self.export.shape,
            decoder,
            progress,
            self.logger,
            extend=reader.extend if self.config.get("end_date") is None else None,
        )
        if isinstance(self.message_writer, BufferedWriter):
            # A dry run stops after any record, with no chance to flush.
            self.message_writer.buffer_size = BUFFER_SIZE if not self._is_dry_run else 0
        for stream in self.inner_streams:
            stream.sync({"page": 0})  # no rows: only its SCHEMA, which comes even if no row does
        self.connection.open()
        try:
            for window, page in reader.read():
                if page is None:
                    self._checkpoint(run.finish(window))
                    continue
                now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
                self._line_end = f',"time_extracted":"{now}"}}\n'.encode()
                families = run.families(window, page)
                progress.child_count += sum(len(children) for _, children in families)
                yield from self._pass_on(families)
        except IncompleteError as error:
            raise FiniError(self._explain(error)) from None
        finally:
            self.connection.close()
        for stream in self.inner_streams:
            stream.counter.report()
        if isinstance(self.message_writer, BufferedWriter):
            self.message_writer.flush()
        progress.end(self.connection, reader.splits)

    @property
    def _bulk_writer(self) -> BufferedWriter | None:
        """The writer for whole pages; ``None`` if the SDK has to see the rows of any stream."""
        return self.plain_writer if all(s.plain_writer for s in self.inner_streams) else None

    def child_rows(self, family: Family) -> list[Any]:
        """Return the rows of a record's children, made now unless they were decoded as rows."""
        row, children = family
        return children if isinstance(row, TypedRow) else self.maker.child_rows(row, children)

    def _pass_on(self, families: list[Family]) -> Iterator[Record]:
        """Write a page's rows, children first, or yield those that the SDK has to see."""
        if writer := self._bulk_writer:
            for stream in self.inner_streams:
                rows = [row for family in families for row in self.child_rows(family)]
                stream.write_rows(writer, rows)
            if self.selected:
                self.write_rows(writer, [row for row, _ in families])
            return
        writer = self.plain_writer
        if writer is None and not self._is_mapped_to_null:
            self._page_at_hand = families  # see generate_child_contexts
        else:
            # Of a stream that is mapped to null, the SDK would sync no children.
            self.families = families
            self._sync_children({"page": 1})
        rows = [row for row, _ in families]
        if writer is None:
            yield from rows
        elif self.selected:
            self.write_rows(writer, rows)

    @override
    def generate_child_contexts(
        self, record: Record, context: Context | None
    ) -> Iterator[Context | None]:
        """Yield one context for a whole page, on the first of its rows that is not filtered.

        The SDK syncs no children for a row that the stream map filters out, so the row
        that carries the page's children must not be one of those. The context itself goes
        into log lines, so it is a number; the rows wait in :attr:`families`.
        """
        if not self._page_at_hand:
            return
        is_kept = self.stream_maps[0].get_filter_result
        if not self.inner_streams or not is_kept(record):
            return
        page, self._page_at_hand = self._page_at_hand, []
        self.families = [family for family in page if is_kept(family[0])]
        yield {"page": 1}

    @property
    @override
    def line_end(self) -> bytes:
        return self._line_end

    @property
    def _is_dry_run(self) -> bool:
        return self.ABORT_AT_RECORD_COUNT is not None

    @property
    def _is_mapped_to_null(self) -> bool:
        """Whether stream maps leave this stream out, which says nothing of its children."""
        return isinstance(self.stream_maps[0], RemoveRecordTransform)

    @property
    def _is_batching(self) -> bool:
        """Whether written rows wait in a file that no message has announced yet."""
        return (
            self.selected
            and not self._is_mapped_to_null
            and self.get_batch_config(self.config) is not None
        )

    def _checkpoint(self, reached: str | None) -> None:
        fingerprints = self._fingerprints()
        for stream in self.selected_streams:
            stream.checkpoint(reached, fingerprints)
        if not self._is_batching:
            self._state_writer.write_state(self.tap_state)

    @override
    def _write_state_message(self) -> None:
        # See the base class. In BATCH mode the SDK calls this after each BATCH message of
        # this stream: the first moment at which the rows before the checkpoint are out.
        if self._is_batching:
            Stream._write_state_message(self)  # noqa: SLF001

    def _new_plan(self) -> Plan:
        floor = max(0, to_instant(self.config["start_date"]) or 0)
        lookback = int(self.config["lookback_days"] * DAY)
        bookmarks = [stream.bookmark() for stream in self.selected_streams]
        starts = [floor if at is None else max(floor, at - lookback) for at in bookmarks]
        start = min(starts, default=floor)
        end = to_instant(self.config.get("end_date"))
        if end is None:
            end = self._now
            if start >= end:
                self.logger.warning(
                    "This run would start at %s, which is yet to come: check this machine's "
                    "clock, and the state and the start date",
                    to_text(start),
                )
                end = start + 1  # one request, to learn what Fini's clock shows
        return Plan(
            start,
            end,
            max_width=int(self.config["window_days"] * DAY),
            workers=self.config["max_concurrent_requests"],
        )

    @functools.cached_property
    def maker(self) -> FamilyMaker:
        """What makes the rows of this stream and of its children."""
        (child,) = self.child_streams
        return FamilyMaker(
            self.export.shape,
            self.schema,
            child.schema,
            report_parent=FieldWarnings(self.logger, self.name),
            report_child=FieldWarnings(self.logger, child.name),
        )

    @functools.cached_property
    def typed_decoder(self) -> TypedDecoder:
        """What makes the same rows quickly of pages that hold no surprise."""
        (child,) = self.child_streams
        return TypedDecoder(self.export.shape, self.schema, child.schema)

    def _fingerprints(self) -> dict[str, str]:
        """Return a short digest of each filter, for their values may be private."""
        return {
            param: hashlib.sha256(value.encode()).hexdigest()[:12]
            for param, value in sorted(self.filters().items())
        }

    def _warn_of_changed_filters(self) -> None:
        present = self._fingerprints()
        for stream in self.selected_streams:
            past = stream.stream_state.get("filters", {})
            if stream.bookmark() is not None and past != present:
                changed = sorted(
                    name for name in {*past, *present} if past.get(name) != present.get(name)
                )
                self.logger.warning(
                    "The filters have changed since the state of '%s' was made (%s): what only "
                    "the new ones let through is missing before the bookmark; run once without "
                    "the state (meltano run --full-refresh) to get it",
                    stream.name,
                    ", ".join(changed),
                )

    def _explain(self, error: IncompleteError) -> str:
        return (
            f"In the three milliseconds around {to_text(error.window.start)} there are more "
            f"{self.name} than fit one page of {self.config['page_size']}, and Fini's paging "
            "cannot be trusted to bring the others: set 'page_size' to another number, up to "
            "100, or ask Fini how its cursor works. Nothing was skipped; the state ends before "
            "that moment."
        )


class InnerStream(CheckpointedStream):
    """A stream of children: read from their parents' payload, without a request."""

    state_partitioning_keys = ()

    def __init__(self, tap: Tap, parent: ExportStream) -> None:
        """Belong to a tap and a parent.

        Args:
            tap: The tap.
            parent: The stream whose pages hold this one's records.
        """
        super().__init__(tap=tap)
        self._parent = parent
        self.message_writer = tap.message_writer
        self.counter: QuietCounter = QuietCounter(
            metrics.Metric.RECORD_COUNT, {metrics.Tag.STREAM.value: self.name}
        )
        silence(self.logger)

    @override
    def get_record_counter(
        self, *, endpoint: str | None = None, log_interval: float = metrics.DEFAULT_LOG_INTERVAL
    ) -> metrics.Counter:
        return self.counter

    @property
    @override
    def line_end(self) -> bytes:
        return self._parent.line_end

    @override
    def generate_child_contexts(
        self, record: Record, context: Context | None
    ) -> Iterator[Context | None]:
        """Yield nothing: there are no streams below this one."""
        return iter(())

    @override
    def get_sync_timer(self) -> metrics.Timer:
        return QuietTimer(metrics.Metric.SYNC_DURATION)

    @override
    def get_records(self, context: Context | None) -> Iterator[Record]:
        """Yield the children of the page that the parent hands down."""
        writer = self.plain_writer
        for family in self._parent.families:
            rows = self._parent.child_rows(family)
            if writer is None:
                yield from rows
            else:
                self.write_rows(writer, rows)
