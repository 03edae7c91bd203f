"""What goes out: every message, in order, with every way the SDK offers to bend it."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from singer_sdk.exceptions import StreamMapConfigError

from tap_fini.client import FiniError
from tap_fini.settings import SettingsError
from tests.expected import bot_request_rows, conversation_row, time_text
from tests.sandbox import Sandbox, Switches, make_conversations
from tests.support import DAY, MARKER, Output, config_for, discover, run_command, run_tap, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Row: TypeAlias = "dict[str, Any]"
Told: TypeAlias = "tuple[Any, ...]"

BOTH = ("conversations", "bot_requests")
PAGE = 5
START = 1_735_689_600_000  # 2025-01-01
WINDOWS = [(START + days * DAY, START + min(days + 30, 201) * DAY) for days in range(0, 201, 30)]
"""The windows of config_for(), each as first and past-the-end millisecond."""

CONVERSATIONS = make_conversations(40, seed=1, marker=MARKER)

CONVERSATION_COLUMNS = [
    "id",
    "externalId",
    "userId",
    "source",
    "channel",
    "escalation",
    "hasLinks",
    "feedbackType",
    "expectingUserFollowup",
    "url",
    "categories",
    "createdAt",
    "updatedAt",
    "botRequestCount",
    "extra",
]
BOT_REQUEST_COLUMNS = [
    "conversationId",
    "position",
    "id",
    "question",
    "answer",
    "categories",
    "escalation",
    "reasoning",
    "feedbackType",
    "expectingUserFollowup",
    "createdAt",
    "basedOn",
    "conversationUpdatedAt",
    "extra",
]
REPLICATION_KEYS = {"conversations": "updatedAt", "bot_requests": "conversationUpdatedAt"}


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONVERSATIONS) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    shared_sandbox.reset()
    return shared_sandbox


def run(sandbox: Sandbox, catalog: Row | None = None, **settings: object) -> Output:
    """Run on pages of :data:`PAGE`; the SDK changes stream maps in place, so they are copied."""
    return run_tap(config_for(sandbox, page_size=PAGE, **copy.deepcopy(settings)), catalog=catalog)


def told(output: Output) -> list[Told]:
    """Return the messages without what a test cannot foretell: the time of extraction."""
    content: dict[str, Callable[[Row], Told]] = {
        "SCHEMA": lambda m: (m["stream"],),
        "RECORD": lambda m: (m["stream"], m["record"]),
        "STATE": lambda m: (m["value"],),
    }
    return [(message["type"], *content[message["type"]](message)) for message in output.messages]


def pages_of(conversations: list[Row], window: tuple[int, int]) -> list[list[Row]]:
    """Return the pages of a window as the sandbox serves them: the last changed one first."""
    start, end = window
    inside = sorted(
        (c for c in conversations if start <= c["updatedAt"] < end),
        key=lambda c: (c["updatedAt"], c["id"]),
        reverse=True,
    )
    return [inside[first : first + PAGE] for first in range(0, len(inside), PAGE)]


def state_of(streams: tuple[str, ...], reached: int) -> Row:
    """Return the state when ``streams`` are written up to an instant."""
    return {
        "bookmarks": {
            name: {
                "replication_key": REPLICATION_KEYS[name],
                "replication_key_value": time_text(reached),
            }
            for name in streams
        }
    }


def story(
    streams: tuple[str, ...] = BOTH,
    *,
    kept: Callable[[Row], bool] = lambda _: True,
    parent: Callable[[Row], Row | None] = lambda row: row,
    child: Callable[[Row], Row | None] = lambda row: row,
    names: dict[str, str] | None = None,
    written: tuple[str, ...] | None = None,
) -> list[Told]:
    """Return all that a run has to tell about :data:`CONVERSATIONS`.

    Args:
        streams: the selected streams.
        kept: which conversations the parent's filter lets through.
        parent: what becomes of a row of conversations, None if it is left out.
        child: the same for a row of bot_requests.
        names: new names of streams.
        written: the streams that go out, if not all selected ones do.
    """
    written = streams if written is None else written
    called = {name: (names or {}).get(name, name) for name in BOTH}
    messages: list[Told] = [("SCHEMA", called[name]) for name in written]
    reached = 0
    for window in WINDOWS:
        for page in pages_of(CONVERSATIONS, window):
            through = [conversation for conversation in page if kept(conversation)]
            children = [row for c in through for row in map(child, bot_request_rows(c)) if row]
            parents = [row for row in map(parent, map(conversation_row, through)) if row]
            for name, rows in (("bot_requests", children), ("conversations", parents)):
                if name in written:
                    messages += [("RECORD", called[name], row) for row in rows]
            reached = max(reached, *(c["updatedAt"] for c in page))
        messages.append(("STATE", state_of(streams, reached)))
    return messages


def deselect(catalog: Row, stream: str, *fields: str) -> Row:
    """Deselect fields of a stream in a catalog."""
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            path = metadata["breadcrumb"]
            if entry["tap_stream_id"] == stream and path and path[-1] in fields:
                metadata["metadata"]["selected"] = False
    return catalog


def columns(output: Output) -> dict[str, list[str]]:
    """Return the columns of each SCHEMA."""
    return {m["stream"]: list(m["schema"]["properties"]) for m in output.of_type("SCHEMA")}


def without(row: Row, *fields: str) -> Row:
    return {name: value for name, value in row.items() if name not in fields}


class TestOrder:
    """One SCHEMA a stream, a page's children before its parents, one STATE a window."""

    def test_everything(self, sandbox: Sandbox) -> None:
        output = run(sandbox)
        assert told(output) == story()
        assert len(output.states) == len(WINDOWS) == 7
        assert columns(output) == {
            "conversations": CONVERSATION_COLUMNS,
            "bot_requests": BOT_REQUEST_COLUMNS,
        }
        assert [
            (m["key_properties"], m["bookmark_properties"], m["schema"]["required"])
            for m in output.of_type("SCHEMA")
        ] == [
            (["id"], ["updatedAt"], ["id", "updatedAt"]),
            (
                ["conversationId", "position"],
                ["conversationUpdatedAt"],
                ["conversationId", "position", "conversationUpdatedAt"],
            ),
        ]

    def test_no_records(self, sandbox: Sandbox) -> None:
        output = run(sandbox, start_date="2024-01-01", end_date="2024-03-01")
        assert told(output) == [
            ("SCHEMA", "conversations"),
            ("SCHEMA", "bot_requests"),
            ("STATE", {"bookmarks": {"conversations": {}, "bot_requests": {}}}),
        ]

    def test_windows_without_records_between_others(self) -> None:
        """An unchanged state is not told again."""
        few = [CONVERSATIONS[0], CONVERSATIONS[-1]]
        with Sandbox(few) as sandbox:
            output = run(sandbox)
        assert [m["type"] for m in output.messages if m["type"] != "RECORD"] == [
            "SCHEMA",
            "SCHEMA",
            "STATE",
            "STATE",
        ]
        assert output.states == [state_of(BOTH, c["updatedAt"]) for c in few]

    def test_the_bookmark_stays_within_the_window(self) -> None:
        """By creation, an old window holds conversations changed long after it."""
        late = copy.deepcopy(CONVERSATIONS)
        for conversation in late[:3]:
            conversation["updatedAt"] = START + 150 * DAY
        with Sandbox(late, Switches(filter_field="createdAt")) as sandbox:
            output = run(sandbox)
        expected, reached = [], 0
        for start, end in WINDOWS:
            inside = [c["updatedAt"] for c in late if start <= c["createdAt"] < end]
            reached = max([reached, *inside])
            expected.append(state_of(BOTH, min(reached, end)))
        assert output.states == expected
        assert expected[0] == state_of(BOTH, WINDOWS[0][1])


