"""One autoencoder in training: what is set for it (`Run`), what it remembers between steps (`Learner`), what it went through
(`History`).

Must not know: streams, files, models, architectures (an objective is passed in).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Hook
from interp.sae.feeds import Rows
from interp.sae.objectives import Moment, Objective, Outcome, Reconstruction
from interp.sae.optimizer import RowAdam
from interp.sae.resampling import Resampling, resample
from interp.sae.schedules import Schedule, controlled, default_learning_rate
from interp.stats import torch_seed

RECONSTRUCTION = Reconstruction()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One autoencoder and how it is to be trained.

    hook, target: what it reads and what it writes, where batches hold several hooks (`batches.Hook`); target is a transcoder's.
    learning_rate: of Adam, at its height; None for `schedules.default_learning_rate`. schedule: the factor on it.
    sparsity_schedule: the factor on the weight of the sparsity term.
    dead_after: tokens without firing after which a latent counts as dead: AuxK trains it, and resampling renews it.
    resampling: None to leave dead latents to the objective.
    max_gradient_norm: what all gradients together are clipped to.
    """

    sae: SparseAutoencoder
    objective: Objective = RECONSTRUCTION
    hook: Hook = None
    target: Hook = None
    learning_rate: float | None = None
    schedule: Schedule = Schedule()
    sparsity_schedule: Schedule = Schedule(warmup=0.05, decay=0.0)
    dead_after: int = 20_000
    resampling: Resampling | None = None
    max_gradient_norm: float = 1.0

    @property
    def rate(self) -> float:
        """The learning rate at its height."""
        return default_learning_rate(self.sae.d_in) if self.learning_rate is None else self.learning_rate

    def plain(self) -> dict[str, Any]:
        """All settings as plain values, the autoencoder by its shape and activation: what a resumed training must agree in."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass
class History:
    """What training went through: one JSON-able row per `log_every` steps.

    Each row covers the steps since the row before: step, tokens (so far), loss, fvu, l0 (mean active latents per token),
    dead (share of latents silent for `dead_after` tokens), learning_rate and sparsity (weight of the sparsity term) at the last
    step, gradient_norm (mean, before clipping), tokens_per_second, seconds_left.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, float]:
        """The newest row."""
        return self.rows[-1]

    def table(self) -> pd.DataFrame:
        """One line per row."""
        return pd.DataFrame(self.rows)


