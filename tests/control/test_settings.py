"""An installation's settings: refused with the name, the value and what would be right."""

from __future__ import annotations

import pytest

from dure import codec
from dure.errors import RefusedError
from dure.settings import Settings


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ('{"tuning": {"half_life_s": 0}}', "half_life_s is 0; it must be from 1 to"),
        ('{"tuning": {"rank_period_s": 0}}', "rank_period_s is 0; it must be from 1 to"),
        ('{"tuning": {"recalls_max": -1}}', "recalls_max is -1; it must be from 0 to"),
        ('{"tuning": {"recall_s": 10000000000}}', "recall_s is 10000000000; it must be from 0"),
        ('{"tuning": {"recall_s": "soon"}}', "recall_s"),
        ('{"tuning": {"recall": 1}}', "recall"),
        ('{"cycle_s": 0}', "cycle_s is 0"),
    ],
)
def test_a_dial_beyond_its_bounds_is_refused(document: str, sentence: str):
    with pytest.raises(RefusedError, match=sentence):
        codec.decode(Settings, document, what="settings.json")


def test_settings_come_back_as_they_were_written():
    assert codec.decode(Settings, codec.encode(Settings())) == Settings()
