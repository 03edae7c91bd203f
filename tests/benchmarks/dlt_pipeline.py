"""The same job with dlt: one resource, nested bot requests in a child table."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlt  # type: ignore[import-not-found]
from dlt.sources.helpers import requests  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = 30 * 86_400_000


def epoch(text: str) -> int:
    return round(datetime.fromisoformat(text[:19] + "+00:00").timestamp() * 1000)


def pages(config: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    client = requests.Client().session
    start, end = epoch(config["start_date"]), epoch(config["end_date"])
    while start < end:
        window_end = min(start + WINDOW, end)
        query = {"startEpoch": start, "endEpoch": window_end - 1, "limit": config["page_size"]}
        while True:
            response = client.get(config["api_url"] + "/v2/bots/requests/public", params=query)
            page = response.json()
            if page["conversations"]:
                yield page["conversations"]
            if not page["hasMore"]:
                break
            query["cursor"] = page["conversations"][-1]["id"]
        start = window_end


def main() -> None:
    config, folder, destination = json.loads(Path(sys.argv[1]).read_bytes()), *sys.argv[2:]
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    resource = dlt.resource(
        pages(config),
        name="conversations",
        primary_key="id",
        max_table_nesting=1,
        columns={
            "createdAt": {"data_type": "timestamp"},
            "updatedAt": {"data_type": "timestamp"},
        },
    )
    where = (
        dlt.destinations.filesystem(bucket_url=f"{folder}/files")
        if destination == "files"
        else dlt.destinations.duckdb(f"{folder}/dlt.duckdb")
    )
    pipeline = dlt.pipeline(
        "benchmark", pipelines_dir=f"{folder}/pipelines", destination=where, dataset_name="chats"
    )
    options = {"loader_file_format": "jsonl"} if destination == "files" else {}
    pipeline.run(resource, **options)


if __name__ == "__main__":
    main()
