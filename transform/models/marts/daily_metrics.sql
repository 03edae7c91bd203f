SELECT
    CAST(created_date AS VARCHAR) || '/' || source AS daily_metrics_key,
    created_date AS metric_date,
    source,
    CAST(count(*) AS INTEGER) AS conversations,
    CAST(sum(CASE WHEN is_escalated THEN 1 ELSE 0 END) AS INTEGER) AS escalated_conversations,
    CAST(sum(CASE WHEN is_deflected THEN 1 ELSE 0 END) AS INTEGER) AS deflected_conversations,
    avg(CAST(CASE WHEN is_escalated THEN 1 ELSE 0 END AS DOUBLE PRECISION)) AS escalation_rate,
    avg(CAST(CASE WHEN is_deflected THEN 1 ELSE 0 END AS DOUBLE PRECISION)) AS deflection_rate,
    CAST(sum(turns) AS INTEGER) AS bot_requests,
    avg(CAST(turns AS DOUBLE PRECISION)) AS turns_per_conversation,
    CAST(sum(unanswered_bot_requests) AS INTEGER) AS unanswered_bot_requests,
    CAST(sum(bot_requests_without_knowledge) AS INTEGER) AS bot_requests_without_knowledge,
    CAST(sum(thumbs_up_bot_requests) AS INTEGER) AS thumbs_up_bot_requests,
    CAST(sum(thumbs_down_bot_requests) AS INTEGER) AS thumbs_down_bot_requests,
    CAST(count(DISTINCT user_id) AS INTEGER) AS users
FROM {{ ref('conversations') }}
WHERE created_date IS NOT NULL
GROUP BY created_date, source
