"""The parts of the SDK that are nobody's promise: what tap-fini leans on, watched.

Each test runs the SDK's own code, without tap-fini's, and fails when a new version of it no longer
does what an override in tap_fini takes for granted. Then that override does nothing, silently.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import logging
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk import Stream, Tap, metrics
from singer_sdk import typing as th
from singer_sdk.batch import Batcher
from singer_sdk.mapper import RemoveRecordTransform
from singer_sdk.singerlib import Message, RecordMessage, SchemaMessage, StateMessage
from singer_sdk.singerlib.encoding.base import GenericSingerWriter

from tap_fini import client, export
from tap_fini.client import FiniStream
from tap_fini.progress import QuietCounter, QuietTimer, SdkChatter
from tap_fini.tap import TapFini
from tests.sandbox import Sandbox, make_conversations
from tests.support import captured_log, config_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOOKS = (
    "_generate_record_messages",
    "_increment_stream_state",
    "_sync_children",
    "_sync_records",
    "_tap",
    "_write_starting_replication_value",
    "_write_state_message",
)
"""Every private name of the SDK's streams that tap_fini overrides or uses."""

SCHEMA = th.PropertiesList(
    th.Property("id", th.IntegerType, required=True),
    th.Property("at", th.DateTimeType, required=True),
    th.Property("text", th.StringType),
).to_dict()


class Recorder(GenericSingerWriter[str, Message]):
    """A writer that keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def serialize_message(self, message: Message) -> str:
        return json.dumps(message.to_dict())

    def write_message(self, message: Message) -> None:
        self.messages.append(message)


class Probe(Stream):
    """A stream as the SDK makes it, which counts the calls of its hooks."""

    primary_keys = ("id",)
    replication_key = "at"
    schema = SCHEMA
    STATE_MSG_FREQUENCY = 2

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap)
        self.calls: Counter[str] = Counter()
        self.contexts: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not callable(found) or name.startswith("__") or name not in CALLED:
            return found

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return found(*args, **kwargs)

        return counted


CALLED = {
    "_generate_record_messages",
    "_increment_stream_state",
    "_sync_children",
    "_sync_records",
    "_write_starting_replication_value",
    "_write_state_message",
    "generate_child_contexts",
    "get_batches",
    "get_record_counter",
    "get_replication_key_signpost",
    "get_sync_timer",
}


class Parent(Probe):
    name = "parents"

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ARG002
        for number in range(5):
            if number == 3 and self.config.get("fails"):
                message = "no more"
                raise RuntimeError(message)
            yield {"id": number, "at": f"2025-01-0{number + 1}T00:00:00Z", "text": "x"}

    def get_child_context(self, record: Any, context: Any) -> Any:  # noqa: ARG002
        return {"page": record["id"]}


class Child(Probe):
    name = "children"
    parent_stream_type = Parent
    state_partitioning_keys = ()

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        self.contexts.append(dict(context))
        yield {"id": context["page"], "at": "2025-01-01T00:00:00Z", "text": "x"}


class ProbeTap(Tap):
    name = "tap-probe"
    config_jsonschema = th.PropertiesList(
        th.Property("fails", th.BooleanType), th.Property("start_date", th.DateTimeType)
    ).to_dict()

    def discover_streams(self) -> list[Stream]:
        return [Parent(self), Child(self)]


class _Formats(logging.Handler):
    """Keeps what was logged, before the arguments are put in."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.formats.append(str(record.msg))


class Run:
    """A run of the SDK's own streams."""

    def __init__(self, *, selected: tuple[str, ...] = (), **config: Any) -> None:
        writer = Recorder()
        catalog = json.loads(ProbeTap(config={}).catalog_json_text) if selected else None
        for entry in catalog["streams"] if catalog else ():
            for metadata in entry["metadata"]:
                if not metadata["breadcrumb"]:
                    metadata["metadata"]["selected"] = entry["tap_stream_id"] in selected
        self.failed = False
        with captured_log() as self.log:
            handler = _Formats()
            logging.getLogger().addHandler(handler)
            try:
                tap = ProbeTap(config=config, catalog=catalog, message_writer=writer)
                tap.sync_all()
            except RuntimeError:
                self.failed = True
            finally:
                logging.getLogger().removeHandler(handler)
        self.formats = handler.formats
        self.messages = writer.messages
        self.parent, self.child = tap.streams["parents"], tap.streams["children"]
        assert isinstance(self.parent, Probe)
        assert isinstance(self.child, Probe)
        self.calls = {"parents": self.parent.calls, "children": self.child.calls}
        self.contexts = self.child.contexts


@pytest.fixture(scope="module")
def probe() -> Run:
    return Run(start_date="2024-01-01T00:00:00Z")


