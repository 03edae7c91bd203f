"""Settings, states and catalogs, right and wrong, as the command line is given them."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tap_fini.tap import TapFini
from tests.sandbox import API_KEY, Sandbox, make_conversations
from tests.support import MARKER, config_for, discover, run_command, run_tap, without_end_of_life

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVERSATIONS = make_conversations(20, marker=MARKER)

# --- the command, without its second of start-up --------------------------------------------------

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.test_settings"])


def _be_the_command(args: list[str], env: dict[str, str], folder: str) -> None:
    """Run as the console script does, in a process of its own that had imported it before."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["tap-fini", *args]
    TapFini.cli()


@dataclass
class Ended:
    """How a command ended, and what it wrote."""

    status: int | None
    stdout: str
    stderr: str

    def lines(self, level: str) -> list[str]:
        """Return the texts of the log lines of one level."""
        parts = [line.split(" | ", 3) for line in self.stderr.splitlines()]
        return [p[3] for p in parts if len(p) == 4 and p[1].strip() == level]


class Command:
    """The console script, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def write(self, name: str, content: object) -> str:
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
        return str(path)

    def __call__(self, *args: str, **env: str) -> Ended:
        process = _PROCESSES.Process(
            target=_be_the_command, args=(list(args), {**self.env, **env}, str(self.folder))
        )
        process.start()
        process.join(timeout=15)
        if process.exitcode is None:
            process.kill()
            process.join()
        stdout, stderr = ((self.folder / n).read_text("utf-8") for n in ("stdout", "stderr"))
        assert KEY not in stdout + stderr
        assert API_KEY not in stdout + stderr
        assert MARKER not in stderr
        return Ended(process.exitcode, stdout, without_end_of_life(stderr))

    def fails(self, sentence: str, *args: str, **env: str) -> Ended:
        """Run, and check that one plain sentence, status 1 and nothing else come out."""
        ended = self(*args, **env)
        assert (ended.lines("ERROR"), ended.status) == ([sentence], 1), ended.stderr
        assert "Traceback" not in ended.stderr
        others = [line for line in ended.stderr.splitlines() if line.count(" | ") < 3]
        assert others == []
        return ended


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONVERSATIONS) as running:
        yield running


KEY = "fini_live_do_not_print_me_4f2a"
BASIC = {"api_key": KEY, "api_url": "http://127.0.0.1:9"}

# --- mistakes in a config file --------------------------------------------------------------------

A_KEY = "The setting 'api_key' holds a character that no key has: copy it again from Fini."
AN_ADDRESS = "The setting 'api_url' is not an address."
HTTPS = "The setting 'api_url' has to start with https://, for the API key goes there."
PLAIN = "The setting 'api_url' has to be a plain address such as https://host."
SOURCES = "all, zendesk, slack, discord, widget, intercom, ui, api"
FEEDBACK = "thumbs_up, thumbs_down, no_feedback"
ASCII = "The setting 'user_agent' holds a character that no header takes: use ASCII alone."
NO_KEY = "The setting 'api_key' is missing: set it, or TAP_FINI_API_KEY."


def has_to_be(name: str, what: str) -> str:
    return f"The setting '{name}' has to be {what}."


def no_date(name: str) -> str:
    return f"The setting '{name}' is not a date, such as 2025-01-31T12:00:00Z."


def no_filter(name: str, streams: str = "'conversations' and 'bot_requests'") -> str:
    return (
        f"The filter '{name}' cannot be applied to {streams}, for Fini has none of that kind "
        "there: leave it out, or deselect what it does not fit."
    )


NO_SOURCE = f"The setting 'source' has to be one of {SOURCES} for 'conversations'."
LATER = "The setting 'end_date' has to be later than 'start_date'."

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"api_key": None}, NO_KEY),
    ({"api_key": ""}, NO_KEY),
    ({"api_key": " \n"}, NO_KEY),
    ({"api_key": 5}, has_to_be("api_key", "a text")),
    ({"api_key": [KEY]}, has_to_be("api_key", "a text")),
    ({"api_key": f"{KEY}\n{KEY}"}, A_KEY),
    ({"api_key": f"{KEY} {KEY}"}, A_KEY),
    ({"api_key": f"{KEY}\x00"}, A_KEY),
    ({"api_key": f"{KEY}\u200b"}, A_KEY),
    ({"api_key": f"{KEY}é"}, A_KEY),
    ({"api_url": "api-prod.usefini.com"}, PLAIN),
    ({"api_url": "https://"}, AN_ADDRESS),
    ({"api_url": "https://host/?a=b"}, PLAIN),
    ({"api_url": "https://host/#a"}, PLAIN),
    ({"api_url": f"https://me:{KEY}@host"}, PLAIN),
    ({"api_url": f"https://:{KEY}@host"}, PLAIN),
    ({"api_url": f"https://{KEY}@host"}, PLAIN),
    ({"api_url": "https://api-prod.usefini.com\\@evil.example"}, PLAIN),
    ({"api_url": "http://api-prod.usefini.com"}, HTTPS),
    ({"api_url": "http://192.168.0.1"}, HTTPS),
    ({"api_url": "http://0.0.0.0"}, HTTPS),
    ({"api_url": "http://localhost.evil.example"}, HTTPS),
    ({"api_url": "http://127.0.0.1.evil.example"}, HTTPS),
    ({"api_url": "ftp://127.0.0.1"}, HTTPS),
    ({"api_url": "file:///etc/passwd"}, PLAIN),
    ({"api_url": "https://host:99999"}, AN_ADDRESS),
    ({"api_url": "https://[::1"}, AN_ADDRESS),
    ({"api_url": "https://exa mple.com"}, AN_ADDRESS),
    ({"api_url": "https://*.example.com"}, AN_ADDRESS),
    ({"api_url": "https://api..example.com"}, AN_ADDRESS),
    ({"api_url": f"https://{'a' * 64}.example.com"}, AN_ADDRESS),
    ({"api_url": 5}, has_to_be("api_url", "a text")),
    ({"start_date": "yesterday"}, no_date("start_date")),
    ({"start_date": "2025-02-30"}, no_date("start_date")),
    ({"start_date": "1740407178879"}, no_date("start_date")),
    ({"start_date": "0001-01-01T00:00:00+01:00"}, no_date("start_date")),
    ({"start_date": 1740407178879}, has_to_be("start_date", "a text")),
    ({"end_date": "31.12.2025"}, no_date("end_date")),
    ({"end_date": "9999-12-31T23:59:59-01:00"}, no_date("end_date")),
    ({"start_date": "2025-01-02", "end_date": "2025-01-01"}, LATER),
    ({"start_date": "2025-01-01", "end_date": "2025-01-01T00:00:00Z"}, LATER),
    ({"start_date": "2025-01-01T01:00:00+02:00", "end_date": "2024-12-31T23:00:00Z"}, LATER),
    ({"end_date": "2021-12-31"}, LATER),  # before the default start
    ({"lookback_days": -0.5}, has_to_be("lookback_days", "0 or more")),
    ({"lookback_days": "a week"}, has_to_be("lookback_days", "a number")),
    ({"lookback_days": "inf"}, has_to_be("lookback_days", "a number")),
    ({"lookback_days": "NaN"}, has_to_be("lookback_days", "a number")),
    ({"lookback_days": True}, has_to_be("lookback_days", "a number")),
    ({"window_days": 0}, has_to_be("window_days", "more than 0")),
    ({"window_days": 90.5}, has_to_be("window_days", "90 or less")),
    ({"window_days": "nan"}, has_to_be("window_days", "a number")),
    ({"page_size": 0}, has_to_be("page_size", "1 or more")),
    ({"page_size": 101}, has_to_be("page_size", "100 or less")),
    ({"page_size": 50.5}, has_to_be("page_size", "a whole number")),
    ({"page_size": "50.5"}, has_to_be("page_size", "a whole number")),
    ({"page_size": True}, has_to_be("page_size", "a whole number")),
    ({"page_size": [50]}, has_to_be("page_size", "a whole number")),
    ({"source": "email"}, NO_SOURCE),
    ({"source": "Slack"}, NO_SOURCE),
    ({"source": "zendesk,slack"}, NO_SOURCE),
    ({"agent_id": "a"}, no_filter("agent_id")),
    ({"channel": "email", "source": "front"}, f"{NO_SOURCE} {no_filter('channel')}"),
    ({"feedback_type": "up"}, has_to_be("feedback_type", f"one of {FEEDBACK}")),
    ({"category": 5}, has_to_be("category", "a text")),
    ({"user_id": 5}, has_to_be("user_id", "a text")),
    ({"ticket_id": 12345}, has_to_be("ticket_id", "a text")),
    ({"question": ["hello"]}, has_to_be("question", "a text")),
    ({"escalation": "maybe"}, has_to_be("escalation", "true or false")),
    ({"escalation": 2}, has_to_be("escalation", "true or false")),
    ({"has_links": "2"}, has_to_be("has_links", "true or false")),
    ({"max_concurrent_requests": 0}, has_to_be("max_concurrent_requests", "1 or more")),
    ({"max_concurrent_requests": 17}, has_to_be("max_concurrent_requests", "16 or less")),
    ({"max_requests_per_minute": -1}, has_to_be("max_requests_per_minute", "0 or more")),
    ({"request_timeout": 0}, has_to_be("request_timeout", "1 or more")),
    ({"request_timeout": 3601}, has_to_be("request_timeout", "3600 or less")),
    ({"request_timeout": 1.5}, has_to_be("request_timeout", "a whole number")),
    ({"user_agent": "a\nAuthorization: b"}, ASCII),
    ({"user_agent": "täp"}, ASCII),
    ({"stream_maps": "conversations"}, has_to_be("stream_maps", "a JSON object")),
    (
        {"flattening_enabled": "maybe"},
        has_to_be("flattening_enabled", "true or false"),
    ),
    (
        {"batch_config": {"encoding": {"format": "csv"}, "storage": {"root": "file:///tmp"}}},
        has_to_be("batch_config.encoding.format", "one of jsonl, parquet"),
    ),
    (
        {"page_size": 0, "feedback_type": "up", "window_days": 91},
        (
            f"{has_to_be('feedback_type', f'one of {FEEDBACK}')} "
            f"{has_to_be('page_size', '1 or more')} {has_to_be('window_days', '90 or less')}"
        ),
    ),
    (
        {"api_key": f"{KEY} x", "api_url": "http://host", "start_date": "?", "user_agent": "ü"},
        f"{A_KEY} {HTTPS} {no_date('start_date')} {ASCII}",
    ),
]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    MISTAKES,
    ids=lambda value: ascii(value).replace(KEY, "KEY")[:60] if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_settings_is_one_sentence(
    command: Command, settings: dict[str, Any], sentence: str
) -> None:
    ended = command.fails(sentence, "--config", command.write("config.json", {**BASIC, **settings}))
    assert ended.stdout == ""


def test_the_installed_script_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BASIC, "page_size": 0}))
    script = Path(sys.executable).with_name("tap-fini")
    both = [
        run_command("--config", "config.json", cwd=tmp_path, env={"PATH": os.environ["PATH"]}),
        subprocess.run(
            [script, "--config", "config.json"],
            check=False,
            capture_output=True,
            cwd=tmp_path,
            encoding="utf-8",
        ),
    ]
    for ended in both:
        as_read = Ended(ended.returncode, ended.stdout, ended.stderr)
        assert as_read.lines("ERROR") == [has_to_be("page_size", "1 or more")]
        assert (as_read.status, as_read.stdout, KEY in as_read.stderr) == (1, "", False)


def test_only_imports_go_without_a_garbage_collector() -> None:
    code = (
        "import gc, sys, tap_fini.__main__\n"
        "sys.argv = ['tap-fini', '--version']\n"
        "try: tap_fini.__main__.main()\n"
        "finally: print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "True True"


def test_discovery_needs_no_settings_and_minds_no_mistakes(command: Command) -> None:
    path = command.write("config.json", {"page_size": 0})
    for args in (["--discover"], ["--discover", "--config", path]):
        ended = command(*args)
        assert ended.status == 0
        assert [s["tap_stream_id"] for s in json.loads(ended.stdout)["streams"]] == [
            "agents",
            "bot_requests",
            "conversations",
            "interaction_events",
            "interactions",
        ]


def test_a_check_of_the_connection_says_what_is_wrong_too(command: Command) -> None:
    path = command.write("config.json", {**BASIC, "page_size": 0})
    command.fails(has_to_be("page_size", "1 or more"), "--config", path, "--test")


# --- config files ---------------------------------------------------------------------------------


def no_config(reason: str = "missing, or not a JSON object") -> str:
    return f"A config file cannot be read ({reason}): check the paths given to --config."


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        f"api_key: {KEY}",
        f'{{"api_key": "{KEY}",}}',
        f'{{"api_key": "{KEY}", "lookback_days": NaN}}',
        f'["{KEY}"]',
        f'"{KEY}"',
        "5",
        "null",
        f'{{"api_key": "{KEY}"'.encode("utf-16"),
        "[" * 100_000,
    ],
    ids=range(11),
)
def test_a_broken_config_file_is_one_sentence(command: Command, content: str | bytes) -> None:
    command.fails(no_config(), "--config", command.write("config.json", content))


def test_a_config_file_may_begin_with_a_byte_order_mark(command: Command, sandbox: Sandbox) -> None:
    path = command.write("config.json", f"\ufeff{json.dumps(config_for(sandbox))}")
    assert command("--config", path).status == 0


def test_a_config_file_that_is_not_there_is_one_sentence(command: Command) -> None:
    command.fails(no_config(), "--config", "nowhere.json")


def test_a_folder_for_a_config_file_is_one_sentence(command: Command) -> None:
    command.fails(no_config("Is a directory"), "--config", ".")


def test_no_config_at_all_is_a_missing_key(command: Command) -> None:
    command.fails(NO_KEY)
    command.fails(NO_KEY, "--config=ENV")
    command.fails(NO_KEY, "--config", command.write("config.json", {}))
    command.fails(NO_KEY, TAP_FINI_API_KEY=KEY)  # not asked to look there


def test_an_unknown_setting_is_named_and_ignored(command: Command, sandbox: Sandbox) -> None:
    settings = {**config_for(sandbox), "apikey": KEY, "page\nsize": MARKER, "x" * 100: 1}
    ended = command("--config", command.write("config.json", settings))
    assert (ended.status, ended.lines("ERROR")) == (0, [])
    assert ended.lines("WARNING") == [
        "There is no setting 'apikey': it is ignored",
        "There is no setting 'page\\nsize': it is ignored",
        f"There is no setting '{'x' * 64}': it is ignored",
    ]
    assert len(sandbox.requests) >= 1


def test_of_several_config_files_the_later_wins_and_the_environment_last(
    command: Command, sandbox: Sandbox
) -> None:
    files = [
        command.write("a.json", {**config_for(sandbox), "page_size": 1, "source": "slack"}),
        command.write("b.json", {"page_size": 2, "category": "returns", "user_id": "u1"}),
        command.write("c.json", {"page_size": 3, "user_id": "u2"}),
    ]
    args = [arg for path in files for arg in ("--config", path)]
    assert command(*args).status == 0
    assert command(*args, "--config=ENV", TAP_FINI_USER_ID="u3").status == 0
    assert command("--config=ENV", *args, TAP_FINI_USER_ID="u3").status == 0
    sent = [
        {k: v for k, v in r.params.items() if not k.endswith("Epoch")} for r in sandbox.requests
    ]
    expected = {"limit": "3", "source": "slack", "category": "returns"}
    users = [r.pop("userId") for r in sent]
    assert sent == [expected] * len(sent)
    assert users == sorted(users)
    assert set(users) == {"u2", "u3"}
    assert users.count("u3") == 2 * users.count("u2")


# --- the environment ------------------------------------------------------------------------------


def in_environment(sandbox: Sandbox, **settings: str) -> dict[str, str]:
    """Return every setting of a run as variables."""
    texts = {
        **{name: f"{value}" for name, value in config_for(sandbox).items()},
        **settings,
    }
    return {f"TAP_FINI_{name.upper()}": text for name, text in texts.items()}


def test_the_environment_sets_numbers_and_booleans(command: Command, sandbox: Sandbox) -> None:
    variables = in_environment(
        sandbox,
        api_key=f"  {sandbox.api_key}\r\n",
        window_days="89.5",
        page_size=" 7 ",
        max_concurrent_requests="1",
        escalation="False",
        has_links="YES",
        lookback_days="0.5",
    )
    ended = command("--config=ENV", **variables)
    assert ended.status == 0, ended.stderr
    first, *others = [request.params for request in sandbox.requests]
    start = 1_735_689_600_000
    width = int(89.5 * 86_400_000)
    assert first == {
        "startEpoch": f"{start - 1}",
        "endEpoch": f"{start + width}",
        "limit": "7",
        "escalation": "false",
        "hasLinks": "true",
    }
    starts = {params["startEpoch"] for params in others}
    assert starts - {first["startEpoch"]} == {f"{start + n * width - 1}" for n in (1, 2)}
    assert {request.status for request in sandbox.requests} == {200}


def test_empty_variables_set_nothing_and_hide_nothing(command: Command, sandbox: Sandbox) -> None:
    variables = {f"TAP_FINI_{name.upper()}": " " for name in (*DEFAULTS, *OPTIONAL, "api_key")}
    path = command.write("config.json", {**config_for(sandbox), "page_size": 11})
    ended = command("--config", path, "--config=ENV", **variables)
    assert (ended.status, ended.lines("ERROR")) == (0, []), ended.stderr
    assert {request.params["limit"] for request in sandbox.requests} == {"11"}
    names = {name for request in sandbox.requests for name in request.params}
    assert names <= {"startEpoch", "endEpoch", "limit", "cursor", "direction"}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("escalation", "maybe", has_to_be("escalation", "true or false")),
        ("has_links", "-1", has_to_be("has_links", "true or false")),
        ("page_size", "ten", has_to_be("page_size", "a whole number")),
        ("page_size", "0", has_to_be("page_size", "1 or more")),
        ("window_days", "91", has_to_be("window_days", "90 or less")),
        ("lookback_days", "inf", has_to_be("lookback_days", "a number")),
        ("source", "email", NO_SOURCE),
        ("start_date", "soon", no_date("start_date")),
        ("api_url", "http://host", HTTPS),
        ("api_key", f"{KEY}\n{KEY}", A_KEY),
        ("stream_maps", "{", has_to_be("stream_maps", "a JSON object")),
    ],
)
def test_a_mistake_in_the_environment_is_the_same_sentence(
    command: Command, name: str, text: str, sentence: str
) -> None:
    variables = {"TAP_FINI_API_KEY": KEY, f"TAP_FINI_{name.upper()}": text}
    command.fails(sentence, "--config=ENV", **variables)


def test_the_most_talkative_log_holds_nothing_private(command: Command, sandbox: Sandbox) -> None:
    settings = {**config_for(sandbox), "question": MARKER, "user_id": None}
    path = command.write("config.json", settings)
    ended = command("--config", path, LOGLEVEL="DEBUG", TAP_FINI_LOGLEVEL="DEBUG")
    assert ended.status == 0
    assert ended.lines("DEBUG")
    assert ended.stdout.count(MARKER) > 20  # in its place: the command looked at the rest


# --- what settings become -------------------------------------------------------------------------

DEFAULTS = {
    "api_url": "https://api-prod.usefini.com",
    "start_date": "2022-01-01T00:00:00Z",
    "lookback_days": 7,
    "window_days": 30,
    "page_size": 50,
    "max_concurrent_requests": 4,
    "max_requests_per_minute": 100,
    "request_timeout": 60,
}
OPTIONAL = [
    "end_date",
    "source",
    "category",
    "feedback_type",
    "escalation",
    "has_links",
    "user_id",
    "ticket_id",
    "question",
    "agent_id",
    "channel",
    "user_agent",
]


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the tap's own settings as the tap sees them."""
    seen = TapFini(config={"api_key": KEY, **config}).config
    return {name: seen[name] for name in seen if name in {"api_key", *DEFAULTS, *OPTIONAL}}


