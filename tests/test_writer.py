"""The writer: whole lines, in large pieces, nothing said twice, whatever the moment of a signal."""

from __future__ import annotations

import io
import json
import signal
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.singerlib import (
    ActivateVersionMessage,
    RecordMessage,
    SchemaMessage,
    StateMessage,
)

from tap_fini.writer import BUFFER_SIZE, BufferedWriter, TerminatedError

if TYPE_CHECKING:
    from collections.abc import Callable

STATE = StateMessage({"bookmarks": {}})


class Pipe(io.RawIOBase):
    """A standard output that notes each write, and can do something in the middle of one."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.at_once = sys.maxsize
        """Bytes that it takes in one write."""

        self.meanwhile: Callable[[], None] | None = None
        """Called in the middle of each write."""

    def write(self, data: Any) -> int:
        taken = bytes(data[: self.at_once])
        half = len(taken) // 2
        self.writes.append(taken[:half])
        if self.meanwhile is not None:
            self.meanwhile()
        self.writes[-1] += taken[half:]
        return len(taken)

    @property
    def content(self) -> bytes:
        return b"".join(self.writes)

    @property
    def messages(self) -> list[dict[str, Any]]:
        assert self.content.endswith(b"\n") or not self.content
        return [json.loads(line) for line in self.content.splitlines()]


class _Stdout:
    def __init__(self, pipe: Pipe) -> None:
        self.buffer = pipe

    def flush(self) -> None:
        self.buffer.flush()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    pipe = Pipe()
    # Not sys.stdout itself: pytest puts its own there again before the test begins.
    monkeypatch.setattr("tap_fini.writer.sys", SimpleNamespace(stdout=_Stdout(pipe)))
    return pipe


def record(stream: str = "s", **fields: object) -> RecordMessage:
    return RecordMessage(stream, fields)


def schema(stream: str = "s", *columns: str) -> SchemaMessage:
    return SchemaMessage(stream, {"properties": {column: {} for column in columns}}, ["id"])


def record_of(size: int) -> RecordMessage:
    """Return a record whose line is exactly ``size`` bytes long."""
    empty = len(b'{"type":"RECORD","stream":"s","record":{"text":""}}\n')
    return record(text="x" * (size - empty))


def test_records_are_collected(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.write_message(record_of(BUFFER_SIZE // 2))
    writer.write_message(record_of(BUFFER_SIZE // 2 - 1))
    assert pipe.writes == []
    writer.write_message(record_of(60))
    assert [len(write) for write in pipe.writes] == [BUFFER_SIZE + 59]
    assert pipe.content.count(b"\n") == 3


def test_64_kib_are_enough(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.write_message(record_of(64 * 1024))
    assert [len(write) for write in pipe.writes] == [64 * 1024]


def test_without_a_buffer_each_record_goes_out_at_once(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.buffer_size = 0
    writer.write_message(record(n=1))
    writer.write_message(record(n=2))
    assert [json.loads(write)["record"] for write in pipe.writes] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "message", [schema(), STATE, ActivateVersionMessage("s", 1)], ids=lambda m: type(m).__name__
)
def test_any_other_message_goes_out_at_once_after_the_records(pipe: Pipe, message: Any) -> None:
    writer = BufferedWriter()
    writer.write_message(record(n=1))
    writer.write_message(record(n=2))
    writer.write_message(message)
    assert len(pipe.writes) == 1
    assert [m["type"] for m in pipe.messages] == ["RECORD", "RECORD", message.type.value]
    writer.write_message(record(n=3))
    writer.flush()
    assert [m.get("record") for m in pipe.messages] == [{"n": 1}, {"n": 2}, None, {"n": 3}]


def test_flush_of_nothing(pipe: Pipe) -> None:
    BufferedWriter().flush()
    assert pipe.content == b""


def test_an_equal_schema_is_dropped(pipe: Pipe) -> None:
    """And flushes nothing: a target would end its batch."""
    writer = BufferedWriter()
    writer.write_message(schema("s", "id"))
    writer.write_message(record(id=1))
    writer.write_message(schema("s", "id"))
    assert [m["type"] for m in pipe.messages] == ["SCHEMA"]
    writer.write_message(STATE)
    assert [m["type"] for m in pipe.messages] == ["SCHEMA", "RECORD", "STATE"]


def test_schemas_are_compared_with_the_last_one_of_their_stream(pipe: Pipe) -> None:
    writer = BufferedWriter()
    said = [
        schema("s", "id"),
        schema("t", "id"),
        schema("s", "id"),  # the same as the last one of s
        schema("s", "id", "more"),
        schema("t", "id"),  # the same as the last one of t
        schema("s", "id"),  # not the same as the last one of s
    ]
    for message in said:
        writer.write_message(message)
    assert [(m["stream"], list(m["schema"]["properties"])) for m in pipe.messages] == [
        ("s", ["id"]),
        ("t", ["id"]),
        ("s", ["id", "more"]),
        ("s", ["id"]),
    ]


def test_other_keys_make_another_schema(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.write_message(SchemaMessage("s", {}, ["id"]))
    writer.write_message(SchemaMessage("s", {}, ["id", "n"]))
    writer.write_message(SchemaMessage("s", {}, ["id", "n"], ["at"]))
    assert len(pipe.messages) == 3


def test_an_equal_version_is_dropped_and_an_equal_state_is_not(pipe: Pipe) -> None:
    writer = BufferedWriter()
    for version in (1, 1, 2):
        writer.write_message(ActivateVersionMessage("s", version))
    writer.write_message(ActivateVersionMessage("t", 2))
    writer.write_message(STATE)
    writer.write_message(STATE)
    assert [(m["type"], m.get("stream"), m.get("version")) for m in pipe.messages] == [
        ("ACTIVATE_VERSION", "s", 1),
        ("ACTIVATE_VERSION", "s", 2),
        ("ACTIVATE_VERSION", "t", 2),
        ("STATE", None, None),
        ("STATE", None, None),
    ]


def test_a_signal_between_writes_is_obeyed_at_once(pipe: Pipe) -> None:
    """What was collected is not written: no STATE speaks of it."""
    writer = BufferedWriter()
    writer.write_message(record(n=1))
    with pytest.raises(TerminatedError) as stop:
        writer.handle_signal(signal.SIGTERM, None)
    assert stop.value.args == (signal.SIGTERM,)
    assert pipe.content == b""


def test_a_signal_during_a_write_waits_for_its_end(pipe: Pipe) -> None:
    writer = BufferedWriter()
    pipe.meanwhile = lambda: writer.handle_signal(signal.SIGINT, None)
    writer.write_message(record(n=1))
    with pytest.raises(TerminatedError) as stop:
        writer.write_message(STATE)
    assert stop.value.args == (signal.SIGINT,)
    assert [m["type"] for m in pipe.messages] == ["RECORD", "STATE"]


def test_a_second_signal_does_not_wait(pipe: Pipe) -> None:
    """The write may hang on a target that reads no more."""
    writer = BufferedWriter()

    def meanwhile() -> None:
        writer.handle_signal(signal.SIGTERM, None)
        writer.handle_signal(signal.SIGINT, None)

    pipe.meanwhile = meanwhile
    with pytest.raises(TerminatedError) as stop:
        writer.write_message(STATE)
    assert stop.value.args == (signal.SIGINT,)
    assert 0 < len(pipe.content) < len(b'{"type":"STATE","value":{"bookmarks":{}}}\n')


def test_a_write_may_take_less_than_all(pipe: Pipe) -> None:
    """As a pipe does without Python's buffer, when a signal comes."""
    writer = BufferedWriter()
    pipe.at_once = 7
    writer.write_message(record(n=1))
    writer.write_message(STATE)
    assert [m["type"] for m in pipe.messages] == ["RECORD", "STATE"]
    assert len(pipe.writes) > 5