def test_all_private_hooks_are_watched() -> None:
    """The list above is whole: a new lean on the SDK's inside needs a test here."""
    inside = {
        name
        for cls in FiniStream.__mro__
        if cls.__module__.startswith("singer_sdk.")
        for name in (*vars(cls), *_assigned_in(cls))
        if name.startswith("_") and not name.startswith(("__", "_abc_"))
    }
    used = set()
    for module in (client, export):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.FunctionDef):
                used.add(node.name)
    assert used & inside == set(HOOKS)


def _assigned_in(cls: type) -> set[str]:
    """Return the names that a class of the SDK gives its instances."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("name", HOOKS)
def test_the_sdk_still_has_it(name: str) -> None:
    assert hasattr(ProbeTap(config={}).streams["parents"], name)


class TestState:
    """What the SDK would do with the state, and tap_fini keeps it from doing."""

    def test_it_moves_with_each_record(self, probe: Run) -> None:
        assert probe.calls["parents"]["_increment_stream_state"] == 5
        assert probe.calls["children"]["_increment_stream_state"] == 5

    def test_it_notes_where_a_sync_starts(self, probe: Run) -> None:
        """For the child, once a page."""
        assert probe.calls["parents"]["_write_starting_replication_value"] == 1
        assert probe.calls["children"]["_write_starting_replication_value"] == 5

    def test_it_is_written_all_the_time(self, probe: Run) -> None:
        """Every so many records, at the end of each child sync, and at the end."""
        assert probe.calls["children"]["_write_state_message"] == 5 + 1
        assert probe.calls["parents"]["_write_state_message"] == 5 // 2 + 1 + 1
        states = [message for message in probe.messages if isinstance(message, StateMessage)]
        assert len(states) > 2

    def test_only_these_calls_write_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the three hooks silenced no STATE is left, whatever else the SDK does."""
        for name in (
            "_increment_stream_state",
            "_write_starting_replication_value",
            "_write_state_message",
        ):
            monkeypatch.setattr(Probe, name, lambda *_args, **_kwargs: None)
        run = Run(start_date="2024-01-01T00:00:00Z")
        assert not [message for message in run.messages if isinstance(message, StateMessage)]

    def test_the_signpost_is_asked_for(self, probe: Run) -> None:
        assert probe.calls["parents"]["get_replication_key_signpost"] == 1


class TestChildren:
    """How the children of a page get their turn."""

    def test_contexts_are_made_for_each_record_and_synced(self, probe: Run) -> None:
        assert probe.calls["parents"]["generate_child_contexts"] == 5
        assert probe.calls["parents"]["_sync_children"] == 5
        assert probe.contexts == [{"page": number} for number in range(5)]

    def test_children_go_out_before_their_parent(self, probe: Run) -> None:
        records = [m.stream for m in probe.messages if isinstance(m, RecordMessage)]
        assert records == ["children", "parents"] * 5

    def test_a_filtered_parent_has_no_children(self) -> None:
        """So the row that carries a page's children must not be one of those."""
        run = Run(stream_maps={"parents": {"__filter__": "id == 1"}})
        assert run.contexts == [{"page": 1}]

    def test_a_parent_mapped_to_null_has_no_children(self) -> None:
        """So they are handed down past the SDK."""
        run = Run(stream_maps={"parents": None})
        assert run.contexts == []
        assert isinstance(run.parent.stream_maps[0], RemoveRecordTransform)

    def test_a_deselected_parent_is_read_all_the_same(self) -> None:
        run = Run(selected=("children",))
        assert run.contexts == [{"page": number} for number in range(5)]
        assert {m.stream for m in run.messages if isinstance(m, RecordMessage)} == {"children"}

    def test_a_schema_goes_out_with_each_child_sync(self, probe: Run) -> None:
        """Which is why the writer drops equal ones."""
        schemas = [m.stream for m in probe.messages if isinstance(m, SchemaMessage)]
        assert Counter(schemas) == {"parents": 1, "children": 5}

    def test_counters_and_timers_are_asked_for(self, probe: Run) -> None:
        assert probe.calls["children"]["get_record_counter"] == 5
        assert probe.calls["children"]["get_sync_timer"] == 5


