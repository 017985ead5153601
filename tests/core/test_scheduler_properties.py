"""What holds of the scheduler in any small nation, whatever happens there."""

from hypothesis import given, settings

from nations import Clock, Theatre, plays

EXAMPLES = settings(max_examples=150, deadline=None)


@EXAMPLES
@given(plays())
def test_the_referee_finds_nothing(play):
    nation, works, troubles = play
    Clock(Theatre(nation)).play(works, troubles)
