"""The training loop: one pass over a stream of activation batches, one optimizer step per batch.

Must not know: models, text, architectures (an objective is passed in).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, rows_of
from interp.sae.kernels import fast_float32
from interp.sae.objectives import Moment, Objective, Outcome, Reconstruction
from interp.sae.optimizer import RowAdam

RECONSTRUCTION = Reconstruction()
WARMUP = 0.05
"""Share of the steps over which the learning rate rises."""

CALIBRATION = 4096
"""Rows at the head of the stream from which the input scale and the starting b_dec are measured."""


@dataclass
class History:
    """What training went through: one JSON-able row per `log_every` steps.

    Each row covers the steps since the row before: step, tokens (so far), loss, fvu, l0 (mean active latents per token),
    dead (share of latents silent for `dead_after` tokens), learning_rate, tokens_per_second.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, float]:
        """The newest row."""
        return self.rows[-1]

    def table(self) -> pd.DataFrame:
        """One line per row."""
        return pd.DataFrame(self.rows)


def default_learning_rate(d_in: int) -> float:
    """2e-2 · √(64 / d_in): Adam moves every weight by about the rate, and a unit decoder row has weights of about 1/√d_in.

    Share of planted features found (cosine > 0.9) at half this rate, at it, and at twice it or nearly so:
    n = 512, d = 64, k = 3, 2M tokens: .96, .98, .99; n = 2048, d = 256, k = 8, 1M tokens: .95, .99, .99 (with a worse fvu).
    """
    return 2e-2 * math.sqrt(64 / d_in)


def train(
    sae: SparseAutoencoder,
    batches: Batches,
    *,
    steps: int,
    hook: str | None = None,
    learning_rate: float | None = None,
    dead_after: int = 20_000,
    max_gradient_norm: float = 1.0,
    objective: Objective = RECONSTRUCTION,
    log_every: int = 50,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Trains `sae` in place on the first `steps` batches and returns what happened.

    The head of the stream sets the input scale (so that centred inputs have a mean squared norm of 1) and the starting b_dec.
    Adam; the learning rate rises linearly over the first 5 % of the steps and then falls linearly to 0. Decoder rows keep unit
    norm, and the part of their gradient along themselves is removed. The same stream gives the same weights.

    batches: tensors [row d_in], or activation batches, of which `hook` is taken.
    dead_after: tokens without firing after which a latent counts as dead and AuxK trains it.
    progress: called with each row of the history.

    Raises TrainingError for an empty or too short stream, rows of another size, non-finite rows, and a loss that is no number;
    the autoencoder then holds the weights of the last good step.
    """
    if steps < 1:
        raise TrainingError(f"steps={steps} trains nothing; use 1 or more")
    rate = default_learning_rate(sae.d_in) if learning_rate is None else learning_rate
    stream = _calibrated(sae, (_checked(sae, rows_of(batch, hook), index) for index, batch in enumerate(batches)))
    optimizer = RowAdam(sae, unit_decoder=objective.unit_decoder, max_gradient_norm=max_gradient_norm)
    since_fired = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.W_dec.device)
    history, window, tokens, done = History(), _Window(), 0, 0
    with fast_float32(sae.W_dec.device):
        for step, rows in enumerate(islice(stream, steps)):
            scaled = rows * sae.scale
            outcome = objective(sae, scaled, scaled, Moment(step / steps, since_fired >= dead_after, 0.0))
            if not math.isfinite(outcome.loss.item()):
                raise TrainingError(
                    f"the loss became {outcome.loss.item()} at batch {step} (token {tokens}); lower learning_rate={rate:.3g}, "
                    "or look for outliers in that batch"
                )
            outcome.loss.backward()
            optimizer.step(rate * schedule(step, steps))
            since_fired = torch.where(outcome.fired > 0, 0, since_fired + len(rows))
            tokens, done = tokens + len(rows), step + 1
            window.add(outcome, scaled)
            if done % log_every == 0 or done == steps:
                dead = float((since_fired >= dead_after).double().mean())
                at = {"step": done, "tokens": tokens, "dead": dead, "learning_rate": rate * schedule(step, steps)}
                history.rows.append(at | window.close())
                if progress is not None:
                    progress(history.last)
    if done < steps:
        raise TrainingError(f"the stream ended after {done} of {steps} batches; pass steps={done}, or a longer stream")
    return history


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate at one step: a linear rise over `WARMUP` of the steps, a linear fall to 0."""
    return min((step + 1) / max(1.0, WARMUP * steps), (steps - step) / steps)


def _checked(sae: SparseAutoencoder, rows: Tensor, index: int) -> Tensor:
    rows = sae.checked(rows).to(sae.W_dec.device)
    if rows.ndim != 2:
        raise TrainingError(
            f"batch {index} has shape {tuple(rows.shape)}; training wants rows [row d]: flatten batch and position first"
        )
    bad = int((~rows.isfinite()).sum())
    if bad:
        raise TrainingError(
            f"batch {index} holds {bad} non-finite values of {rows.numel()}; drop those rows, or cache the layer in a wider type"
        )
    return rows


@torch.no_grad()
def _calibrated(sae: SparseAutoencoder, stream: Iterator[Tensor]) -> Iterable[Tensor]:
    """Measures scale and mean on the head of the stream, and gives the whole stream back, head included."""
    head: list[Tensor] = []
    while sum(map(len, head)) < CALIBRATION and (rows := next(stream, None)) is not None:
        head.append(rows)
    if not head:
        raise TrainingError(
            "the stream of activations is empty; check the corpus and the hook, or pass a list if the iterator was used up"
        )
    sample = torch.cat(head).double()
    spread = (sample - sample.mean(0)).square().sum(1).mean().sqrt()
    sae.scale.fill_(1.0 if spread == 0 else 1 / float(spread))
    sae.scale_out.copy_(sae.scale)
    sae.b_dec.copy_(sample.mean(0) * sae.scale)
    return chain(head, stream)


class _Window:
    """Sums over the steps since the last row of the history."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._sums: list[Any] = [0, 0, 0.0, 0.0, 0.0, 0.0]

    def add(self, outcome: Outcome, rows: Float[Tensor, "row d"]) -> None:
        new = (
            len(rows),
            int(outcome.fired.sum()),
            outcome.loss.item() * len(rows),
            float(outcome.error.square().sum(dtype=torch.float64)),
            float(rows.square().sum(dtype=torch.float64)),
            rows.sum(0, dtype=torch.float64),
        )
        self._sums = [old + more for old, more in zip(self._sums, new, strict=True)]

    def close(self) -> dict[str, float]:
        """The figures of the window; starts the next one."""
        tokens, active, loss, error, squares, total = self._sums
        spread = squares - float(total.square().sum()) / tokens
        now = time.perf_counter()
        figures = {
            "loss": loss / tokens,
            "fvu": error / spread if spread > 0 else math.nan,
            "l0": active / tokens,
            "tokens_per_second": tokens / (now - self._start),
        }
        self.__init__()
        return figures