def test_a_signal_between_the_parts_of_a_write_waits_too(pipe: Pipe) -> None:
    writer = BufferedWriter()
    pipe.at_once = 7
    pipe.meanwhile = lambda: (
        writer.handle_signal(signal.SIGTERM, None) if len(pipe.writes) == 2 else None
    )
    with pytest.raises(TerminatedError):
        writer.write_message(STATE)
    assert [m["type"] for m in pipe.messages] == ["STATE"]


def test_a_broken_pipe_is_reported_and_leaves_signals_working(pipe: Pipe) -> None:
    writer = BufferedWriter()

    def meanwhile() -> None:
        raise BrokenPipeError

    pipe.meanwhile = meanwhile
    with pytest.raises(BrokenPipeError):
        writer.write_message(STATE)
    with pytest.raises(TerminatedError):
        writer.handle_signal(signal.SIGTERM, None)


def test_a_big_record_is_one_line(pipe: Pipe) -> None:
    text = 'a "quoted" \\ line\nbreak, ünïcode, 😊\x00 ' * 200_000
    writer = BufferedWriter()
    writer.write_message(record(text=text))
    assert len(pipe.writes) == 1
    assert pipe.content.count(b"\n") == 1
    assert pipe.messages[0]["record"]["text"] == text


def test_text_goes_out_as_utf_8(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.write_message(record(text="שלום 😊"))
    writer.flush()
    assert "שלום 😊".encode() in pipe.content


def test_types_that_json_does_not_have(pipe: Pipe) -> None:
    """Stream maps can make them."""
    zone = timezone(timedelta(hours=2))
    writer = BufferedWriter()
    moment = datetime(2025, 2, 24, 14, 26, 18, 879000, tzinfo=timezone.utc)
    writer.write_message(
        RecordMessage(
            "s",
            {
                "moment": moment,
                "elsewhere": moment.astimezone(zone),
                "day": moment.date(),
                "exact": Decimal("12345678901234567890.123456789"),
                "small": Decimal("0.10"),
                "none": None,
            },
            version=3,
            time_extracted=moment.astimezone(zone),
        )
    )
    writer.flush()
    assert pipe.content == (
        b'{"type":"RECORD","stream":"s","record":{"moment":"2025-02-24T14:26:18.879000Z",'
        b'"elsewhere":"2025-02-24T16:26:18.879000+02:00","day":"2025-02-24",'
        b'"exact":12345678901234567890.123456789,"small":0.10,"none":null},'
        b'"version":3,"time_extracted":"2025-02-24T14:26:18.879000Z"}\n'
    )


def test_messages_of_all_kinds(pipe: Pipe) -> None:
    writer = BufferedWriter()
    writer.write_message(SchemaMessage("s", {"properties": {}}, ("a", "b"), ["b"]))
    writer.write_message(StateMessage({"bookmarks": {"s": {"replication_key_value": "é"}}}))
    assert pipe.messages == [
        {
            "type": "SCHEMA",
            "stream": "s",
            "schema": {"properties": {}},
            "key_properties": ["a", "b"],
            "bookmark_properties": ["b"],
        },
        {"type": "STATE", "value": {"bookmarks": {"s": {"replication_key_value": "é"}}}},
    ]
