"""What landed, as a picture of a terminal: the README's."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tests.demo import terminal
from tests.demo.first_look import query

if TYPE_CHECKING:
    from tests.demo.first_look import Landed
    from tests.demo.pipeline import Pipeline

WIDTH = 118

# What every font has: the picture is not to depend on which ones its reader has.
QUERIES = {
    "conversations": """
        SELECT id, source, escalation, feedbacktype, botrequestcount,
               left(updatedat::VARCHAR, 19) AS updatedat
        FROM conversations
        WHERE id IN ({ids})
        ORDER BY createdat
    """,
    "bot_requests": """
        SELECT conversationid, position, question, answer
        FROM bot_requests
        WHERE conversationid IN ({ids})
        ORDER BY createdat
    """,
}
IDS = r"""
    SELECT c.id
    FROM conversations AS c
    JOIN bot_requests AS b ON b.conversationid = c.id
    WHERE c.feedbacktype IS NOT NULL
    GROUP BY c.id, c.createdat
    HAVING
        count(*) BETWEEN 2 AND 3
        AND bool_and(regexp_full_match(b.question || b.answer, '[ -~\n]+'))
    ORDER BY c.createdat
    LIMIT 3
"""
SHORT = {"id": 9, "conversationid": 9, "question": 36, "answer": 44}
"""How much of a long text is shown, in characters."""

# Rich's own would fetch a font from the network.
_FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def render(pipeline: Pipeline, landed: Landed) -> str:
    """Return an SVG of a few rows of each table, and of the first look.

    Raises:
        DemoError: the database cannot be read.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    queries = {name: text.format(ids=IDS) for name, text in QUERIES.items()}
    for name, rows in query(pipeline, queries).items():
        table = terminal.table(name)
        for column in rows[0]:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(column, value) for column, value in row.items()))
        console.print(table, "")
    console.print(terminal.groups("Escalation rate by source", landed.channels, "rate"))
    return console.export_svg(title="DuckDB", code_format=_FORMAT, unique_id="fini")


def _cell(column: str, value: object) -> Text:
    text = str(value).replace("\n", " ")
    longest = SHORT.get(column, 40)
    return Text(text if len(text) <= longest else text[: longest - 1] + "…")
