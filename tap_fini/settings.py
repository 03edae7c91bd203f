"""What a user hands to the tap: settings, a state, a catalog; and what can be wrong with them."""

from __future__ import annotations

import io
import ipaddress
import math
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from jsonschema import Draft7Validator, SchemaError, ValidationError
from requests import PreparedRequest
from requests.exceptions import MissingSchema
from singer_sdk.singerlib import Catalog
from singer_sdk.singerlib.json import deserialize_json, serialize_json

from tap_fini.client import FiniError
from tap_fini.windows import to_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import PurePath

ENV_PREFIX = "TAP_FINI_"
"""What the names of the settings' environment variables begin with."""

_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


class SettingsError(FiniError):
    """The settings cannot be used as they are."""


def _number(text: str) -> float:
    """Read a number.

    Raises:
        ValueError: If it is none that can be counted with, such as ``inf`` and ``nan``.
    """
    number = float(text)
    if math.isfinite(number):
        return number
    raise ValueError


_CONVERTERS: dict[str, Callable[[str], object]] = {
    "integer": int,
    "number": _number,
    "boolean": lambda text: _WORDS.get(text.lower(), text),
    "object": deserialize_json,
    "array": deserialize_json,
    "string": str,
}


def convert(value: object, definition: Mapping[str, Any]) -> object:
    """Return a text as the type that a setting wants, if it can be read as that."""
    kind = next((kind for kind in _CONVERTERS if kind in definition.get("type", ())), "string")
    if isinstance(value, (Decimal, float)):  # the SDK reads files with Decimal
        if not math.isfinite(float(value)):
            return str(value)
        return int(value) if kind == "integer" and value % 1 == 0 else float(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return _CONVERTERS[kind](text)
    except ValueError:
        return text


def explain(error: ValidationError) -> str:
    """Say what is wrong with a setting, without its value, which may be secret."""
    if error.validator == "required":
        name = error.message.split("'")[1]
        return f"The setting '{name}' is missing: set it, or {ENV_PREFIX}{name.upper()}."
    name = ".".join(str(part) for part in error.absolute_path) or "config"
    rule: Any = error.validator_value
    expected = {
        "enum": lambda: "one of " + ", ".join(str(v) for v in rule),
        "type": lambda: _in_words([kind for kind in _listed(rule) if kind != "null"]),
        "minimum": lambda: f"{rule} or more",
        "maximum": lambda: f"{rule} or less",
        "exclusiveMinimum": lambda: f"more than {rule}",
    }.get(str(error.validator), lambda: f"valid ({error.validator})")()
    return f"The setting '{name}' has to be {expected}."


def _listed(rule: str | list[str]) -> list[str]:
    return [rule] if isinstance(rule, str) else rule


def _in_words(kinds: list[str]) -> str:
    words = {
        "string": "a text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
    }
    return " or ".join(words.get(kind, f"a JSON {kind}") for kind in kinds)


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Find what a JSON schema cannot: a sentence for each problem."""
    return [
        *_check_key(config["api_key"]),
        *_check_url(config["api_url"]),
        *_check_dates(config),
        *_check_user_agent(config.get("user_agent", "")),
    ]


def _check_key(key: str) -> list[str]:
    if key.isascii() and key.isprintable() and " " not in key:
        return []
    return ["The setting 'api_key' holds a character that no key has: copy it again from Fini."]


def _check_url(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")
        PreparedRequest().prepare_url(url, None)
    except MissingSchema:
        pass
    except ValueError:
        return ["The setting 'api_url' is not an address."]
    if not host or "@" in parts.netloc or parts.query or parts.fragment:
        return ["The setting 'api_url' has to be a plain address such as https://host."]
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return []
    return ["The setting 'api_url' has to start with https://, for the API key goes there."]


def _check_user_agent(name: str) -> list[str]:
    if name.isascii() and name.isprintable():
        return []
    return ["The setting 'user_agent' holds a character that no header takes: use ASCII alone."]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_dates(config: Mapping[str, Any]) -> list[str]:
    instants = {}
    for name in ("start_date", "end_date"):
        value = config.get(name)
        if value is None:
            continue
        instant = to_instant(value)
        if instant is None:
            problem = f"The setting '{name}' is not a date, such as 2025-01-31T12:00:00Z."
            return [problem]
        instants[name] = instant
    if instants.get("end_date", float("inf")) <= instants["start_date"]:
        return ["The setting 'end_date' has to be later than 'start_date'."]
    return []


def checked_file(file: IO[str] | None, kind: str) -> IO[str] | None:
    """Make sure that a file holds JSON, before the SDK reads it.

    Raises:
        FiniError: If it does not.
    """
    if file is None:
        return None
    try:
        text = file.read()
        content: Any = deserialize_json(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        message = f"The {kind} file is not JSON: correct it, or run without it."
        raise FiniError(message) from None
    if content is not None and not isinstance(content, (dict, list)):
        # The SDK would take a text for a path.
        message = f"The {kind} file does not hold a JSON object: correct it, or run without it."
        raise FiniError(message)
    return io.StringIO(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and its like, which the SDK does not read


_NAME = {"type": ["string", "null"]}
_NAMES = {"type": ["array", "null"], "items": {"type": "string"}}
_CATALOG = {
    "type": "object",
    "required": ["streams"],
    "properties": {
        "streams": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tap_stream_id", "schema"],
                "properties": {
                    "tap_stream_id": {"type": "string"},
                    "stream": _NAME,
                    "key_properties": _NAMES,
                    "replication_key": _NAME,
                    "replication_method": {
                        "enum": ["FULL_TABLE", "INCREMENTAL", "LOG_BASED", None]
                    },
                    "schema": {"type": "object", "required": ["properties"]},
                    "metadata": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["breadcrumb", "metadata"],
                            "properties": {
                                "breadcrumb": {"type": "array", "items": {"type": "string"}},
                                "metadata": {"type": "object"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def checked_catalog(
    catalog: PurePath | str | dict[str, Any] | Catalog | None,
) -> PurePath | str | Catalog | None:
    """Make sure that a catalog can be used, unless it is a path or the SDK's own.

    Raises:
        FiniError: If it cannot.
    """
    if isinstance(catalog, Catalog) or not isinstance(catalog, (dict, list)):
        return catalog
    try:
        # There and back, for a catalog made by the SDK holds tuples, which are no arrays.
        plain = deserialize_json(serialize_json(catalog))
        Draft7Validator(_CATALOG).validate(plain)
        for stream in plain["streams"]:
            Draft7Validator.check_schema(stream["schema"])
        checked = Catalog.from_dict(plain)
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError, SchemaError):
        message = "The catalog is not a Singer catalog: make a new one with --discover."
        raise FiniError(message) from None
    for entry in checked.streams:
        entry.stream = entry.tap_stream_id  # the SDK goes by the one here, by the other there
    return checked


def checked_state(
    state: PurePath | str | dict[str, Any] | None,
) -> PurePath | str | dict[str, Any] | None:
    """Make sure that a state can be used, unless it is a path.

    Raises:
        FiniError: If it cannot.
    """
    if not isinstance(state, (dict, list)):
        return state
    bookmarks = state.get("bookmarks", {}) if isinstance(state, dict) else None
    if isinstance(bookmarks, dict) and all(map(_is_stream_state, bookmarks.values())):
        return state
    message = (
        'The state is not of the form {"bookmarks": {"conversations": {...}}}: correct it, or run '
        "without it (meltano run --full-refresh) to read everything again."
    )
    raise FiniError(message)


def _is_stream_state(state: object) -> bool:
    if not isinstance(state, dict):
        return False
    partitions = state.get("partitions", [])
    parts = [state.get("filters", {}), state.get("progress_markers", {})]
    return (
        all(isinstance(part, dict) for part in parts)
        and isinstance(partitions, list)
        and all(isinstance(part, dict) and "context" in part for part in partitions)
    )