def test_the_defaults_are_those_of_the_design() -> None:
    assert settings_of({}) == {"api_key": KEY, **DEFAULTS}
    own = {name for name, _ in tap_settings().items()}
    assert own == {"api_key", *DEFAULTS, *OPTIONAL}


def tap_settings() -> dict[str, Any]:
    """Return the schemas of the tap's own settings, without the SDK's."""
    from_sdk = ("stream_map", "flattening_", "batch_config", "faker_config", "emit_activate")
    schemas: dict[str, Any] = TapFini.config_jsonschema["properties"]
    return {name: s for name, s in schemas.items() if not name.startswith(from_sdk)}


def test_every_setting_is_described_and_only_the_key_is_secret() -> None:
    schemas = tap_settings()
    assert TapFini.config_jsonschema["required"] == ["api_key"]
    assert all(s["title"] and s["description"].endswith(".") for s in schemas.values())
    assert [name for name, s in schemas.items() if s.get("secret")] == ["api_key"]
    bounds = ("minimum", "exclusiveMinimum", "maximum", "enum")
    assert {
        name: found for name, s in schemas.items() if (found := [s[b] for b in bounds if b in s])
    } == {
        "lookback_days": [0],
        "window_days": [0, 90],
        "page_size": [1, 100],
        "feedback_type": [FEEDBACK.split(", ")],
        "max_concurrent_requests": [1, 16],
        "max_requests_per_minute": [0],
        "request_timeout": [1, 3600],
    }


