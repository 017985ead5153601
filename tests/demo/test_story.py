import io

import pytest
from rich.console import Console

from dure.demo import cast, evidence
from dure.demo.cast import PLAYERS
from dure.demo.screen import PlainScreen, screen
from dure.demo.story import FILES, OWNERS_FILE, EpochLog
from dure.draft import Draft, requests
from dure.jobfile import parse
from dure.views import LogChunk

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    "file", [file for _, file in (*FILES, OWNERS_FILE)], ids=lambda file: file.name
)
def test_each_job_file_makes_a_job_in_the_shape_that_users_write(file):
    (draft,) = parse(file.read_text(), file.parent, source=file.name)
    environ = {"PSEUDONYM_KEY": "k"}
    (request,) = requests((draft.over(Draft(project="p")),), environ, ["0" * 64])
    assert draft.workdir.samefile(file.parent)
    assert (file.parent / request.spec.command[1]).is_file()


def test_every_player_holds_one_allocation_and_the_startup_pays_a_tenth():
    held = cast.allocations(NOW_MS)
    assert [one.project for one in held] == [player.id for player in PLAYERS]
    assert {one.project: one.subsidy_milli for one in held if one.subsidy_milli} == {
        cast.STARTUP.id: 900
    }
    assert [cast.terms(one).split(",")[0] for one in held] == [
        "200 credits for 30 days",
        "50 credits for 30 days",
        "8 B200 for 30 days",
        "100 credits for 30 days",
    ]


def test_a_training_is_at_the_last_epoch_that_its_log_says_is_checkpointed():
    log = EpochLog(client=None, job="j-1")
    text = "rank 0 of 2: started anew\nepoch 1: loss 1.0, checkpoint written\nepoch 2: loss 0.4"
    for offset, part in enumerate((text[:30], text[30:70], text[70:])):
        chunk = LogChunk(
            task_index=0, attempt_number=1, rank=0, offset=offset, end=offset + 1, text=part
        )
        log._read(chunk)
    assert log.epoch == 1
    assert evidence.epochs(["epoch 12: loss 0.1, checkpoint written", "epoch 13: loss"]) == [12]


def test_no_terminal_gets_plain_lines():
    stream = io.StringIO()
    with screen(Console(file=stream, width=100)) as shown:
        assert isinstance(shown, PlainScreen)
        shown.say("Starting")
        shown.show(())
    assert stream.getvalue().endswith("s  Starting\n")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_what_was_done_above_what_is_done():
    stream = io.StringIO()
    with screen(Console(file=stream, width=100, force_terminal=True)) as shown:
        shown.say("First")
        shown.say("Second")
    text = stream.getvalue()
    assert text.index("First") < text.rindex("Second")
    assert "reason now" in text