class TestCatalog:
    """Streams and fields that are not selected."""

    @pytest.mark.parametrize("stream", BOTH)
    def test_one_stream(self, sandbox: Sandbox, stream: str) -> None:
        selected = {name: name == stream for name in BOTH}
        output = run(sandbox, select(discover(), **selected))
        assert told(output) == story((stream,))

    def test_no_stream(self, sandbox: Sandbox) -> None:
        output = run(sandbox, select(discover(), conversations=False, bot_requests=False))
        assert output.messages == []
        assert sandbox.requests == []

    def test_fields(self, sandbox: Sandbox) -> None:
        private = ("question", "answer", "reasoning", "basedOn", "extra")
        catalog = deselect(discover(), "bot_requests", *private)
        dull = ("url", "botRequestCount", "categories")
        deselect(catalog, "conversations", *dull)
        output = run(sandbox, catalog)
        assert told(output) == story(
            parent=lambda row: without(row, *dull), child=lambda row: without(row, *private)
        )
        assert columns(output) == {
            "conversations": [name for name in CONVERSATION_COLUMNS if name not in dull],
            "bot_requests": [name for name in BOT_REQUEST_COLUMNS if name not in private],
        }
        assert MARKER not in json.dumps(output.messages)

    def test_keys_cannot_be_deselected(self, sandbox: Sandbox) -> None:
        catalog = deselect(discover(), "conversations", "id", "updatedAt")
        deselect(catalog, "bot_requests", "conversationId", "position", "conversationUpdatedAt")
        output = run(sandbox, catalog)
        assert told(output) == story()
        assert columns(output)["conversations"] == CONVERSATION_COLUMNS
        assert columns(output)["bot_requests"] == BOT_REQUEST_COLUMNS

    @pytest.mark.parametrize("full_table", [("conversations",), ("bot_requests",), BOTH])
    @pytest.mark.parametrize("where", ["entry", "metadata"])
    def test_full_table(self, sandbox: Sandbox, full_table: tuple[str, ...], where: str) -> None:
        """All is read again, and the bookmark of such a stream does not move."""
        catalog = discover()
        for entry in catalog["streams"]:
            if entry["tap_stream_id"] in full_table and where == "entry":
                entry["replication_method"] = "FULL_TABLE"
            elif entry["tap_stream_id"] in full_table:
                del entry["replication_method"]
                select({"streams": [entry]})
                for metadata in entry["metadata"]:
                    if not metadata["breadcrumb"]:
                        metadata["metadata"]["forced-replication-method"] = "FULL_TABLE"
        earlier = state_of(BOTH, START + 170 * DAY)
        output = run_tap(
            config_for(sandbox, page_size=PAGE, lookback_days=0),
            catalog=catalog,
            state=copy.deepcopy(earlier),
        )
        last = max(c["updatedAt"] for c in CONVERSATIONS)
        expected = copy.deepcopy(earlier)
        for name in BOTH:
            if name not in full_table:
                expected["bookmarks"][name] = state_of((name,), last)["bookmarks"][name]
        assert output.states[0] == earlier
        assert output.state == expected
        records = [message for message in story() if message[0] == "RECORD"]
        assert [message for message in told(output) if message[0] == "RECORD"] == records

    def test_activate_version(self, sandbox: Sandbox) -> None:
        catalog = discover()
        for entry in catalog["streams"]:
            entry["replication_method"] = "FULL_TABLE"
        output = run(sandbox, catalog, emit_activate_version_messages=True)
        (version,) = {message["version"] for message in output.of_type("RECORD")}
        assert [
            (m["type"], m["stream"], m.get("version"))
            for m in output.messages
            if m["type"] not in {"RECORD", "STATE"}
        ] == [
            ("SCHEMA", "conversations", None),
            ("ACTIVATE_VERSION", "conversations", version),
            ("SCHEMA", "bot_requests", None),
            ("ACTIVATE_VERSION", "bot_requests", version),
        ]

    def test_no_version_without_full_table(self, sandbox: Sandbox) -> None:
        assert told(run(sandbox, emit_activate_version_messages=True)) == story()


