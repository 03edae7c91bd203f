-- Every conversation and every bot request is counted on one day, once.
WITH counted AS (
    SELECT sum(conversations) AS conversations, sum(bot_requests) AS bot_requests
    FROM {{ ref('daily_metrics') }}
),

present AS (
    SELECT count(*) AS conversations, sum(turns) AS bot_requests
    FROM {{ ref('conversations') }}
    WHERE created_date IS NOT NULL
)

SELECT *
FROM counted, present
WHERE
    coalesce(counted.conversations, 0) <> present.conversations
    OR coalesce(counted.bot_requests, 0) <> coalesce(present.bot_requests, 0)
