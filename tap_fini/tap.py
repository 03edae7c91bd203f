"""The tap: its settings, its streams, and its command line."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
from jsonschema import Draft7Validator
from singer_sdk import Tap, metrics
from singer_sdk import typing as th
from singer_sdk.exceptions import ConfigValidationError, MappingError
from singer_sdk.helpers.capabilities import EMIT_ACTIVATE_VERSION_CONFIG
from singer_sdk.plugin_base import SingerCommand
from singer_sdk.tap_base import CliTestOptionValue

from tap_fini.client import Connection, FiniError
from tap_fini.export import ExportStream
from tap_fini.settings import (
    ENV_PREFIX,
    SettingsError,
    checked_catalog,
    checked_file,
    checked_state,
    convert,
    explain,
    problems_of,
)
from tap_fini.streams import EXPORTS, FILTERS, TABLES
from tap_fini.writer import BufferedWriter, TerminatedError

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import PurePath

    from singer_sdk import Stream
    from singer_sdk.singerlib import Catalog
    from singer_sdk.singerlib.encoding.base import GenericSingerWriter

FEEDBACK_TYPES = ["thumbs_up", "thumbs_down", "no_feedback"]


class TapFini(Tap):
    """Fini's chat history: every conversation and every answer, read incrementally."""

    name = "tap-fini"
    message_writer_class = BufferedWriter

    config_jsonschema = th.PropertiesList(
        th.Property(
            "api_key",
            th.StringType,
            required=True,
            secret=True,
            title="API key",
            description="The Fini API key, with read scope (Fini: Deploy > API Keys).",
        ),
        th.Property(
            "api_url",
            th.StringType,
            default="https://api-prod.usefini.com",
            title="API URL",
            description="Where Fini's API is: https, or plain http to this machine itself.",
        ),
        th.Property(
            "start_date",
            th.DateTimeType,
            default="2022-01-01T00:00:00Z",
            title="Start date",
            description="Read from here when there is no bookmark, and never from before.",
        ),
        th.Property(
            "end_date",
            th.DateTimeType,
            title="End date",
            description="Read up to here, for a bounded backfill. Without it: up to now.",
        ),
        th.Property(
            "lookback_days",
            th.NumberType(minimum=0),
            default=7,
            title="Lookback (days)",
            description=(
                "Days before the bookmark that each run reads again, to find late changes."
            ),
        ),
        th.Property(
            "window_days",
            th.NumberType(exclusive_minimum=0, maximum=90),
            default=30,
            title="Window (days)",
            description="Days that one series of pages spans at most.",
        ),
        th.Property(
            "page_size",
            th.IntegerType(minimum=1, maximum=100),
            default=50,
            title="Page size",
            description="Conversations or interactions a response (limit), 1 to 100.",
        ),
        th.Property(
            "source",
            th.StringType,
            title="Source filter",
            description=(
                "Read only what came from this source, for instance zendesk; for interactions also "
                "from several, separated by commas."
            ),
        ),
        th.Property(
            "category",
            th.StringType,
            title="Category filter",
            description="Read only conversations of this category, for instance fini-other.",
        ),
        th.Property(
            "feedback_type",
            th.StringType,
            allowed_values=FEEDBACK_TYPES,
            title="Feedback filter",
            description="Read only conversations with this feedback.",
        ),
        th.Property(
            "escalation",
            th.BooleanType,
            title="Escalation filter",
            description="Read only conversations that were (true) or were not (false) escalated.",
        ),
        th.Property(
            "has_links",
            th.BooleanType,
            title="Links filter",
            description="Read only conversations with (true) or without (false) links.",
        ),
        th.Property(
            "user_id",
            th.StringType,
            title="User filter",
            description="Read only conversations of this user.",
        ),
        th.Property(
            "ticket_id",
            th.StringType,
            title="Ticket filter",
            description="Read only conversations of this ticket in your ticketing system.",
        ),
        th.Property(
            "question",
            th.StringType,
            title="Question filter",
            description="Read only conversations in which this text was asked.",
        ),
        th.Property(
            "agent_id",
            th.StringType,
            title="Agent filter",
            description="Read only interactions of this agent.",
        ),
        th.Property(
            "channel",
            th.StringType,
            title="Channel filter",
            description="Read only interactions of these channels, separated by commas.",
        ),
        th.Property(
            "max_concurrent_requests",
            th.IntegerType(minimum=1, maximum=16),
            default=4,
            title="Concurrent requests",
            description="Windows that are read side by side, 1 to 16.",
        ),
        th.Property(
            "max_requests_per_minute",
            th.IntegerType(minimum=0),
            default=100,
            title="Requests per minute",
            description="Requests in any 60 seconds, 0 for no limit.",
        ),
        th.Property(
            "request_timeout",
            th.IntegerType(minimum=1, maximum=3600),
            default=60,
            title="Request timeout (seconds)",
            description="Seconds to wait for a response.",
        ),
        th.Property(
            "user_agent",
            th.StringType,
            title="User agent",
            description="What the tap calls itself. Without it: tap-fini and its version.",
        ),
    ).to_dict()

    def __init__(  # noqa: PLR0913 - the SDK's own arguments
        self,
        *,
        config: dict[str, Any] | PurePath | str | list[PurePath | str] | None = None,
        catalog: PurePath | str | dict[str, Any] | Catalog | None = None,
        state: PurePath | str | dict[str, Any] | None = None,
        parse_env_config: bool = False,
        validate_config: bool = True,
        setup_mapper: bool = True,
        message_writer: GenericSingerWriter[Any, Any] | None = None,
    ) -> None:
        """Check the settings, the catalog and the state, and take them over.

        Args:
            config: The settings. Numbers and booleans may come as texts.
            catalog: What to read: a catalog, or the path of one.
            state: Where to go on: a state, or the path of one.
            parse_env_config: Whether ``TAP_FINI_...`` variables are settings too.
            validate_config: Whether unusable settings are an error.
            setup_mapper: Whether stream maps apply.
            message_writer: Where messages go, instead of stdout.

        Raises:
            SettingsError: If the settings are unusable.
            FiniError: If the catalog or the state is.
        """
        if config is None or isinstance(config, dict):
            # The SDK reads a boolean variable that is no boolean as false, and stops at a
            # number that is none, so the environment is read here.
            environment = self._environment() if parse_env_config else {}
            parse_env_config = False
            config = self._converted({**(config or {}), **environment})
        try:
            super().__init__(
                config=config,
                catalog=checked_catalog(catalog),
                state=checked_state(state),
                parse_env_config=parse_env_config,
                validate_config=validate_config,
                setup_mapper=setup_mapper,
                message_writer=message_writer,
            )
        except ConfigValidationError as error:
            message = self._explain_settings() or f"{error}: {', '.join(error.errors)}."
            raise SettingsError(message) from None
        if validate_config:
            self._check_settings()
        self._quieten_metrics()
        if threading.current_thread() is threading.main_thread() and isinstance(
            self.message_writer, BufferedWriter
        ):
            # Instead of the SDK's handlers, which may cut a line in two and end with
            # status 0, as if all had been read.
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self.message_writer.handle_signal)

    @functools.cached_property
    def connection(self) -> Connection:
        """The connection to Fini that all streams of a run share."""
        return Connection(self.config)

    @override
    def discover_streams(self) -> list[Stream]:
        """Return the streams; nothing is asked of Fini for that."""
        streams: list[Stream] = [table(self, lambda: self.connection) for table in TABLES]
        for parent, inner in EXPORTS:
            stream = parent(self, lambda: self.connection)
            streams += [stream, inner(self, stream)]
        return streams

    @override
    def setup_mapper(self) -> None:
        super().setup_mapper()
        for stream in self.streams.values():
            # A catalog may leave out a stream, whose records are needed for the other all the same;
            # and one that is not selected has no columns here, not even where all are asked for.
            if stream.name not in self.mapper.stream_maps or not stream.selected:
                self.mapper.register_raw_stream_schema(
                    stream.name, stream.schema, stream.primary_keys
                )

    # Settings

    @classmethod
    @override
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add the SDK's own settings, the one included that it obeys but does not declare."""
        super().append_builtin_config(config_jsonschema)
        for name, definition in EMIT_ACTIVATE_VERSION_CONFIG["properties"].items():
            config_jsonschema["properties"].setdefault(name, definition)

    @classmethod
    def _settings(cls) -> dict[str, Any]:
        cls.append_builtin_config(cls.config_jsonschema)
        settings: dict[str, Any] = cls.config_jsonschema["properties"]
        return settings

    @classmethod
    def _environment(cls) -> dict[str, str]:
        names = {name: ENV_PREFIX + name.upper().replace("-", "_") for name in cls._settings()}
        # An empty variable sets nothing, so it does not hide what a config file sets either.
        return {
            name: text for name, var in names.items() if (text := os.environ.get(var, "").strip())
        }

    @classmethod
    def _converted(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give texts the types their settings want, and leave out what is not set."""
        converted = {}
        for name, value in config.items():
            definition = cls._settings().get(name)
            if definition is None:
                cls.logger.warning("There is no setting %a: it is ignored", name[:64])
                continue
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            converted[name] = convert(value, definition)
        return converted

    def _explain_settings(self) -> str:
        errors = Draft7Validator(self.config_jsonschema).iter_errors(dict(self.config))
        return " ".join(sorted(explain(error) for error in errors))

    def _check_settings(self) -> None:
        """Check what a JSON schema cannot.

        Raises:
            SettingsError: If a setting is unusable, or does not fit a stream that is selected.
        """
        problems = problems_of(self.config) or [
            problem
            for stream in self.streams.values()
            if isinstance(stream, ExportStream) and stream.selected_streams
            for problem in stream.filter_problems(FILTERS)
        ]
        if problems:
            raise SettingsError(" ".join(problems))

    def _quieten_metrics(self) -> None:
        """Drop the metric that the SDK logs for every single request."""
        muted = metrics.MetricExclusionFilter(metrics=[metrics.Metric.HTTP_REQUEST_DURATION])
        known = [type(known) for known in self.metrics_logger.filters]
        if metrics.MetricExclusionFilter not in known:
            self.metrics_logger.addFilter(muted)

    # Command line

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        """Return the command, with failures in plain words."""
        command = super().get_singer_command()
        return FiniCommand(
            name=command.name,
            callback=command.callback,
            context_settings=command.context_settings,
            help=command.help,
            params=command.params,
            logger=cls.logger,
        )

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        try:
            return super().cb_config(ctx, param, value)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            message = (
                f"A config file cannot be read ({reason or 'missing, or not a JSON object'}): "
                "check the paths given to --config."
            )
            raise SettingsError(message) from None

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        """Try to read one record of each stream that is selected by default.

        The SDK would try all, and not every workspace has what the others read.
        """
        if value != CliTestOptionValue.All.value:
            super().cb_test(ctx, param, value)
            return
        given = ctx.params["config"]
        tap = cls(config=given.config, parse_env_config=given.parse_env)
        tap.run_sync_dry_run(streams=[s for s in tap.streams.values() if s.selected])
        ctx.exit()

    @classmethod
    @override
    def invoke(
        cls, *, state: IO[str] | None = None, catalog: IO[str] | None = None, **options: Any
    ) -> None:
        super().invoke(
            state=checked_file(state, "state"),
            catalog=checked_file(catalog, "catalog"),
            **options,
        )


class FiniCommand(SingerCommand):
    """The command line, on which every foreseen failure ends in one sentence."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and end the process.

        Raises:
            SystemExit: Always, in a process of its own: status 0 after a whole run, 1
                after a failure, 128 and the signal's number after a signal.
        """
        try:
            return super().main(*args, **kwargs)
        except (FiniError, MappingError) as error:
            self._end(str(error), 1)
        except TerminatedError as stop:
            _let_go_of_stdout()  # a second signal may have cut a write that would block again
            name = signal.Signals(stop.args[0]).name
            self._end(
                f"Stopped by {name}. The next run goes on from the last STATE.", 128 + stop.args[0]
            )
        except Exception as error:  # noqa: BLE001 - its text may hold what must stay private
            where = "".join(traceback.format_tb(error.__traceback__))
            self._end(f"Failed unexpectedly: {type(error).__name__}. Please report it.\n{where}", 1)

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.BadParameter as error:  # a state or catalog file that is not there
            message = f"{error.format_message()}."
            raise SettingsError(message) from None

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            # All is written: a signal while Python ends shall not make a failure of that.
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)
        except BrokenPipeError:
            _let_go_of_stdout()
            self._end(
                "The target has gone away: see its messages for why. The next run goes on from "
                "the last STATE that it took in.",
                1,
            )
        return result

    def _end(self, sentence: str, status: int) -> NoReturn:
        self.logger.error("%s", sentence)
        sys.exit(status)


def _let_go_of_stdout() -> None:
    """Make Python's own flush of stdout at the end go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
