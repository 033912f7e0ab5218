"""Rows of a training's history for TensorBoard and Weights & Biases: functions to pass as `progress`. Both are extras.

Must not know: training, autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.errors import ConfigError

Tracker = Callable[[str, dict[str, float]], None]


def tensorboard(directory: str | Path) -> Tracker:
    """Writes each figure of each run as a scalar `run/figure`, by step, below `directory`.

    Raises ConfigError where TensorBoard is not installed.
    """
    writer = _needed("torch.utils.tensorboard", "TensorBoard").SummaryWriter(str(directory))

    def track(run: str, row: dict[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(f"{run}/{name}", value, int(row["step"]))
        writer.flush()

    return track


def weights_and_biases(project: str, *, name: str | None = None, offline: bool = False) -> Tracker:
    """Logs each figure of each run as `run/figure`, beside `run/step`, to one W&B run called `name`.

    offline: keep it in files, to be synced later. Raises ConfigError where wandb is not installed.
    """
    session = _needed("wandb", "Weights & Biases").init(project=project, name=name, mode="offline" if offline else "online")

    def track(run: str, row: dict[str, float]) -> None:
        session.log({f"{run}/{key}": value for key, value in row.items()})

    return track


def _needed(module: str, what: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(f"{what} is not installed; run pip install 'interp[tracking]'") from None