def test_texts_become_what_their_settings_want_as_meltano_needs() -> None:
    texts = {
        "api_key": f"\n {KEY} \r\n",
        "api_url": " http://localhost:8000 ",
        "start_date": "2025-01-31",
        "end_date": " 2025-02-28T12:00:00.5+01:00",
        "lookback_days": "1e1",
        "window_days": "0.25",
        "page_size": "100",
        "source": "slack",
        "category": "12",
        "feedback_type": "thumbs_up",
        "escalation": "TRUE",
        "has_links": "0",
        "user_id": " 007 ",
        "ticket_id": "true",
        "question": "",
        "max_concurrent_requests": "16",
        "max_requests_per_minute": "0",
        "request_timeout": "5",
        "user_agent": "\t",
    }
    assert settings_of(texts) == {
        "api_key": KEY,
        "api_url": "http://localhost:8000",
        "start_date": "2025-01-31",
        "end_date": "2025-02-28T12:00:00.5+01:00",
        "lookback_days": 10,
        "window_days": 0.25,
        "page_size": 100,
        "source": "slack",
        "category": "12",
        "feedback_type": "thumbs_up",
        "escalation": True,
        "has_links": False,
        "user_id": "007",
        "ticket_id": "true",
        "max_concurrent_requests": 16,
        "max_requests_per_minute": 0,
        "request_timeout": 5,
    }


