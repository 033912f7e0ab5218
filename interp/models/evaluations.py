"""How right and how sure a model's answers are: what is measured of its logits on a batch while it is trained, and after.

Logits are a model's whole answer to the batch's tokens. Only targets that count are told of, [target], row by row.

Must not know: modules, optimisers, hooks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import TrainingError
from interp.models.batches import Batch


def losses(
    logits: Float[Tensor, "batch pos d_vocab"], batch: Batch, *, label_smoothing: float = 0.0
) -> Float[Tensor, "batch target"]:
    """Cross-entropy of every target, in nats, whether it counts or not.

    label_smoothing: ε of Szegedy et al. 2016 (arXiv:1512.00567, §7), spread over all tokens, the right one among them.
    """
    targets = batch.targets if batch.targets.ndim == 2 else batch.targets.transpose(1, 2)
    return F.cross_entropy(_asked(logits, batch).transpose(1, 2), targets, reduction="none", label_smoothing=label_smoothing)


def mean_loss(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> float:
    """Mean cross-entropy, in nats."""
    return float(losses(logits, batch)[_counted(batch)].mean())


def right(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> Bool[Tensor, " target"]:
    """Whether the largest logit is that of the token asked for. Raises TrainingError where probabilities are asked for."""
    return (_asked(logits, batch).argmax(-1) == _tokens(batch))[_counted(batch)]


def accuracy(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> float:
    """Share of targets that are `right`."""
    return float(right(logits, batch).double().mean())


def gaps(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> Float[Tensor, " target"]:
    """The right logit above the mean of all others. Raises TrainingError where probabilities are asked for."""
    logits = _asked(logits, batch)
    of_right = logits.gather(-1, _tokens(batch)[..., None])[..., 0]
    others = (logits.sum(-1) - of_right) / (logits.shape[-1] - 1)
    return (of_right - others)[_counted(batch)]


def optimal_gap(d_vocab: int, label_smoothing: float) -> float:
    """ln(1 + K(1 − ε)/ε): the right logit above the others where smoothed cross-entropy over K tokens is least.

    The softmax must give the right token 1 − ε + ε/K and every other ε/K; the gap is the logarithm of their ratio, and infinite
    without smoothing.
    """
    return math.log(1 + d_vocab * (1 - label_smoothing) / label_smoothing) if label_smoothing else math.inf


def calibration_error(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch, *, bins: int = 10) -> float:
    """Σ over even bins of confidence of (share of answers) · |mean confidence − share right|.

    Guo et al. 2017 (arXiv:1706.04599, §2). Raises TrainingError where probabilities are asked for.
    """
    confidence = _asked(logits, batch).softmax(-1).double().amax(-1)[_counted(batch)]
    which = (confidence * bins).long().clamp_max(bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64).index_add(0, which, confidence - right(logits, batch).double())
    return float(excess.abs().sum() / len(confidence))


def _asked(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> Float[Tensor, "batch target d_vocab"]:
    return logits[:, : batch.targets.shape[1]]


def _tokens(batch: Batch) -> Int[Tensor, "batch pos"]:
    if batch.targets.ndim != 2:
        raise TrainingError("this batch asks for probabilities, which no single token gets right; measure its loss")
    return batch.targets


def _counted(batch: Batch) -> Bool[Tensor, "batch pos"]:
    return torch.ones(batch.targets.shape[:2], dtype=torch.bool) if batch.counted is None else batch.counted
