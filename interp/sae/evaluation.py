"""How good an autoencoder is: as a code (sums over a whole stream), inside a model (splicing), and against a known dictionary.

All sums are float64 over the whole evaluation set, so the figures do not depend on how it was cut into batches.
Explained variance alone ranks autoencoders badly: published work recovers 9 % of true features at 71 %. Report more than it.

Must not know: how the autoencoder was trained, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp import stats
from interp.errors import TrainingError
from interp.models.hooked import Edit, Model
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, rows_of
from interp.text.packing import TokenBatch


@dataclass(frozen=True)
class CodeQuality:
    """Scores over N tokens; x an activation, x̂ its reconstruction, f its codes.

    l0: mean over tokens of #{j : f_j ≠ 0}.
    fvu: Σ‖x - x̂‖² / (Σ‖x‖² - N‖mean x‖²); explained variance is 1 - fvu.
    l2_ratio: mean of ‖x̂‖ / ‖x‖, over tokens with x ≠ 0.
    bias: relative reconstruction bias, E‖x̂‖² / E[x·x̂]; 1 is best, below 1 the reconstruction shrinks.
    density: share of the tokens on which each latent fires. dead: share of latents that never fired on these tokens.
    """

    tokens: int
    l0: float
    fvu: float
    l2_ratio: float
    bias: float
    density: Float[np.ndarray, "d_sae"]
    dead: float

    @property
    def explained_variance(self) -> float:
        """1 - fvu."""
        return 1 - self.fvu


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, batches: Batches, *, hook: str | None = None) -> CodeQuality:
    """Scores `sae` on a stream of activation batches. Raises TrainingError for an empty stream or rows of another size."""
    tokens, nonzero = 0, 0
    sums = torch.zeros(5, dtype=torch.float64)
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    fired = torch.zeros(sae.d_sae, dtype=torch.int64)
    for batch in batches:
        rows = sae.checked(rows_of(batch, hook)).to(sae.W_dec.device)
        codes = sae.encode(rows)
        x, guess = rows.double().cpu(), sae.decode(codes).double().cpu()
        length = x.norm(dim=1)
        ratio = torch.where(length > 0, guess.norm(dim=1) / length, 0.0).sum()
        sums += torch.stack([(x - guess).square().sum(), x.square().sum(), guess.square().sum(), (x * guess).sum(), ratio])
        nonzero += int((length > 0).sum())
        total += x.sum(0)
        fired += (codes != 0).sum(0).cpu()
        tokens += len(rows)
    if tokens == 0:
        raise TrainingError(
            "there are no activations to evaluate on; check the corpus and the hook, or pass a list if the iterator was used up"
        )
    error, squares, squares_hat, product, ratio = sums.tolist()
    spread = squares - float(total.square().sum()) / tokens
    return CodeQuality(
        tokens=tokens,
        l0=int(fired.sum()) / tokens,
        fvu=error / spread if spread > 0 else float("nan"),
        l2_ratio=ratio / max(nonzero, 1),
        bias=squares_hat / product if product else float("nan"),
        density=(fired.double() / tokens).numpy(),
        dead=float((fired == 0).double().mean()),
    )


@dataclass(frozen=True)
class Recovered:
    """What is left of a model when one hook's activations are replaced, over `tokens` predicted tokens; losses in nats.

    Loss recovered is (L_zero - L) / (L_zero - L_original): 1 for no harm, 0 for as bad as zero ablation. For cross-entropy L is
    the mean loss; for KL it is the divergence from the original predictions, so that L_original = 0.
    ce, kl: by the autoencoder. ce_mean, kl_mean: the control, the mean activation in place of every activation.
    losses: mean cross-entropy under "original", "autoencoder", "mean", "zero".
    Intervals: bootstrap over documents.
    """

    tokens: int
    ce: stats.Estimate
    kl: stats.Estimate
    ce_mean: stats.Estimate
    kl_mean: stats.Estimate
    losses: dict[str, float]


@torch.no_grad()
def loss_recovered(model: Model, sae: SparseAutoencoder, hook: str, batches: Sequence[TokenBatch], *, seed: int = 0) -> Recovered:
    """Splices the autoencoder into `model` at `hook` and measures what its predictions lose.

    Only activations of text tokens are replaced: BOS and padding keep theirs, in every condition. A position counts when the
    token it predicts is text. Activations with a head axis are laid side by side, as `harvest` does.

    Raises TrainingError when no token of text is predicted, HookError for unknown hooks.
    """
    mean = _mean_activation(model, hook, batches)
    replacements: dict[str, Callable[[Tensor], Tensor]] = {
        "autoencoder": lambda rows: sae(rows),
        "mean": lambda rows: mean.expand_as(rows),
        "zero": torch.zeros_like,
    }
    ce: dict[str, list[Tensor]] = {name: [] for name in ("original", *replacements)}
    kl: dict[str, list[Tensor]] = {name: [] for name in replacements}
    documents: list[Tensor] = []
    for batch in batches:
        predicted = batch.is_text[:, 1:]
        targets = batch.tokens[:, 1:][predicted]
        documents.append(batch.document[:, 1:][predicted])
        original = _log_probabilities(model, batch, [])
        ce["original"].append(F.nll_loss(original, targets, reduction="none"))
        for name, replace in replacements.items():
            changed = _log_probabilities(model, batch, [Edit(hook, _on_text(replace, batch.is_text))])
            ce[name].append(F.nll_loss(changed, targets, reduction="none"))
            kl[name].append((original.exp() * (original - changed)).sum(-1))
    groups = torch.cat(documents).numpy()
    if len(groups) == 0:
        raise TrainingError("no token of text is predicted in these batches; use longer documents")
    flat_ce = {name: torch.cat(parts).numpy() for name, parts in ce.items()}
    flat_kl = {name: torch.cat(parts).numpy() for name, parts in kl.items()} | {"original": np.zeros(len(groups))}
    estimates = {
        f"{metric}{suffix}": _share(losses["zero"] - losses[name], losses["zero"] - losses["original"], groups, seed=seed)
        for metric, losses in (("ce", flat_ce), ("kl", flat_kl))
        for name, suffix in (("autoencoder", ""), ("mean", "_mean"))
    }
    return Recovered(len(groups), **estimates, losses={name: float(values.mean()) for name, values in flat_ce.items()})


def recovery(
    decoder: Float[Tensor, "d_sae d"], truth: Float[Tensor, "feature d"], *, threshold: float = 0.9
) -> tuple[float, float]:
    """Mean over true features of the best cosine with a decoder row (MMCS), and the share with one above `threshold`."""
    best = (F.normalize(truth.detach().double(), dim=1) @ F.normalize(decoder.detach().double(), dim=1).T).amax(1)
    return float(best.mean()), float((best > threshold).double().mean())


def _on_text(replace: Callable[[Tensor], Tensor], is_text: Tensor) -> Callable[[Tensor], Tensor]:
    def apply(activation: Tensor) -> Tensor:
        rows = activation[is_text].flatten(1)
        changed = activation.clone()
        changed[is_text] = replace(rows).to(activation.dtype).reshape(-1, *activation.shape[2:])
        return changed

    return apply


def _log_probabilities(model: Model, batch: TokenBatch, edits: list[Edit]) -> Float[Tensor, "token d_vocab"]:
    """In float64, at the positions whose next token is text."""
    inputs: dict[str, Any] = (
        {"attention_mask": batch.attention_mask} if bool(batch.is_padding.any()) and model.kind != "decoder" else {}
    )
    logits = model.run(batch.tokens, edits=edits, logits=True, **inputs).logits
    return logits[:, :-1][batch.is_text[:, 1:]].double().log_softmax(-1)


def _mean_activation(model: Model, hook: str, batches: Sequence[TokenBatch]) -> Float[Tensor, "d"]:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        rows = model.run(batch.tokens, read=[hook]).activations[hook][batch.is_text].flatten(1)
        total = total + rows.double().sum(0)
        count += len(rows)
    if count == 0:
        raise TrainingError("these batches hold no text; check the corpus")
    return (total / count).float()


def _share(numerator: np.ndarray, denominator: np.ndarray, groups: np.ndarray, *, seed: int) -> stats.Estimate:
    """Σ numerator / Σ denominator, resampling whole documents."""
    _, index = np.unique(groups, return_inverse=True)
    return stats.ratio(np.bincount(index, numerator), np.bincount(index, denominator), seed=seed)
