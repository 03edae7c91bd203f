{%- set columns = columns_of(source('fini', 'conversations')) -%}

SELECT
    id AS conversation_id,
    {{ field(columns, 'externalId', 'VARCHAR') }} AS external_id,
    {{ field(columns, 'userId', 'VARCHAR') }} AS user_id,
    coalesce({{ field(columns, 'source', 'VARCHAR') }}, 'unknown') AS source,
    {{ field(columns, 'channel', 'VARCHAR') }} AS channel,
    coalesce({{ field(columns, 'escalation', 'BOOLEAN') }}, FALSE) AS is_escalated,
    {{ field(columns, 'hasLinks', 'BOOLEAN') }} AS has_links,
    {{ field(columns, 'feedbackType', 'VARCHAR') }} AS feedback_type,
    {{ field(columns, 'expectingUserFollowup', 'BOOLEAN') }} AS is_expecting_user_followup,
    {{ field(columns, 'url', 'VARCHAR') }} AS url,
    {{ texts(columns, 'categories') }} AS categories,
    {{ field(columns, 'createdAt', 'TIMESTAMP') }} AS created_at,
    {{ field(columns, 'updatedAt', 'TIMESTAMP') }} AS updated_at,
    {{ field(columns, 'botRequestCount', 'INTEGER') }} AS bot_request_count,
    {{ field(columns, 'extra', json_type()) }} AS extra
FROM {{ source('fini', 'conversations') }}
