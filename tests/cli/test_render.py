"""What reaches a terminal."""

from __future__ import annotations

import pytest

from dure.cli.render import terminal_text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("loss 0.1\n\tepoch 2\r", "loss 0.1\n\tepoch 2\r"),
        ("\x1b[1;32mok\x1b[0m", "\x1b[1;32mok\x1b[0m"),
        ("\x1b]52;c;cm0=\x07", "\ufffd]52;c;cm0=\ufffd"),
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("\x9b2J \x7f \x00", "\ufffd2J \ufffd \ufffd"),
        ("손글씨 \u202e", "손글씨 \u202e"),
    ],
)
def test_a_log_colours_a_terminal_and_does_nothing_else_to_it(written: str, shown: str):
    assert terminal_text(written) == shown
