"""What the tests load into: each target's settings, and how to read back what it holds."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from tests.targets import service, venv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]
Rows = dict[str, list[Row]]

KEYS: dict[str, tuple[str, ...]] = {
    "conversations": ("id",),
    "bot_requests": ("conversationId", "position"),
}
"""The streams that are looked at, and their keys."""
STREAMS = tuple(KEYS)
NEWEST = {"conversations": "updatedAt", "bot_requests": "conversationUpdatedAt"}
"""What tells the latest of several rows of a key."""
TIMES = {"createdAt", "updatedAt", "conversationUpdatedAt", "answeredAt"}

DUCKDB = """
import duckdb, json, sys
question = json.load(sys.stdin)
with duckdb.connect(question["path"], read_only=True) as connection:
    tables = {}
    for table in question["tables"]:
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        tables[table] = [dict(zip(names, row)) for row in cursor.fetchall()]
    types = {
        f"{table}.{column}": kind
        for table, column, kind in connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
        ).fetchall()
    }
    keys = dict(
        connection.execute(
            "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
            "WHERE constraint_type = 'PRIMARY KEY'"
        ).fetchall()
    )
answer = {"tables": tables, "types": types, "keys": keys}
json.dump(answer, sys.stdout, default=lambda time: time.isoformat())
"""

POSTGRES = """
import json, sys, psycopg
question = json.load(sys.stdin)
url, schema = question["url"].replace("+psycopg", ""), question.get("schema", "fini")
with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
    tables = {
        table: connection.execute(f"SELECT * FROM {schema}.{table}").fetchall()
        for table in question["tables"]
    }
    types = {
        f"{row['table_name']}.{row['column_name']}": row["udt_name"]
        for row in connection.execute(
            "SELECT table_name, column_name, udt_name FROM information_schema.columns "
            "WHERE table_schema = %s",
            [schema],
        )
    }
    keys = {}
    for row in connection.execute(
        "SELECT table_name, column_name FROM information_schema.key_column_usage "
        "WHERE table_schema = %s ORDER BY table_name, ordinal_position",
        [schema],
    ):
        keys.setdefault(row["table_name"], []).append(row["column_name"])
answer = {"tables": tables, "types": types, "keys": keys}
json.dump(answer, sys.stdout, default=lambda time: time.isoformat())
"""

# The newest version of a row counts, as in any bucket to which runs only add.
PARQUET = """
import duckdb, json, sys
question = json.load(sys.stdin)
tables, types = {}, {}
duckdb.execute("SET TimeZone = 'UTC'")
for table, key in question["keys"].items():
    rows = duckdb.sql(
        f"SELECT * FROM read_parquet('{question['folder']}/{table}*.parquet', union_by_name = true)"
        " QUALIFY row_number() OVER ("
        f"PARTITION BY {', '.join(key)} ORDER BY {question['newest'][table]} DESC) = 1"
    )
    types |= {f"{table}.{name}": str(kind) for name, kind in zip(rows.columns, rows.types)}
    as_json = duckdb.sql("SELECT to_json(rows) FROM rows").fetchall()
    tables[table] = [json.loads(row) for row, in as_json]
json.dump({"tables": tables, "types": types}, sys.stdout)
"""

S3_SERVER = """
import boto3, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
server.stop()
"""

S3_FILES = """
import boto3, json, pathlib, sys
question = json.load(sys.stdin)
s3 = boto3.client("s3", endpoint_url=question["url"], region_name="us-east-1",
                  aws_access_key_id="made-up", aws_secret_access_key="made-up")
if "create" in question:
    s3.create_bucket(Bucket=question["create"])
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=question["bucket"]):
    for entry in page.get("Contents", ()):
        path = pathlib.Path(question["folder"], entry["Key"].rsplit("/", 1)[1])
        s3.download_file(question["bucket"], entry["Key"], str(path))