@pytest.mark.parametrize("words", ["true 1 yes on True YES", "false 0 no off False NO"])
def test_every_usual_word_for_a_boolean_is_known(words: str) -> None:
    expected = words.startswith("true")
    for word in words.split():
        assert settings_of({"escalation": word})["escalation"] is expected


def test_whole_numbers_may_be_written_with_a_point(command: Command, sandbox: Sandbox) -> None:
    settings = {**config_for(sandbox), "page_size": 20.0, "max_concurrent_requests": 1e0}
    ended = command("--config", command.write("config.json", settings))
    assert ended.status == 0, ended.stderr
    assert {request.params["limit"] for request in sandbox.requests} == {"20"}


@pytest.mark.parametrize(
    "url",
    [
        "https://api-prod.usefini.com/",
        "https://eu.example.com:8443/fini",
        "HTTPS://API.EXAMPLE.COM",
        "https://bücher.example",
        "http://127.0.0.1:8000",
        "http://127.8.9.1",
        "http://localhost",
        "http://[::1]:8000",
    ],
)
def test_these_addresses_are_allowed(url: str) -> None:
    assert settings_of({"api_url": url})["api_url"] == url


def test_a_start_before_the_epoch_reads_from_the_epoch(sandbox: Sandbox) -> None:
    output = run_tap({**config_for(sandbox), "start_date": "1900-01-01", "window_days": 90})
    assert len(output.records("conversations")) == len(CONVERSATIONS)
    assert min(int(r.params["startEpoch"]) for r in sandbox.requests) == 0


