"""Progress goes to stderr, as lines where there is no terminal, and changes nothing."""

import time

from interp.experiment import progress
from interp.experiment.recording import recording, source, stage


def test_the_items_come_through_unchanged_and_short_work_is_silent(capsys):
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is_and_what_is_left(capsys):
    for _ in progress(iter(range(3)), "slow", total=3, every=0.0):
        time.sleep(0.01)
    said = capsys.readouterr()
    assert said.out == ""
    assert "slow: 2 of 3" in said.err and "s left" in said.err


def test_stages_and_sources_belong_to_one_run():
    with recording() as first:
        with stage("one"):
            time.sleep(0.01)
        source("model", "r1")
    with recording() as second, stage("two"):
        pass
    assert [each["stage"] for each in first.stages] == ["one"] and first.stages[0]["seconds"] >= 0.01
    assert first.sources == {"model": "r1"} and second.sources == {}


def test_outside_a_run_nothing_is_kept():
    with stage("alone"):
        source("model", "r1")
    with recording() as notes:
        pass
    assert (notes.stages, notes.sources) == ([], {})