class TestStreamMaps:
    """The SDK's inline transformations, on either stream."""

    def test_a_filtered_conversation_takes_its_bot_requests_along(self, sandbox: Sandbox) -> None:
        """Also where the filter drops the first rows of a page, or all of them."""
        chosen = {"widget", "slack"}
        patterns = {
            tuple(c["source"] in chosen for c in page)
            for window in WINDOWS
            for page in pages_of(CONVERSATIONS, window)
        }
        assert any(not any(kept) for kept in patterns), "no page is dropped as a whole"
        assert any(not any(kept[:2]) and any(kept) for kept in patterns), "no two first rows are"
        assert any(kept[0] and not all(kept) for kept in patterns), "no first row is kept"

        rule = "source in ['widget', 'slack']"
        output = run(sandbox, stream_maps={"conversations": {"__filter__": rule}})
        assert told(output) == story(kept=lambda c: c["source"] in chosen)

    def test_a_filter_that_keeps_the_last_row_of_each_page(self, sandbox: Sandbox) -> None:
        last = {page[-1]["id"] for window in WINDOWS for page in pages_of(CONVERSATIONS, window)}
        maps = {"conversations": {"__filter__": f"id in {sorted(last)}"}}
        assert told(run(sandbox, stream_maps=maps)) == story(kept=lambda c: c["id"] in last)

    def test_a_map_of_a_deselected_stream_is_an_error(self, sandbox: Sandbox) -> None:
        """The SDK's way; better than one that does nothing."""
        maps = {"conversations": {"__filter__": "source == 'widget'"}}
        output = run_tap(
            config_for(sandbox, stream_maps=maps),
            catalog=select(discover(), conversations=False),
            fails=StreamMapConfigError,
        )
        assert output.messages == []

    def test_a_filter_that_drops_everything(self, sandbox: Sandbox) -> None:
        output = run(sandbox, stream_maps={"conversations": {"__filter__": "False"}})
        assert told(output) == story(kept=lambda _: False)

    def test_a_filter_on_bot_requests(self, sandbox: Sandbox) -> None:
        output = run(sandbox, stream_maps={"bot_requests": {"__filter__": "position == 0"}})
        assert told(output) == story(child=lambda row: None if row["position"] else row)

    def test_new_names_hashes_constants_and_dropped_fields(self, sandbox: Sandbox) -> None:
        maps = {
            "conversations": {
                "__alias__": "chats",
                "url": None,
                "tenant": "'acme'",
                "userId": "md5(userId) if userId else None",
            },
            "bot_requests": {
                "__alias__": "answers",
                "question": "md5(question)",
                "answer": "sha256(config['salt'] + answer)",
                "reasoning": "__NULL__",
                "basedOn": None,
            },
        }

        def parent(row: Row) -> Row:
            user = row["userId"]
            hashed = user and hashlib.md5(user.encode(), usedforsecurity=False).hexdigest()
            return {**without(row, "url"), "tenant": "acme", "userId": hashed}

        def child(row: Row) -> Row:
            question, answer = row["question"].encode(), f"pepper{row['answer']}".encode()
            return {
                **without(row, "reasoning", "basedOn"),
                "question": hashlib.md5(question, usedforsecurity=False).hexdigest(),
                "answer": hashlib.sha256(answer).hexdigest(),
            }

        output = run(sandbox, stream_maps=maps, stream_map_config={"salt": "pepper"})
        names = {"conversations": "chats", "bot_requests": "answers"}
        assert told(output) == story(parent=parent, child=child, names=names)
        assert columns(output) == {
            "chats": [*(name for name in CONVERSATION_COLUMNS if name != "url"), "tenant"],
            "answers": [n for n in BOT_REQUEST_COLUMNS if n not in {"reasoning", "basedOn"}],
        }
        assert MARKER not in json.dumps(output.messages)

    def test_only_the_mapped_fields(self, sandbox: Sandbox) -> None:
        maps = {
            "conversations": {"id": "id", "when": "updatedAt", "__else__": None},
            "bot_requests": {
                "conversationId": "conversationId",
                "position": "position",
                "__else__": "__NULL__",
            },
        }
        output = run(sandbox, stream_maps=maps)
        assert told(output) == story(
            parent=lambda row: {"id": row["id"], "when": row["updatedAt"]},
            child=lambda row: {name: row[name] for name in ("conversationId", "position")},
        )
        assert columns(output) == {
            "conversations": ["id", "when"],
            "bot_requests": ["conversationId", "position"],
        }

    def test_dropping_a_key_is_an_error(self, sandbox: Sandbox) -> None:
        config = config_for(sandbox, stream_maps={"conversations": {"id": None}})
        output = run_tap(config, fails=StreamMapConfigError)
        assert output.messages == []

    @pytest.mark.parametrize("left", BOTH)
    @pytest.mark.parametrize("by", ["null", "else"])
    def test_a_stream_mapped_to_null(self, sandbox: Sandbox, left: str, by: str) -> None:
        """It is left out; the other one is whole."""
        (gone,) = (name for name in BOTH if name != left)
        maps = {"null": {gone: None}, "else": {left: {}, "__else__": None}}[by]
        assert told(run(sandbox, stream_maps=maps)) == story(written=(left,))

    def test_a_copy(self, sandbox: Sandbox) -> None:
        maps = {"chats": {"__source__": "conversations", "__filter__": "source == 'widget'"}}
        output = run(sandbox, stream_maps=maps)
        assert [m for m in told(output) if m[1] != "chats"] == story()
        assert output.records("chats") == [
            row for row in output.records("conversations") if row["source"] == "widget"
        ]
        assert columns(output)["chats"] == CONVERSATION_COLUMNS

    def test_a_copy_of_a_stream_mapped_to_null(self, sandbox: Sandbox) -> None:
        maps = {"conversations": None, "chats": {"__source__": "conversations"}}
        output = run(sandbox, stream_maps=maps)
        assert told(output) == story(names={"conversations": "chats"})