json.dump(None, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a target holds.

    Attributes:
        rows: the rows of each table, the values as Python's.
        types: the type of each ``table.column``, in the target's words.
        keys: the primary key of each table that has one.
    """

    rows: Rows
    types: dict[str, str] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Warehouse:
    """A place that a target loads into.

    Attributes:
        folder: where its files may be.
        place: a file, folder, schema or bucket of its own there.
        url: the server, if there is one.
    """

    folder: Path
    place: str
    url: str = ""

    target: ClassVar[str]
    stream_maps: ClassVar[dict[str, dict[str, str]]] = {}
    """What the target needs the tap to do."""
    upserts: ClassVar[bool] = True
    """Whether it has one row a key; else the last one of a key counts."""

    def settings(self) -> dict[str, Any]:
        """The target's settings."""
        raise NotImplementedError

    def read(self) -> Held:
        """Read back everything."""
        raise NotImplementedError

    def name(self, column: str) -> str:
        """What becomes of a column's name."""
        return column

    def value(self, value: Any) -> Any:
        """What becomes of a value."""
        return value


class Jsonl(Warehouse):
    target = "target-jsonl"
    upserts = False

    def settings(self) -> dict[str, Any]:
        return {"destination_path": str(self.folder / self.place), "do_timestamp_file": False}

    def read(self) -> Held:
        rows = {}
        for table in STREAMS:
            text = (self.folder / self.place / f"{table}.jsonl").read_text(encoding="utf-8")
            rows[table] = [_with_times(json.loads(line)) for line in text.split("\n")[:-1]]
        return Held(rows)


class Csv(Warehouse):
    target = "target-csv"
    upserts = False
    # A new file a run: it starts each file anew, and the state is ahead of what it has thrown away.
    naming = "{stream_name}-{timestamp}.csv"

    def settings(self) -> dict[str, Any]:
        return {
            "output_path": str(self.folder / self.place),
            "file_naming_scheme": self.naming,
            "timestamp_format": "%Y%m%dT%H%M%S.%f",
        }

    def read(self) -> Held:
        rows: Rows = {}
        for table in STREAMS:
            rows[table] = []
            for path in sorted((self.folder / self.place).glob(f"{table}*.csv")):
                with path.open(encoding="utf-8", newline="") as file:
                    rows[table] += csv.DictReader(file)
        return Held(rows)

    def value(self, value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, (list, dict)):
            return str(json.loads(json.dumps(value), parse_float=Decimal))
        return str(value)


class DuckDB(Warehouse):
    target = "target-duckdb"

    def settings(self) -> dict[str, Any]:
        return {
            "path": str(self.folder / f"{self.place}.duckdb"),
            "default_target_schema": "main",
            "flush_all_streams": True,
        }

    def read(self) -> Held:
        answer = venv(self.target).ask(DUCKDB, {"path": self.settings()["path"], "tables": STREAMS})
        times = {name.lower() for name in TIMES}
        for table, rows in answer["tables"].items():
            for row in rows:
                for column, value in row.items():
                    if value is not None and answer["types"][f"{table}.{column}"] == "JSON":
                        row[column] = json.loads(value)
        rows = _all_with_times(answer["tables"], times)
        return Held(rows, _of_streams(answer["types"]), _of_streams(answer["keys"]))

    def name(self, column: str) -> str:
        return column.lower()

    def value(self, value: Any) -> Any:
        return None if value == "" else value


class Postgres(Warehouse):
    target = "target-postgres"

    def settings(self) -> dict[str, Any]:
        return {
            "sqlalchemy_url": self.url,
            "default_target_schema": self.place,
            "add_record_metadata": False,
            "activate_version": False,
        }

    def read(self) -> Held:
        question = {"url": self.url, "schema": self.place, "tables": STREAMS}
        answer = venv(self.target).ask(POSTGRES, question)
        rows = _all_with_times(answer["tables"])
        return Held(rows, _of_streams(answer["types"]), _of_streams(answer["keys"]))


class Parquet(Warehouse):
    target = "target-s3"
    upserts = False
    stream_maps: ClassVar = {
        "conversations": {"extra": "json.dumps(_['extra']) if 'extra' in _ else None"},
        "bot_requests": {
            "basedOn": "json.dumps(basedOn)",
            "extra": "json.dumps(_['extra']) if 'extra' in _ else None",
        },
    }

    def settings(self) -> dict[str, Any]:
        aws = {
            "aws_access_key_id": "made-up",
            "aws_secret_access_key": "made-up",
            "aws_region": "us-east-1",
            "aws_bucket": self.place,
            "aws_endpoint_override": self.url,
        }
        return {
            "format": {"format_type": "parquet"},
            "compression": "none",
            "prefix": "fini",
            "cloud_provider": {"cloud_provider_type": "aws", "aws": aws},
        }

    def create(self) -> None:
        """Create the bucket."""
        self._files(create=self.place)

    def read(self) -> Held:
        self._files()
        question = {"folder": str(self.folder / self.place), "keys": KEYS, "newest": NEWEST}
        answer = venv("target-duckdb").ask(PARQUET, question)
        return Held(_all_with_times(answer["tables"]), answer["types"])

    def _files(self, **more: str) -> None:
        folder = self.folder / self.place
        folder.mkdir(exist_ok=True)
        question = {"url": self.url, "bucket": self.place, "folder": str(folder), **more}
        venv("s3-server").ask(S3_FILES, question)

    def value(self, value: Any) -> Any:
        return value.replace(microsecond=0) if isinstance(value, datetime) else value


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """An S3 for the duration of the ``with`` block.

    Yields:
        Its URL.
    """
    with service("s3-server", S3_SERVER, folder) as url:
        yield url


def by_key(rows: Rows) -> dict[str, dict[Any, Row]]:
    """Rows by their key, the last one of a key; an ``extra`` without a value is left out."""
    tables: dict[str, dict[Any, Row]] = defaultdict(dict)
    for table, key in KEYS.items():
        for row in rows[table]:
            folded = {name.lower(): value for name, value in row.items()}
            tables[table][tuple(folded[name.lower()] for name in key)] = {
                name: value
                for name, value in row.items()
                if name != "extra" or value not in (None, "")
            }
    return dict(tables)


def time(value: Any) -> Any:
    """A text in ISO 8601 as a time in UTC."""
    if not isinstance(value, str):
        return value
    # Python 3.10 knows neither `Z` nor DuckDB's `+00`.
    parsed = datetime.fromisoformat(re.sub(r"(Z|\+00)$", "+00:00", value))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def _of_streams(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if name.split(".")[0] in STREAMS}


def _with_times(row: Row, times: set[str] = TIMES) -> Row:
    return {name: time(value) if name in times else value for name, value in row.items()}


def _all_with_times(tables: Rows, times: set[str] = TIMES) -> Rows:
    return {table: [_with_times(row, times) for row in rows] for table, rows in tables.items()}
