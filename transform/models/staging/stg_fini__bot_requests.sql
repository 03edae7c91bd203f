{%- set columns = columns_of(source('fini', 'bot_requests')) -%}

WITH landed AS (
    SELECT
        "conversationId" AS conversation_id,
        CAST("position" AS INTEGER) AS position,
        {{ field(columns, 'id', 'VARCHAR') }} AS bot_request_id,
        {{ field(columns, 'question', 'VARCHAR') }} AS question,
        {{ field(columns, 'answer', 'VARCHAR') }} AS answer,
        {{ field(columns, 'reasoning', 'VARCHAR') }} AS reasoning,
        {{ texts(columns, 'categories') }} AS categories,
        coalesce({{ field(columns, 'escalation', 'BOOLEAN') }}, FALSE) AS is_escalated,
        {{ field(columns, 'feedbackType', 'VARCHAR') }} AS feedback_type,
        {{ field(columns, 'expectingUserFollowup', 'BOOLEAN') }} AS is_expecting_user_followup,
        {{ json_array(columns, 'basedOn') }} AS based_on,
        {{ field(columns, 'createdAt', 'TIMESTAMP') }} AS created_at,
        {{ field(columns, 'conversationUpdatedAt', 'TIMESTAMP') }} AS conversation_updated_at,
        {{ field(columns, 'extra', json_type()) }} AS extra
    FROM {{ source('fini', 'bot_requests') }}
)

SELECT
    landed.conversation_id || '/' || landed.position AS bot_request_key,
    landed.*
FROM landed
INNER JOIN {{ ref('stg_fini__conversations') }} AS conversation
    ON conversation.conversation_id = landed.conversation_id
-- An older row was part of the conversation once, and is no more.
WHERE landed.conversation_updated_at >= conversation.updated_at
