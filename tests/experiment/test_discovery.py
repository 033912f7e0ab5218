"""Experiments are found by any of their names, without running them, and a script that is none says what it lacks."""

import pytest

from interp.errors import ConfigError
from interp.experiment import discovery


@pytest.mark.parametrize("name", ["E90", "e90", "e90_toy_sum", "toy_sum", "toy-sum", "e90_toy_sum.py"])
def test_an_experiment_answers_to_its_id_and_its_names(scripts, name):
    found = discovery.find(name, scripts)
    assert (found.id, found.name, found.title) == ("E90", "e90_toy_sum", "Does two plus two make four? (Peano 1889)")


def test_a_script_is_found_by_its_path(scripts):
    assert discovery.find(str(scripts / "e90_toy_sum.py")).id == "E90"


def test_a_misspelt_name_brings_the_near_ones(scripts):
    with pytest.raises(ConfigError, match=r"no experiment 'toy_sun' \(did you mean toy_sum.*\?\); `interp list` shows all 1"):
        discovery.find("toy_sun", scripts)


def test_listing_runs_nothing(scripts):
    (scripts / "e91_boom.py").write_text('"""Boom?"""\nID = "E91"\nraise RuntimeError("imported")\n')
    assert [each.id for each in discovery.discover(scripts)] == ["E90", "E91"]


def test_helpers_with_an_underscore_are_no_experiments(scripts):
    (scripts / "_shared.py").write_text("x = 1\n")
    assert len(discovery.discover(scripts)) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1\n", "lacks a docstring whose first line is the question it asks and an ID"),
        ('"""Why?"""\n', 'lacks an ID such as ID = "E08"'),
        ("def\n", "is not Python"),
    ],
)
def test_a_script_that_is_no_experiment_says_what_it_lacks(scripts, text, fault):
    (scripts / "e92_other.py").write_text(text)
    with pytest.raises(ConfigError, match=f"e92_other.py.* {fault}"):
        discovery.discover(scripts)


def test_an_id_is_taken_once(scripts):
    (scripts / "e93_copy.py").write_text('"""Again?"""\nID = "E90"\n')
    with pytest.raises(ConfigError, match=r"e90_toy_sum.py and e93_copy.py both have ID='E90'"):
        discovery.discover(scripts)


def test_an_imported_script_says_all_its_faults_at_once(scripts):
    (scripts / "e94_bad.py").write_text(
        '"""Bad?"""\nfrom dataclasses import dataclass\nID = "E94"\n@dataclass\nclass Config:\n    n: int\nQUICK = [1]\n'
    )
    with pytest.raises(
        ConfigError, match=r"Config needs a default for n; run\(config, report\) is missing; QUICK must be a dict"
    ):
        discovery.load(discovery.find("E94", scripts))


def test_all_experiments_that_ship_can_be_read_and_have_quick_settings_that_exist():
    from interp.experiment import settings

    found = discovery.discover()
    assert found
    for experiment in found:
        parts = discovery.load(experiment)
        assert settings.overlay(parts.config(), parts.quick, source=experiment.id) is not None