class TestBatches:
    """What get_batches() builds on."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        return Run(
            batch_config={
                "encoding": {"format": "jsonl", "compression": "gzip"},
                "storage": {"root": tmp_path.as_uri()},
                "batch_size": 2,
            },
            stream_maps={"parents": {"text": None}},
        )

    def test_it_is_asked_for_files_of_what_sync_records_yields(self, run: Run) -> None:
        assert run.calls["parents"]["get_batches"] == 1
        assert run.calls["parents"]["_sync_records"] == 1
        assert not [message for message in run.messages if isinstance(message, RecordMessage)]

    def test_a_state_is_written_after_each_batch(self, run: Run) -> None:
        """Three files, and the end: only then may a checkpoint go out."""
        assert run.calls["parents"]["_write_state_message"] == 3 + 1

    def test_rows_are_neither_selected_nor_mapped(self, run: Run) -> None:
        """When this fails, the SDK does it, and CheckpointedStream.get_batches() can go."""
        assert run.calls["parents"]["_generate_record_messages"] == 0

    def test_record_messages_are(self, probe: Run) -> None:
        assert probe.calls["parents"]["_generate_record_messages"] == 5

    def test_the_batcher_is_called_alike(self, run: Run, tmp_path: Path) -> None:
        config = run.parent.get_batch_config(run.parent.config)
        assert config is not None
        manifests = list(
            Batcher("tap-probe", "parents", config).get_batches(
                iter([{"n": 1}, {"n": 2}, {"n": 3}])
            )
        )
        assert [len(manifest) for manifest in manifests] == [1, 1]
        assert manifests[0][0].startswith(tmp_path.as_uri())


class TestLog:
    """The texts and metrics that are kept out of the log."""

    def test_the_texts_of_each_child_sync(self, probe: Run) -> None:
        for start in SdkChatter._ONCE:
            assert sum(text.startswith(start) for text in probe.formats) == 1 + 5

    def test_no_other_text_comes_with_each_child_sync(self, probe: Run) -> None:
        counts = Counter(
            text
            for text in probe.formats
            if not text.startswith(SdkChatter._ONCE)
            # Neither of the two hooks that log these is left in tap_fini.
            and not text.startswith(("Starting incremental sync of ", "Stream is assumed to be "))
            and text != "METRIC: %s"
        )
        assert {text for text, count in counts.items() if count >= 5} == set()

    def test_the_text_of_a_failure(self) -> None:
        run = Run(fails=True)
        assert run.failed
        for start in SdkChatter._NEVER:
            assert sum(text.startswith(start) for text in run.formats) == 1

    def test_metrics_of_each_child_sync(self, probe: Run) -> None:
        metric_lines = [line for line in probe.log if '"stream":"children"' in line]
        assert len(metric_lines) == 2 * 5

    def test_metrics_of_each_request(self) -> None:
        """Without the tap's filter, the SDK logs one for each."""
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with (
            Sandbox(make_conversations(10)) as sandbox,
            captured_log() as lines,
            contextlib.redirect_stdout(stdout),
        ):
            tap = TapFini(config=config_for(sandbox))
            muted = [
                known
                for known in tap.metrics_logger.filters
                if isinstance(known, metrics.MetricExclusionFilter)
            ]
            assert len(muted) == 1
            for known in muted:
                tap.metrics_logger.removeFilter(known)
            try:
                tap.sync_all()
            finally:
                for known in muted:
                    tap.metrics_logger.addFilter(known)
        duration = [line for line in lines if '"metric":"http_request_duration"' in line]
        assert len(duration) == len(sandbox.requests)

    def test_a_counter_ends_by_its_exit(self) -> None:
        calls = []

        class Probed(metrics.Counter):
            def exit(self) -> None:
                calls.append(self.value)

        with Probed(metrics.Metric.RECORD_COUNT) as counter:
            counter.increment(3)
        assert calls == [3]

    def test_quiet_ones_say_nothing(self) -> None:
        with captured_log() as lines:
            counter = QuietCounter(metrics.Metric.RECORD_COUNT, {"stream": "s"})
            for _ in range(3):
                with counter, QuietTimer(metrics.Metric.SYNC_DURATION):
                    counter.with_context({"page": 1})
                    counter.increment(2)
            assert lines == []
            counter.report()
        (line,) = lines
        point = json.loads(line.split("METRIC: ")[1])
        assert (point["value"], point["tags"]["stream"]) == (6, "s")
        assert "context" not in point["tags"]


def test_a_dry_run_sets_the_limit_that_the_tap_looks_at() -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with captured_log(), contextlib.redirect_stdout(stdout):
        tap = ProbeTap(config={}, message_writer=Recorder())
        before = [stream.ABORT_AT_RECORD_COUNT for stream in tap.streams.values()]
        tap.run_connection_test()
        after = [stream.ABORT_AT_RECORD_COUNT for stream in tap.streams.values()]
    assert (before, after) == ([None, None], [1, 1])


def test_a_state_that_is_not_new_is_not_written_again(probe: Run) -> None:
    """A window without changes costs no STATE."""
    writer = Recorder()
    tap = ProbeTap(config={}, message_writer=writer)
    state: Any = {"bookmarks": {"parents": {}}}
    tap.state_writer.write_state(state)
    tap.state_writer.write_state(state)
    state["bookmarks"]["parents"]["replication_key_value"] = "x"
    tap.state_writer.write_state(state)
    assert len(writer.messages) == 2
    assert probe.parent.tap_state is probe.child.tap_state
