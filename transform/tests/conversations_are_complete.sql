-- A conversation without all of its bot requests: a load that was stopped, which the next one mends.
{{ config(severity='warn') }}

SELECT conversation_id, bot_request_count, turns
FROM {{ ref('conversations') }}
WHERE NOT is_complete