class TestFlattening:
    """Nested values become texts; nothing is lost on the way."""

    def test_the_depth_has_to_be_said(self, sandbox: Sandbox) -> None:
        output = run_tap(config_for(sandbox, flattening_enabled=True), fails=SettingsError)
        assert str(output.error) == (
            "Flattening is misconfigured: flattening_max_depth is required when flattening is "
            "enabled."
        )

    @pytest.mark.parametrize("depth", [1, 9])
    def test_nested_values_are_json(self, depth: int) -> None:
        conversations = copy.deepcopy(CONVERSATIONS)
        conversations[0]["novel"] = {"deep": {"deeper": [1]}}
        conversations[0]["botRequests"][0]["language"] = "de"
        with Sandbox(conversations) as sandbox:
            plain = run(sandbox)
            flat = run(sandbox, flattening_enabled=True, flattening_max_depth=depth)
        nested = {"categories", "basedOn", "extra"}
        for name in BOTH:
            rows = [
                {k: json.loads(v) if k in nested and v else v for k, v in row.items()}
                for row in flat.records(name)
            ]
            assert rows == plain.records(name)
            assert all(isinstance(row["categories"], str) for row in flat.records(name))
        assert columns(flat) == columns(plain)
        types = flat.of_type("SCHEMA")[0]["schema"]["properties"]
        assert types["extra"] == types["categories"] == {"type": ["string", "null"]}
        (row,) = (row for row in flat.records("conversations") if "extra" in row)
        assert row["extra"] == '{"novel":{"deep":{"deeper":[1]}}}'
        (row,) = (row for row in flat.records("bot_requests") if "extra" in row)
        assert row["extra"] == '{"language":"de"}'
        assert [state["bookmarks"] for state in flat.states] == [
            state["bookmarks"] for state in plain.states
        ]


