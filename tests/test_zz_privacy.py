"""Last of all: a search through everything that the whole suite wrote.

Its name puts it behind all other tests. Run alone it makes a run of its own to search.
"""

from __future__ import annotations

from tests.conftest import WRITTEN
from tests.sandbox import API_KEY, Fault, Sandbox, make_conversations
from tests.support import MARKER, config_for, run_command, run_tap


def test_no_key_and_no_text_was_ever_written() -> None:
    with Sandbox(make_conversations(60, marker=MARKER)) as sandbox:
        output = run_tap(config_for(sandbox))
        assert MARKER in str(output.records("bot_requests")), "there is something to be found"
        assert MARKER not in str(output.states)
        sandbox.faults.append(Fault("wrong_shape", status=400, body=b'{"message": "bad"}'))
        run_command(
            "--config=ENV", env={"TAP_FINI_API_KEY": API_KEY, "TAP_FINI_API_URL": sandbox.url}
        )
    assert len(WRITTEN) > 20, "the log was searched"
    assert any("Fini refused the request (400)" in line for line in WRITTEN)
    found = [line[:200] for line in WRITTEN if API_KEY in line or MARKER in line]
    assert found == []