# --- states ---------------------------------------------------------------------------------------

NO_STATE = (
    'The state is not of the form {"bookmarks": {"conversations": {...}}}: correct it, or run '
    "without it (meltano run --full-refresh) to read everything again."
)
STATE_NOT_JSON = "The state file is not JSON: correct it, or run without it."
STATE_NO_OBJECT = "The state file does not hold a JSON object: correct it, or run without it."


def no_time(stream: str) -> str:
    return (
        f"The state's bookmark of '{stream}' is not a time: correct the state, or run without it "
        "(meltano run --full-refresh) to read everything again."
    )


def state_with(stream: str = "conversations", **more: Any) -> dict[str, Any]:
    key = "updatedAt" if stream == "conversations" else "conversationUpdatedAt"
    bookmark = {"replication_key": key, "replication_key_value": "2025-06-01T00:00:00.000Z"}
    return {"bookmarks": {stream: {**bookmark, **more}}}


STATES: list[tuple[object, str]] = [
    ("", STATE_NOT_JSON),
    ("{", STATE_NOT_JSON),
    (f'{{"bookmarks": {{}}}}{MARKER}', STATE_NOT_JSON),
    (b"\xff\xfe", STATE_NOT_JSON),
    ("[" * 100_000, STATE_NOT_JSON),
    ('{"bookmarks": {"conversations": {"replication_key_value": NaN}}}', STATE_NOT_JSON),
    ("5", STATE_NO_OBJECT),
    (f'"{MARKER}"', STATE_NO_OBJECT),
    ("true", STATE_NO_OBJECT),
    ([], NO_STATE),
    ([state_with()], NO_STATE),
    ({"bookmarks": None}, NO_STATE),
    ({"bookmarks": []}, NO_STATE),
    ({"bookmarks": {"conversations": None}}, NO_STATE),
    ({"bookmarks": {"conversations": "2025-01-01"}}, NO_STATE),
    (state_with(filters=5), NO_STATE),
    (state_with(filters=None), NO_STATE),
    (state_with(filters=["source"]), NO_STATE),
    (state_with(partitions=5), NO_STATE),
    (state_with(partitions=[5]), NO_STATE),
    (state_with(progress_markers="x"), NO_STATE),
    (state_with(replication_key_value=MARKER), no_time("conversations")),
    (state_with(replication_key_value=5), no_time("conversations")),
    (state_with(replication_key_value=[]), no_time("conversations")),
    (state_with(replication_key_value=True), no_time("conversations")),
    (state_with(replication_key_value="12025-01-01"), no_time("conversations")),
    (state_with(replication_key_value="0001-01-01T00:00:00+10:00"), no_time("conversations")),
    (state_with("bot_requests", replication_key_value="x"), no_time("bot_requests")),
]


