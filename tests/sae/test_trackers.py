"""TensorBoard and W&B get every figure of every run; where they are not installed, the error says how to mend it."""

import sys
from types import SimpleNamespace

import pytest

from interp.errors import ConfigError
from interp.sae import trackers

ROW = {"step": 50, "loss": 0.5}


def test_tensorboard_gets_every_figure_by_step(monkeypatch, tmp_path):
    seen = []

    class SummaryWriter:
        def __init__(self, log_dir):
            seen.append(log_dir)

        def add_scalar(self, tag, value, step):
            seen.append((tag, value, step))

        def flush(self):
            seen.append("flushed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    trackers.tensorboard(tmp_path)("a", ROW)
    assert seen == [str(tmp_path), ("a/step", 50, 50), ("a/loss", 0.5, 50), "flushed"]


def test_weights_and_biases_gets_every_figure(monkeypatch):
    seen = []

    def init(**settings):
        seen.append(settings)
        return SimpleNamespace(log=seen.append)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    trackers.weights_and_biases("sweeps", name="first", offline=True)("a", ROW)
    assert seen == [{"project": "sweeps", "name": "first", "mode": "offline"}, {"a/step": 50, "a/loss": 0.5}]


@pytest.mark.parametrize(
    ("module", "make", "message"),
    [
        ("torch.utils.tensorboard", lambda: trackers.tensorboard("logs"), "TensorBoard is not installed"),
        ("wandb", lambda: trackers.weights_and_biases("p"), "Weights & Biases is not installed"),
    ],
)
def test_a_missing_extra_says_what_to_install(monkeypatch, module, make, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{message}; run pip install 'interp\[tracking\]'"):
        make()
