"""Settings come from defaults, QUICK, a file and flags, in this order, and what does not fit is named."""

import dataclasses
import os

import pytest

from interp.errors import ConfigError
from interp.experiment import discovery, flags, settings


@pytest.fixture
def ask(toy):
    definition = discovery.load(toy)
    return lambda *argv: flags.parse(toy, definition, argv, prog="interp run E90")


def test_flags_come_from_the_fields(ask):
    request = ask("--addend", "3", "--kind", "crash", "--sizes", "4", "5", "--optimiser.learning-rate", "0.5", "--seed", "7")
    config = request.config
    assert (config.addend, config.kind, config.sizes, config.optimiser.learning_rate, config.seed) == (3, "crash", (4, 5), 0.5, 7)
    assert request.device == "cpu"


def test_flags_override_the_file_and_the_file_overrides_quick(ask, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("sizes: [8, 9]\naddend: 5\noptimiser: {learning_rate: 1e-2}\nplace: /tmp\n")
    config = ask("--quick", "--config", str(file), "--addend", "6").config
    assert (config.addend, config.sizes, config.place) == (6, (8, 9), settings.Path("/tmp"))
    assert (config.optimiser.learning_rate, config.optimiser.steps) == (0.01, 3)


def test_the_settings_a_run_leaves_behind_make_the_same_run(ask, tmp_path):
    import yaml

    before = ask("--sizes", "3", "1", "--note", "a: b").config
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings.plain(before)))
    assert ask("--config", str(file)).config == before


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["--adend", "3"], r"unknown flag --adend \(did you mean --addend\?\); `interp run E90 --help` lists all flags"),
        (["--addend", "three"], r"--addend.*three"),
        (["--kind", "product"], r"invalid choice 'product' for argument '--kind'. Expected one of \('sum'"),
        (["--seed"], r"--seed"),
        (["stray"], r"unexpected argument stray"),
        (["--device", "cuda"], r"E90 runs on the CPU only, and --device is cuda"),
        (["--device", "tpu"], r"tpu"),
    ],
)
def test_a_flag_that_does_not_fit_gives_one_line(ask, argv, fault):
    with pytest.raises(ConfigError, match=fault) as error:
        ask(*argv)
    assert "\n" not in str(error.value) and "│" not in str(error.value)


def test_the_file_names_all_its_faults_at_once(ask, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("adend: 3\nkind: product\noptimiser: {step: 3}\nsizes: [a]\nseed: true\n")
    with pytest.raises(ConfigError) as error:
        ask("--config", str(file))
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "unknown setting adend (did you mean addend?)" in message
    assert "kind='product' should be one of 'sum', 'crash'" in message
    assert "unknown setting optimiser.step (did you mean steps?)" in message
    assert "sizes=['a'] should be tuple[int, ...]" in message
    assert "seed=True should be int" in message


@pytest.mark.parametrize(
    ("text", "fault"), [("- 1\n", "holds a list"), ("a: [", "is not YAML"), (None, "cannot read the settings in")]
)
def test_a_file_that_is_no_settings_says_so(ask, tmp_path, text, fault):
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        ask("--config", str(file))


def test_quick_settings_that_do_not_exist_are_an_error(toy):
    definition = dataclasses.replace(discovery.load(toy), quick={"stepps": 3})
    with pytest.raises(ConfigError, match="QUICK in e90_toy_sum.py: unknown setting stepps"):
        flags.parse(toy, definition, ["--quick"], prog="x")


def test_the_runner_keeps_its_own_flags(toy):
    config = dataclasses.make_dataclass("Config", [("out", str, "here")])
    with pytest.raises(ConfigError, match="Config has out, which the runner has too"):
        flags.parse(toy, discovery.Definition(config=config, run=print), [], prog="x")


def test_a_config_without_seed_refuses_one(toy):
    config = dataclasses.make_dataclass("Config", [("n", int, 1)])
    definition = discovery.Definition(config=config, run=print)
    assert flags.parse(toy, definition, ["--seed", "0"], prog="x").config.n == 1
    with pytest.raises(ConfigError, match="E90 draws nothing at random and takes no --seed"):
        flags.parse(toy, definition, ["--seed", "1"], prog="x")


def test_auto_becomes_a_device_before_the_experiment_sees_it(toy):
    config = dataclasses.make_dataclass("Config", [("device", str, "auto")])
    request = flags.parse(toy, discovery.Definition(config=config, run=print), [], prog="x")
    assert request.device == request.config.device != "auto"


def test_a_device_that_is_not_there_is_named():
    import torch

    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ConfigError, match=rf"--device {missing} is not on this machine .* use --device auto"):
        flags.resolve_device(missing)


def test_the_hash_follows_the_settings_and_nothing_else(ask):
    hashes = [
        settings.config_hash(ask(*argv).config) for argv in ([], ["--out", "x"], ["--seed", "1"], ["--optimiser.steps", "9"])
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_help_shows_the_defaults_that_hold_under_quick(ask, capsys):
    with pytest.raises(SystemExit) as end:
        ask("--quick", "--help")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "Does two plus two make four?" in said
    assert "--optimiser.steps INT" in said and "(default: 3)" in said
    assert "what is added to two" in said
    assert os.linesep in said