class Learner:
    """A run under way. `step` takes it one batch further; `state` and `restore` carry it over an interruption, bit for bit."""

    def __init__(self, name: str, run: Run, steps: int) -> None:
        self.name, self.run, self.steps = name, run, steps
        sae, objective = run.sae, run.objective
        self.optimizer = RowAdam(sae, unit_decoder=objective.unit_decoder, max_gradient_norm=run.max_gradient_norm)
        self.history = History()
        self._tokens, self._sparsity = 0, objective.sparsity
        self._since_fired = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.W_dec.device)
        self._fired = torch.zeros_like(self._since_fired)  # since latents were last sorted
        self._window = _Window(sae)

    def step(self, rows: Rows, step: int) -> None:
        """One step of training, the `step`-th from 0. Raises TrainingError for a loss or a gradient that is no number."""
        sae, objective = self.run.sae, self.run.objective
        dead = self._since_fired >= self.run.dead_after
        sparsity = self._sparsity * self.run.sparsity_schedule.at(step, self.steps)
        outcome = objective(sae, rows.inputs, rows.targets, Moment(step / self.steps, dead, sparsity))
        loss = outcome.loss.item()
        self._check(loss, "loss", step)
        outcome.loss.backward()
        norm = self.optimizer.step(self.rate_at(step))
        self._check(norm, "gradient", step)
        self._tokens += len(rows)
        self._since_fired += len(rows)
        self._since_fired.masked_fill_(outcome.fired > 0, 0)
        self._window.add(outcome, rows, loss, norm)
        if objective.target_l0 is not None:
            self._sparsity = controlled(
                self._sparsity, float(outcome.fired.sum()) / len(rows), objective.target_l0, steps=self.steps
            )
        self._renew(rows, outcome, step)
        self._resort(outcome, step)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.run.rate * self.run.schedule.at(step, self.steps)

    def report(self, done: int) -> dict[str, float]:
        """Closes the window of the last steps: its figures, as a new row of the history."""
        row = {
            "step": done,
            "tokens": self._tokens,
            "dead": float((self._since_fired >= self.run.dead_after).double().mean()),
            "learning_rate": self.rate_at(done - 1),
            "sparsity": self._sparsity * self.run.sparsity_schedule.at(done - 1, self.steps),
        }
        row |= self._window.close()
        row["seconds_left"] = (self.steps - done) * self._tokens / done / row["tokens_per_second"]
        self.history.rows.append(row)
        return row

    def finish(self) -> None:
        """What is left to do once all steps are taken."""
        if not self.run.objective.unit_decoder:
            self.run.sae.absorb_decoder_norms()

    def state(self) -> dict[str, Any]:
        """All that changes while training, as a tree of tensors and plain values."""
        return {
            "sae": self.run.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "since_fired": self._since_fired,
            "fired": self._fired,
            "window": self._window.sums,
            "tokens": self._tokens,
            "sparsity": self._sparsity,
            "history": self.history.rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        sae = self.run.sae
        for name in ("scale", "scale_out"):  # their shape follows the parts, and this autoencoder has not measured them
            setattr(sae, name, state["sae"][name].to(sae.W_dec.device))
        sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        for ours, theirs in ((self._since_fired, state["since_fired"]), (self._fired, state["fired"])):
            ours.copy_(theirs)
        device = sae.W_dec.device
        self._window.sums = {
            name: total.to(device) if isinstance(total, Tensor) else total for name, total in state["window"].items()
        }
        self._tokens, self._sparsity = state["tokens"], state["sparsity"]
        self.history.rows[:] = state["history"]

    def _renew(self, rows: Rows, outcome: Outcome, step: int) -> None:
        resampling = self.run.resampling
        if resampling is None or not resampling.due(step, self.steps):
            return
        dead = self._since_fired >= self.run.dead_after
        renewed = resample(self.run.sae, rows.inputs, outcome.error, dead, seed=torch_seed(step, "resampling"))
        self.optimizer.reset(renewed)
        self._since_fired[renewed] = 0

    def _resort(self, outcome: Outcome, step: int) -> None:
        every = self.run.objective.resort_every
        if every is None:
            return
        self._fired += outcome.fired
        if (step + 1) % every == 0:
            order = self._fired.argsort(descending=True, stable=True)
            self.run.sae.permute(order)
            self.optimizer.permute(order)
            self._since_fired = self._since_fired[order]
            self._fired.zero_()

    def _check(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} of {self.name} became {value} at batch {step} (token {self._tokens}); "
                f"lower learning_rate={self.run.rate:.3g}, or look for outliers in that batch"
            )


class _Window:
    """Sums over the steps since the last row of the history; what a batch gives as tensors is summed on its device."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=sae.W_dec.device)

        self.sums: dict[str, Any] = dict.fromkeys(("steps", "rows", "loss", "norm"), 0.0)
        self.sums |= {"active": zeros(), "error": zeros(), "squares": zeros(), "total": zeros(sae.d_out)}
        self._start = time.perf_counter()

    def add(self, outcome: Outcome, rows: Rows, loss: float, norm: float) -> None:
        n, sums = len(rows), self.sums
        sums["steps"] += 1
        sums["rows"] += n
        sums["loss"] += loss * n
        sums["norm"] += norm
        sums["active"] += outcome.fired.sum()
        sums["error"] += torch.linalg.vector_norm(outcome.error).double().square()
        sums["squares"] += rows.squares
        sums["total"] += rows.total

    def close(self) -> dict[str, float]:
        """The figures of the window; starts the next one."""
        rows, now = self.sums["rows"], time.perf_counter()
        spread = float(self.sums["squares"] - self.sums["total"].square().sum() / rows)
        figures = {
            "loss": self.sums["loss"] / rows,
            "fvu": float(self.sums["error"]) / spread if spread > 0 else math.nan,
            "l0": float(self.sums["active"]) / rows,
            "gradient_norm": self.sums["norm"] / self.sums["steps"],
            "tokens_per_second": rows / (now - self._start),
        }
        self.sums = {name: total * 0 for name, total in self.sums.items()}
        self._start = now
        return figures


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it: objects by their class and their plain attributes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, nn.Module):
        inside = {name: item for name, item in vars(value).items() if not name.startswith("_") and name != "training"}
        inside |= {"parameters": [name for name, _ in value.named_parameters()], **dict(value.named_children())}
    else:
        inside = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
    return {"class": type(value).__name__} | {name: _plain(item) for name, item in inside.items()}