def batches(folder: Path, size: int) -> Row:
    return {
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "storage": {"root": folder.as_uri(), "prefix": "fini-"},
        "batch_size": size,
    }


def rows_in(message: Row) -> list[Row]:
    """Read the files of a BATCH message."""
    rows: list[Row] = []
    for url in message["manifest"]:
        with gzip.open(url2pathname(urlsplit(url).path), "rt", encoding="utf-8") as file:
            rows += map(json.loads, file)
    return rows


def batched(output: Output, stream: str) -> list[Row]:
    """Return all rows of a stream that BATCH messages announced."""
    found = [m for m in output.of_type("BATCH") if m["stream"] == stream]
    return [row for message in found for row in rows_in(message)]


class TestBatches:
    """Rows in files, and a state that never covers a row whose file is not announced."""

    @pytest.mark.parametrize("size", [1, 2, 7, 40, 10_000])
    @pytest.mark.parametrize("streams", [BOTH, ("conversations",), ("bot_requests",)])
    def test_a_state_covers_only_what_was_announced(
        self, sandbox: Sandbox, tmp_path: Path, streams: tuple[str, ...], size: int
    ) -> None:
        catalog = select(discover(), **{name: name in streams for name in BOTH})
        output = run(sandbox, catalog, batch_config=batches(tmp_path, size))
        expected = {name: [m[2] for m in story() if m[:2] == ("RECORD", name)] for name in streams}
        announced: dict[str, list[Row]] = {name: [] for name in streams}
        described = set()
        for message in output.messages:
            if message["type"] == "SCHEMA":
                assert message["stream"] not in described
                described.add(message["stream"])
            elif message["type"] == "BATCH":
                assert message["stream"] in described
                assert message["encoding"] == {"format": "jsonl", "compression": "gzip"}
                rows = rows_in(message)
                assert 0 < len(rows) <= size
                announced[message["stream"]] += rows
            else:
                assert message["type"] == "STATE"
                for name in streams:
                    bookmark = message["value"]["bookmarks"][name].get("replication_key_value", "")
                    key = REPLICATION_KEYS[name]
                    covered = [row for row in expected[name] if row[key] <= bookmark]
                    assert announced[name][: len(covered)] == covered
        assert described == set(streams)
        assert announced == expected
        assert len(output.states) <= len(WINDOWS) + 2
        assert output.state == state_of(streams, max(c["updatedAt"] for c in CONVERSATIONS))
        assert {path.name[:5] for path in tmp_path.iterdir()} == {"fini-"}

    def test_states_follow_the_batches(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Not only at the end: what is announced can be resumed from."""
        output = run(sandbox, batch_config=batches(tmp_path, 2))
        nothing: Row = {"bookmarks": {"conversations": {}, "bot_requests": {}}}
        assert output.states == [nothing, *(m[1] for m in story() if m[0] == "STATE")]

    @pytest.mark.parametrize(
        "settings",
        [
            {"stream_maps": {"conversations": {"__filter__": "source == 'widget'"}}},
            {"stream_maps": {"bot_requests": {"__alias__": "answers", "answer": "md5(answer)"}}},
            {"stream_maps": {"conversations": None, "bot_requests": {"question": None}}},
            {"stream_maps": {"bot_requests": None}},
            {"flattening_enabled": True, "flattening_max_depth": 2},
        ],
    )
    def test_files_hold_what_records_would(
        self, sandbox: Sandbox, tmp_path: Path, settings: dict[str, Any]
    ) -> None:
        """The SDK's own batches know neither stream maps nor flattening."""
        plain = run(sandbox, **settings)
        output = run(sandbox, **settings, batch_config=batches(tmp_path, 4))
        assert columns(output) == columns(plain)
        for name in columns(plain):
            assert batched(output, name) == plain.records(name) != []
        assert output.state == plain.state
        assert {m["stream"] for m in output.of_type("BATCH")} == set(columns(plain))

    def test_files_leave_out_deselected_fields(self, sandbox: Sandbox, tmp_path: Path) -> None:
        private = ("question", "answer", "reasoning", "basedOn")
        catalog = deselect(discover(), "bot_requests", *private)
        output = run(sandbox, catalog, batch_config=batches(tmp_path, 20))
        rows = batched(output, "bot_requests")
        expected = [m[2] for m in story() if m[:2] == ("RECORD", "bot_requests")]
        assert rows == [without(row, *private) for row in expected]
        assert MARKER not in json.dumps(rows)

    @pytest.mark.parametrize("stream", BOTH)
    def test_copies_are_refused(self, sandbox: Sandbox, tmp_path: Path, stream: str) -> None:
        """One BATCH message would be announced under both names."""
        config = config_for(
            sandbox,
            stream_maps={"twin": {"__source__": stream}},
            batch_config=batches(tmp_path, 20),
        )
        output = run_tap(config, fails=FiniError)
        assert str(output.error) == (
            f"'batch_config' cannot be used with stream maps that copy '{stream}': leave out one "
            "of the two."
        )
        assert not output.of_type("BATCH")

    def test_full_table(self, sandbox: Sandbox, tmp_path: Path) -> None:
        catalog = discover()
        for entry in catalog["streams"]:
            entry["replication_method"] = "FULL_TABLE"
        output = run(sandbox, catalog, batch_config=batches(tmp_path, 7))
        assert output.states == [{"bookmarks": {"conversations": {}, "bot_requests": {}}}]
        for name in BOTH:
            expected = [m[2] for m in story() if m[:2] == ("RECORD", name)]
            assert batched(output, name) == expected


class TestCommandLine:
    """The options that do something other than a whole run."""

    def test_test(self, tmp_path: Path) -> None:
        """A record of each stream that is selected, and not the whole history for it."""
        config = tmp_path / "config.json"
        with Sandbox(make_conversations(1000), Switches(latency=0.05)) as sandbox:
            config.write_text(json.dumps(config_for(sandbox, page_size=1)), encoding="utf-8")
            done = run_command("--config", str(config), "--test")
            asked = len(sandbox.requests)
            paths = {request.path for request in sandbox.requests}
        assert done.returncode == 0, done.stderr
        assert paths == {"/v2/bots/requests/public"}
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(m["type"], m.get("stream")) for m in messages] == [
            ("SCHEMA", "conversations"),
            ("SCHEMA", "bot_requests"),
            ("RECORD", "bot_requests"),
            ("RECORD", "conversations"),
        ]
        assert asked < 200

    def test_test_in_this_process(self, sandbox: Sandbox) -> None:
        output = run_tap(config_for(sandbox, page_size=PAGE), dry_run=True)
        first_page = pages_of(CONVERSATIONS, WINDOWS[0])[0]
        assert told(output) == [
            ("SCHEMA", "conversations"),
            ("SCHEMA", "bot_requests"),
            ("RECORD", "bot_requests", bot_request_rows(first_page[0])[0]),
            ("RECORD", "conversations", conversation_row(first_page[0])),
        ]

    def test_test_of_the_bot_requests_alone(self, sandbox: Sandbox) -> None:
        config = config_for(sandbox, page_size=PAGE, stream_maps={"conversations": None})
        output = run_tap(config, dry_run=True)
        assert [message[:2] for message in told(output)] == [
            ("SCHEMA", "bot_requests"),
            ("RECORD", "bot_requests"),
        ]

    def test_test_with_a_wrong_key(self, sandbox: Sandbox, tmp_path: Path) -> None:
        config = tmp_path / "config.json"
        settings = config_for(sandbox, api_key="fini_wrong")
        config.write_text(json.dumps(settings), encoding="utf-8")
        done = run_command("--config", str(config), "--test")
        assert done.returncode == 1
        assert "(401)" in done.stderr
        assert "fini_wrong" not in done.stderr

    def test_test_schema(self, sandbox: Sandbox, tmp_path: Path) -> None:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(config_for(sandbox)), encoding="utf-8")
        done = run_command("--config", str(config), "--test=schema")
        assert done.returncode == 0, done.stderr
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        assert {m["stream"]: list(m["schema"]["properties"]) for m in messages} == {
            "conversations": CONVERSATION_COLUMNS,
            "bot_requests": BOT_REQUEST_COLUMNS,
            **{
                stream["tap_stream_id"]: list(stream["schema"]["properties"])
                for stream in discover()["streams"]
                if stream["tap_stream_id"] in {"agents", "interactions", "interaction_events"}
            },
        }
        assert [m["type"] for m in messages] == ["SCHEMA"] * 5
        assert sandbox.requests == []

    def test_discover_needs_no_settings(self) -> None:
        done = run_command("--discover", env={})
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == discover()

    def test_about_as_text(self) -> None:
        done = run_command("--about", env={})
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Name: tap-fini\nDescription: ")
        assert "  - Name: api_key\n" in done.stdout
        assert "    Environment Variable: TAP_FINI_API_KEY\n" in done.stdout

    def test_about_as_json(self) -> None:
        done = run_command("--about", "--format=json", env={})
        assert done.returncode == 0, done.stderr
        about = json.loads(done.stdout)
        assert about["name"] == "tap-fini"
        assert about["settings"]["properties"]["api_key"]["secret"] is True
        assert about["settings"]["required"] == ["api_key"]

    def test_about_as_markdown(self) -> None:
        done = run_command("--about", "--format=markdown", env={})
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("# `tap-fini`\n\n")
        assert "\n| page_size | False | 50 | " in done.stdout


