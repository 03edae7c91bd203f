"""The same job with Airbyte's declarative CDK; the bot requests stay inside the conversations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airbyte_cdk.entrypoint import launch  # type: ignore[import-not-found]
from airbyte_cdk.models import (  # type: ignore[import-not-found]
    ConfiguredAirbyteCatalogSerializer,
)
from airbyte_cdk.sources.declarative.concurrent_declarative_source import (  # type: ignore[import-not-found]
    ConcurrentDeclarativeSource,
)

CATALOG = {
    "streams": [
        {
            "stream": {
                "name": "conversations",
                "json_schema": {},
                "supported_sync_modes": ["full_refresh", "incremental"],
                "source_defined_cursor": True,
            },
            "sync_mode": "incremental",
            "destination_sync_mode": "append",
        }
    ]
}
SCHEMA = {
    "type": "object",
    "additionalProperties": True,
    "properties": {"id": {"type": "string"}, "updatedAt": {"type": "integer"}},
}
MANIFEST: dict[str, Any] = {
    "version": "6.0.0",
    "type": "DeclarativeSource",
    "check": {"type": "CheckStream", "stream_names": ["conversations"]},
    "concurrency_level": {"type": "ConcurrencyLevel", "default_concurrency": 4},
    "streams": [
        {
            "type": "DeclarativeStream",
            "name": "conversations",
            "primary_key": ["id"],
            "schema_loader": {"type": "InlineSchemaLoader", "schema": SCHEMA},
            "incremental_sync": {
                "type": "DatetimeBasedCursor",
                "cursor_field": "updatedAt",
                "cursor_datetime_formats": ["%ms"],
                "datetime_format": "%ms",
                "start_datetime": {
                    "type": "MinMaxDatetime",
                    "datetime": "{{ config['start_date'] }}",
                    "datetime_format": "%Y-%m-%dT%H:%M:%SZ",
                },
                "end_datetime": {
                    "type": "MinMaxDatetime",
                    "datetime": "{{ config['end_date'] }}",
                    "datetime_format": "%Y-%m-%dT%H:%M:%SZ",
                },
                "step": "P30D",
                "cursor_granularity": "PT0.001S",
                "start_time_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "startEpoch",
                },
                "end_time_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "endEpoch",
                },
            },
            "retriever": {
                "type": "SimpleRetriever",
                "requester": {
                    "type": "HttpRequester",
                    "url_base": "{{ config['api_url'] }}",
                    "path": "/v2/bots/requests/public",
                    "http_method": "GET",
                    "authenticator": {
                        "type": "BearerAuthenticator",
                        "api_token": "{{ config['api_key'] }}",
                    },
                },
                "record_selector": {
                    "type": "RecordSelector",
                    "extractor": {"type": "DpathExtractor", "field_path": ["conversations"]},
                },
                "paginator": {
                    "type": "DefaultPaginator",
                    "page_size_option": {
                        "type": "RequestOption",
                        "inject_into": "request_parameter",
                        "field_name": "limit",
                    },
                    "page_token_option": {
                        "type": "RequestOption",
                        "inject_into": "request_parameter",
                        "field_name": "cursor",
                    },
                    "pagination_strategy": {
                        "type": "CursorPagination",
                        "page_size": 50,
                        "cursor_value": "{{ last_record['id'] }}",
                        "stop_condition": "{{ not response['hasMore'] }}",
                    },
                },
            },
        }
    ],
    "spec": {
        "type": "Spec",
        "connection_specification": {"type": "object", "additionalProperties": True},
    },
}


def main() -> None:
    settings, folder = sys.argv[1:]
    config = json.loads(Path(settings).read_bytes())
    catalog = Path(folder) / "catalog.json"
    catalog.write_text(json.dumps(CATALOG), encoding="utf-8")
    source = ConcurrentDeclarativeSource(
        catalog=ConfiguredAirbyteCatalogSerializer.load(CATALOG),
        config=config,
        state=[],
        source_config=MANIFEST,
    )
    launch(source, ["read", "--config", settings, "--catalog", str(catalog)])


if __name__ == "__main__":
    main()
