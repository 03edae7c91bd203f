WITH turns AS (
    SELECT
        conversation_id,
        count(*) AS turns,
        min(created_at) AS first_bot_request_at,
        max(created_at) AS last_bot_request_at,
        sum(CASE WHEN feedback_type = 'thumbs_up' THEN 1 ELSE 0 END) AS thumbs_up,
        sum(CASE WHEN feedback_type = 'thumbs_down' THEN 1 ELSE 0 END) AS thumbs_down,
        sum(CASE WHEN is_answered THEN 0 ELSE 1 END) AS unanswered,
        sum(CASE WHEN knowledge_source_count = 0 THEN 1 ELSE 0 END) AS without_knowledge
    FROM {{ ref('bot_requests') }}
    GROUP BY conversation_id
)

SELECT
    conversation.conversation_id,
    conversation.external_id,
    conversation.user_id,
    conversation.source,
    conversation.channel,
    conversation.is_escalated,
    NOT conversation.is_escalated AS is_deflected,
    conversation.has_links,
    conversation.feedback_type,
    conversation.is_expecting_user_followup,
    conversation.url,
    conversation.categories,
    conversation.created_at,
    CAST(conversation.created_at AS DATE) AS created_date,
    conversation.updated_at,
    turns.first_bot_request_at,
    turns.last_bot_request_at,
    {{ seconds_between('conversation.created_at', 'turns.last_bot_request_at') }} AS duration_seconds,
    CAST(coalesce(turns.turns, 0) AS INTEGER) AS turns,
    CAST(coalesce(turns.thumbs_up, 0) AS INTEGER) AS thumbs_up_bot_requests,
    CAST(coalesce(turns.thumbs_down, 0) AS INTEGER) AS thumbs_down_bot_requests,
    CAST(coalesce(turns.unanswered, 0) AS INTEGER) AS unanswered_bot_requests,
    CAST(coalesce(turns.without_knowledge, 0) AS INTEGER) AS bot_requests_without_knowledge,
    conversation.bot_request_count,
    coalesce(turns.turns, 0) = conversation.bot_request_count AS is_complete
FROM {{ ref('stg_fini__conversations') }} AS conversation
LEFT JOIN turns ON turns.conversation_id = conversation.conversation_id
