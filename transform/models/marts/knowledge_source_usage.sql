{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='bot_request_key',
        on_schema_change='sync_all_columns',
        post_hook="""
            {% if is_incremental() %}
            DELETE FROM {{ this }} AS built
            WHERE NOT EXISTS (
                SELECT 1
                FROM {{ ref('stg_fini__bot_requests') }} AS present
                WHERE
                    present.bot_request_key = built.bot_request_key
                    AND {{ fingerprint(['present.based_on']) }} = built.content_hash
            )
            {% endif %}
        """,
    )
}}

WITH answers AS (
    SELECT
        bot_request_key,
        conversation_id,
        position,
        based_on,
        {{ fingerprint(['based_on']) }} AS content_hash
    FROM {{ ref('stg_fini__bot_requests') }}
),

changed AS (
    SELECT answers.*
    FROM answers
    {% if is_incremental() -%}
    WHERE NOT EXISTS (
        SELECT 1
        FROM {{ this }} AS built
        WHERE
            built.bot_request_key = answers.bot_request_key
            AND built.content_hash = answers.content_hash
    )
    {%- endif %}
),

used AS (
    SELECT
        changed.bot_request_key,
        changed.conversation_id,
        changed.position,
        changed.content_hash,
        source.place AS source_place,
        source.item
    FROM changed
    CROSS JOIN LATERAL {{ json_elements('changed.based_on') }} AS source
),

-- Fini gives one id, several or none.
identified AS (
    SELECT
        used.*,
        identifier.place AS id_place,
        {{ json_text('identifier.item') }} AS article_id
    FROM used
    LEFT JOIN LATERAL {{ json_elements(json_as_array("(used.item -> 'id')")) }} AS identifier ON TRUE
)

SELECT
    bot_request_key || '/' || source_place || '/' || coalesce(id_place, 0) AS usage_key,
    bot_request_key,
    conversation_id,
    position,
    coalesce(
        article_id, item ->> 'sourceId', item ->> 'source_id', item ->> 'title', 'unknown'
    ) AS knowledge_source,
    article_id,
    coalesce(item ->> 'sourceId', item ->> 'source_id') AS source_id,
    coalesce(item ->> 'sourceType', item ->> 'source_type') AS source_type,
    item ->> 'title' AS title,
    CASE
        WHEN {{ json_kind("(item -> 'score')") }} = 'number'
            THEN CAST(item ->> 'score' AS DOUBLE PRECISION)
    END AS score,
    content_hash
FROM identified