@pytest.mark.parametrize(("state", "sentence"), STATES, ids=range(len(STATES)))
def test_a_broken_state_is_one_sentence(command: Command, state: object, sentence: str) -> None:
    path = command.write("state.json", state)
    config = command.write("config.json", BASIC)
    ended = command.fails(sentence, "--config", config, "--state", path)
    assert '"RECORD"' not in ended.stdout


@pytest.mark.parametrize(
    "state",
    [
        "null",
        {},
        {"bookmarks": {}},
        {"bookmarks": {"gone": {"a": [1]}}, "singer_state": {}},
        state_with(replication_key_value=1_748_736_000_000),
        state_with(replication_key_value="2025-06-01"),
        state_with(replication_key="createdAt", replication_key_value=MARKER),
        state_with(filters={"source": [1]}),
        state_with(replication_key_value="2999-01-01T00:00:00.000Z"),
    ],
    ids=range(9),
)
def test_an_odd_state_does_no_harm(command: Command, sandbox: Sandbox, state: object) -> None:
    path = command.write("state.json", state)
    ended = command(
        *("--config", command.write("config.json", config_for(sandbox))), "--state", path
    )
    assert (ended.status, ended.lines("ERROR")) == (0, []), ended.stderr


# --- catalogs -------------------------------------------------------------------------------------