class TestEarlierState:
    """A run that goes on where another one ended."""

    @pytest.mark.parametrize("streams", [BOTH, ("conversations",), ("bot_requests",)])
    def test_the_first_state_is_the_last_one(
        self, sandbox: Sandbox, streams: tuple[str, ...]
    ) -> None:
        catalog = select(discover(), **{name: name in streams for name in BOTH})
        first = run(sandbox, copy.deepcopy(catalog))
        sandbox.reset()
        second = run_tap(
            config_for(sandbox, page_size=PAGE, lookback_days=0),
            state=copy.deepcopy(first.state),
            catalog=catalog,
        )
        last = max(c["updatedAt"] for c in CONVERSATIONS)
        newest = pages_of(CONVERSATIONS, (last, last + 1))[0]
        assert told(second) == [
            ("STATE", first.state),
            *(("SCHEMA", name) for name in streams),
            *(
                ("RECORD", "bot_requests", row)
                for c in newest
                for row in bot_request_rows(c)
                if "bot_requests" in streams
            ),
            *(
                ("RECORD", "conversations", conversation_row(c))
                for c in newest
                if "conversations" in streams
            ),
        ]
        assert [request.params["startEpoch"] for request in sandbox.requests] == [str(last - 1)]

    @pytest.mark.parametrize("stream", BOTH)
    def test_a_deselected_stream_keeps_its_bookmark(self, sandbox: Sandbox, stream: str) -> None:
        """And a run of both starts from the earlier one."""
        middle = max(c["updatedAt"] for c in CONVERSATIONS if c["updatedAt"] < WINDOWS[2][1])
        catalog = select(discover(), **{name: name == stream for name in BOTH})
        output = run_tap(
            config_for(sandbox, page_size=PAGE),
            state=state_of(BOTH, middle),
            catalog=catalog,
        )
        expected = state_of(BOTH, middle)
        last = max(c["updatedAt"] for c in CONVERSATIONS)
        expected["bookmarks"][stream]["replication_key_value"] = time_text(last)
        assert output.state == expected
        (other,) = (name for name in BOTH if name != stream)
        kept = expected["bookmarks"][other]
        assert {json.dumps(state["bookmarks"][other]) for state in output.states} == {
            json.dumps(kept)
        }

        sandbox.reset()
        both = run_tap(config_for(sandbox, page_size=PAGE, lookback_days=0), state=output.state)
        starts = [int(request.params["startEpoch"]) for request in sandbox.requests]
        assert min(starts) == middle - 1
        assert both.state == state_of(BOTH, last)

    @pytest.mark.parametrize("stream", BOTH)
    def test_a_stream_selected_later_starts_from_the_start(
        self, sandbox: Sandbox, stream: str
    ) -> None:
        (late,) = (name for name in BOTH if name != stream)
        first = run(sandbox, select(discover(), **{late: False}))
        sandbox.reset()
        second = run_tap(config_for(sandbox, page_size=PAGE), state=copy.deepcopy(first.state))
        assert min(int(r.params["startEpoch"]) for r in sandbox.requests) == START - 1
        assert [m for m in told(second) if m[0] == "RECORD"] == [
            m for m in story() if m[0] == "RECORD"
        ]
        assert second.states[0] == first.state
        for state in second.states:
            assert state["bookmarks"][stream] == first.state["bookmarks"][stream]
        assert second.state == state_of(BOTH, max(c["updatedAt"] for c in CONVERSATIONS))
