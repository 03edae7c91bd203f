"""Singer messages out: whole lines, in large pieces, nothing said twice."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk.contrib.msgspec import enc_hook
from singer_sdk.singerlib import (
    ActivateVersionMessage,
    Message,
    RecordMessage,
    SchemaMessage,
)
from singer_sdk.singerlib.encoding.base import GenericSingerWriter

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FrameType

BUFFER_SIZE = 64 * 1024
"""Bytes of RECORD lines that are collected before they are written."""


class TerminatedError(BaseException):
    """A signal asked the run to stop. ``args[0]`` is the signal's number."""


class BufferedWriter(GenericSingerWriter[bytearray, Message]):
    """Writes messages to stdout.

    RECORD lines are collected and written together. A target flushes its batch on each
    SCHEMA, so a SCHEMA (or ACTIVATE_VERSION) equal to the last of its stream is dropped.
    A signal never cuts a line: it takes effect between two writes.
    """

    def __init__(self) -> None:
        """Start with an empty buffer."""
        super().__init__()
        self.buffer_size = BUFFER_SIZE
        self._buffer = bytearray()
        self._encoder = msgspec.json.Encoder(enc_hook=enc_hook, decimal_format="number")
        self._last: dict[tuple[type[Message], str], Message] = {}
        self._writing = False
        self._signal: int | None = None

    @override
    def serialize_message(self, message: Message) -> bytearray:
        return bytearray(self._encoder.encode(message.to_dict()) + b"\n")

    @override
    def write_message(self, message: Message) -> None:
        """Collect a RECORD; write any other message at once, after what was collected."""
        if isinstance(message, RecordMessage):
            buffer = self._buffer
            self._encoder.encode_into(message.to_dict(), buffer, -1)
            buffer += b"\n"
            if len(buffer) >= self.buffer_size:
                self.flush()
            return
        if isinstance(message, (SchemaMessage, ActivateVersionMessage)):
            key = (type(message), message.stream)
            if self._last.get(key) == message:
                return
            self._last[key] = message
        self._buffer += self.serialize_message(message)
        self.flush()

    def write_rows(
        self, head: bytes, rows: Iterable[Mapping[str, Any] | msgspec.Struct], tail: bytes
    ) -> None:
        """Collect RECORDs from their rows and the ready-made rest of their lines.

        Args:
            head: The lines up to the row.
            rows: The rows.
            tail: The lines from the row on, with their end.
        """
        encode, size = self._encoder.encode_into, self.buffer_size
        buffer = self._buffer
        for row in rows:
            buffer += head
            encode(row, buffer, -1)
            buffer += tail
            if len(buffer) >= size:
                self.flush()
                buffer = self._buffer

    def flush(self) -> None:
        """Write out all that was collected.

        Raises:
            BrokenPipeError: If nobody reads stdout any more.
            TerminatedError: If a signal came meanwhile.
        """
        lines, self._buffer = self._buffer, bytearray()
        self._writing = True
        try:
            # Unbuffered (PYTHONUNBUFFERED), a signal makes a write end half way.
            rest = memoryview(lines)
            while rest:
                rest = rest[sys.stdout.buffer.write(rest) :]
            sys.stdout.flush()
        finally:
            self._writing = False
        if self._signal is not None:
            raise TerminatedError(self._signal)

    def handle_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop the run: at once, or when the write under way is done.

        A second signal does not wait for the write, which may hang on a dead target.

        Raises:
            TerminatedError: Unless a first signal arrives during a write.
        """
        if self._writing and self._signal is None:
            self._signal = signum
            return
        raise TerminatedError(signum)