NO_CATALOG = "The catalog is not a Singer catalog: make a new one with --discover."
CATALOG_NOT_JSON = "The catalog file is not JSON: correct it, or run without it."
CATALOG_NO_OBJECT = "The catalog file does not hold a JSON object: correct it, or run without it."


def catalog_with(**more: Any) -> dict[str, Any]:
    catalog = discover()
    for stream in catalog["streams"]:
        stream.update(more)
    return catalog


CATALOGS: list[tuple[Any, str]] = [
    ("", CATALOG_NOT_JSON),
    ("{", CATALOG_NOT_JSON),
    ("[" * 100_000, CATALOG_NOT_JSON),
    ("5", CATALOG_NO_OBJECT),
    ('"catalog.json"', CATALOG_NO_OBJECT),
    ([], NO_CATALOG),
    ({"streams": 5}, NO_CATALOG),
    ({"streams": [5]}, NO_CATALOG),
    ({"streams": [{}]}, NO_CATALOG),
    ({"metadata": 5}, NO_CATALOG),
    ({"metadata": None}, NO_CATALOG),
    ({"metadata": [5]}, NO_CATALOG),
    ({"metadata": [{"breadcrumb": 5, "metadata": {}}]}, NO_CATALOG),
    ({"schema": None}, NO_CATALOG),
    ({"schema": 5}, NO_CATALOG),
    ({"schema": {"properties": 5}}, NO_CATALOG),
]


@pytest.mark.parametrize(("catalog", "sentence"), CATALOGS, ids=range(len(CATALOGS)))
def test_a_broken_catalog_is_one_sentence(command: Command, catalog: Any, sentence: str) -> None:
    if isinstance(catalog, dict) and "streams" not in catalog:
        catalog = catalog_with(**catalog)
    path = command.write("catalog.json", catalog)
    ended = command.fails(
        sentence, "--config", command.write("config.json", BASIC), "--catalog", path
    )
    assert ended.stdout == ""


@pytest.mark.parametrize("option", ["state", "catalog"])
def test_a_file_that_is_not_there(option: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    result = run_command(f"--{option}", str(missing))
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith(
        f"Invalid value for '--{option}': '{missing}': No such file or directory."
    )
    assert "Traceback" not in result.stderr
