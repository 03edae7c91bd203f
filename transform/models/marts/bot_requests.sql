{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='bot_request_key',
        on_schema_change='sync_all_columns',
        post_hook="""
            {% if is_incremental() %}
            DELETE FROM {{ this }}
            WHERE bot_request_key NOT IN (SELECT bot_request_key FROM {{ ref('stg_fini__bot_requests') }})
            {% endif %}
        """,
    )
}}

WITH current_rows AS (
    SELECT
        bot_request_key,
        conversation_id,
        position,
        bot_request_id,
        question,
        answer,
        reasoning,
        categories,
        is_escalated,
        feedback_type,
        is_expecting_user_followup,
        coalesce(trim(answer), '') <> '' AS is_answered,
        {{ json_length('based_on') }} AS knowledge_source_count,
        created_at,
        CAST(created_at AS DATE) AS created_date,
        conversation_updated_at,
        {{
            fingerprint([
                'bot_request_id', 'question', 'answer', 'reasoning', 'categories', 'is_escalated', 'feedback_type',
                'is_expecting_user_followup', 'based_on', 'created_at', 'conversation_updated_at',
            ])
        }} AS content_hash
    FROM {{ ref('stg_fini__bot_requests') }}
)

SELECT current_rows.*
FROM current_rows
{% if is_incremental() -%}
-- Contents are compared, not times: a load that was killed, or a change that does not move updatedAt, is not missed.
LEFT JOIN {{ this }} AS built
    ON
        built.bot_request_key = current_rows.bot_request_key
        AND built.content_hash = current_rows.content_hash
WHERE built.bot_request_key IS NULL
{%- endif %}
