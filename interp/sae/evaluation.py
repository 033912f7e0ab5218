"""How good an autoencoder is: as a code, by sums over a whole stream, and inside a model, by splicing.

All sums are float64 over the whole evaluation set, so the figures do not depend on how it was cut into batches. Explained
variance alone ranks autoencoders badly: report more than it. `recovery` scores against a known dictionary.

Must not know: how the autoencoder was trained, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp import stats
from interp.errors import HookError, TrainingError
from interp.models.hooked import Edit, Model
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, Hook, pair_of
from interp.sae.splicing import edit_rows
from interp.text.packing import TokenBatch

UNITS = 256
"""Independent units that intervals resample: documents, dealt into so many groups where there are more of them."""

BLOCK = 256
"""Rows of a stream without documents that hang together: each such stretch goes into one unit."""


@dataclass(frozen=True)
class CodeQuality:
    """Scores over N tokens; x an activation (a transcoder's target), x̂ its reconstruction, f the codes.

    l0: mean over tokens of #{j : f_j ≠ 0}.
    fvu: Σ‖x - x̂‖² / (Σ‖x‖² - N‖mean x‖²); explained variance is 1 - fvu.
    parts: fvu of each part of the autoencoder, by name: of the layers or models that a crosscoder reads.
    l2_ratio: mean of ‖x̂‖ / ‖x‖, over tokens with x ≠ 0.
    bias: relative reconstruction bias, E‖x̂‖² / E[x·x̂]; 1 is best, below 1 the reconstruction shrinks.
    density: share of the tokens on which each latent fires; density_error: its standard error.
    dead: share of latents that never fired in a window of `tokens` tokens, these.
    Intervals and errors: over documents where the batches name them, over stretches of `BLOCK` rows where they do not; those of
    the fvu hold the mean activation fixed.
    """

    tokens: int
    l0: stats.Estimate
    fvu: stats.Estimate
    parts: dict[str, stats.Estimate]
    l2_ratio: stats.Estimate
    bias: stats.Estimate
    density: Float[np.ndarray, "d_sae"]
    density_error: Float[np.ndarray, "d_sae"]
    dead: float

    @property
    def explained_variance(self) -> stats.Estimate:
        """1 - fvu."""
        return stats.Estimate(1 - self.fvu.value, 1 - self.fvu.high, 1 - self.fvu.low, self.fvu.n)


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, batches: Batches, *, hook: Hook = None, target: Hook = None, seed: int = 0) -> CodeQuality:
    """Scores `sae` on a stream of activation batches, or of pairs (inputs, targets).

    hook, target: what it reads and what it stands for, where batches hold several hooks; `target` is `hook` by default.
    Raises TrainingError for an empty stream or rows of another size.
    """
    sums = _Sums(sae)
    for batch in batches:
        inputs, targets = pair_of(batch, hook, target)
        rows = sae.checked(inputs).to(sae.W_dec.device)
        codes = sae.encode(rows)
        guess = sae.decode(codes) if sae.W_skip is None else sae(rows)
        sums.add(targets.double().cpu(), guess.double().cpu(), (codes != 0).cpu(), getattr(batch, "document", None))
    return sums.quality(seed)


class _Sums:
    """Running sums of every unit: [unit column]."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self._parts, self._rows = dict(sae.parts), 0
        sizes = torch.tensor([0, *self._parts.values()]).cumsum(0).tolist()
        self._slices = [slice(*ends) for ends in zip(sizes, sizes[1:], strict=False)]
        zeros = torch.zeros(UNITS, dtype=torch.float64)
        self._scalars = {name: zeros.clone() for name in ("tokens", "there", "ratio", "product", "squares_hat")}
        self._error, self._squares = (zeros[:, None].repeat(1, len(self._parts)) for _ in range(2))
        self._total = zeros[:, None].repeat(1, sae.d_out)
        self._fired = torch.zeros(UNITS, sae.d_sae, dtype=torch.int32)

    def add(self, x: Tensor, guess: Tensor, fires: Tensor, document: Tensor | None) -> None:
        if x.shape != guess.shape:
            raise TrainingError(f"targets of shape {tuple(x.shape)} do not fit reconstructions of shape {tuple(guess.shape)}")
        row = torch.arange(self._rows, self._rows + len(x))
        unit = (row // BLOCK if document is None else document.cpu().long()) % UNITS
        self._rows += len(x)
        length = x.norm(dim=1)
        there = length > 0
        scalars = {
            "tokens": torch.ones_like(length),
            "there": there.double(),
            "ratio": torch.where(there, guess.norm(dim=1) / length, 0.0),
            "product": (x * guess).sum(1),
            "squares_hat": guess.square().sum(1),
        }
        for name, values in scalars.items():
            self._scalars[name].index_add_(0, unit, values)
        self._error.index_add_(0, unit, self._by_part((x - guess).square()))
        self._squares.index_add_(0, unit, self._by_part(x.square()))
        self._total.index_add_(0, unit, x)
        self._fired.index_add_(0, unit, fires.int())

    def quality(self, seed: int) -> CodeQuality:
        seen = self._scalars["tokens"] > 0
        if not seen.any():
            raise TrainingError(
                "there are no activations to evaluate on; check the corpus and the hook, "
                "or pass a list if the iterator was used up"
            )
        scalar = {name: values[seen] for name, values in self._scalars.items()}
        tokens, error, spread, fired = scalar["tokens"], self._error[seen], self._spread()[seen], self._fired[seen].double()
        density = fired.sum(0) / tokens.sum()
        misses = fired - density * tokens[:, None]
        return CodeQuality(
            tokens=int(tokens.sum()),
            l0=_share(fired.sum(1), tokens, seed),
            fvu=_share(error.sum(1), spread.sum(1), seed),
            parts={name: _share(error[:, part], spread[:, part], seed) for part, name in enumerate(self._parts)},
            l2_ratio=_share(scalar["ratio"], scalar["there"], seed),
            bias=_share(scalar["squares_hat"], scalar["product"], seed),
            density=density.numpy(),
            density_error=(misses.square().sum(0).sqrt() / tokens.sum()).numpy(),
            dead=float((density == 0).double().mean()),
        )

    def _spread(self) -> Float[Tensor, "unit part"]:
        """Σ‖x - mean x‖² of every unit, the mean being that of all tokens."""
        tokens = self._scalars["tokens"]
        mean = self._total.sum(0) / tokens.sum()
        return self._squares + self._by_part(tokens[:, None] * mean.square() - 2 * mean * self._total)

    def _by_part(self, values: Float[Tensor, "any d_out"]) -> Float[Tensor, "any part"]:
        return torch.stack([values[:, part].sum(1) for part in self._slices], dim=1)


def _share(above: Float[Tensor, "unit"], below: Float[Tensor, "unit"], seed: int) -> stats.Estimate:
    """Σ above / Σ below, resampling units; not a number where there is nothing below, as for activations that never vary."""
    if float(below.sum()) == 0:
        return stats.Estimate(float("nan"), float("nan"), float("nan"), len(below))
    return stats.ratio(above.numpy(), below.numpy(), seed=seed)


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
def loss_recovered(
    model: Model,
    sae: SparseAutoencoder,
    hook: str | Sequence[str],
    batches: Sequence[TokenBatch],
    *,
    target: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Recovered:
    """Splices the autoencoder into `model` and measures what its predictions lose.

    hook: what it reads, laid side by side where there are several. target: what its output stands for: `hook` by default,
    another for a transcoder. All targets are replaced at once, by what comes of the unchanged model's activations.

    Only activations of text tokens are replaced: BOS and padding keep theirs, in every condition. A position counts when the
    token it predicts is text. Activations with a head axis are laid side by side, as `harvest` does.

    Raises TrainingError when no token of text is predicted, HookError for unknown hooks and for outputs of another size than the
    target.
    """
    read = [hook] if isinstance(hook, str) else list(hook)
    written = read if target is None else [target] if isinstance(target, str) else list(target)
    mean = _mean_activations(model, written, batches)
    replacements: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "autoencoder": lambda inputs, _: sae(inputs.to(sae.W_dec.device)),
        "mean": lambda _, targets: mean.expand_as(targets),
        "zero": lambda _, targets: torch.zeros_like(targets),
    }
    ce: dict[str, list[Tensor]] = {name: [] for name in ("original", *replacements)}
    kl: dict[str, list[Tensor]] = {name: [] for name in replacements}
    documents: list[Tensor] = []
    for batch in batches:
        if not batch.is_text.any():
            continue
        predicted = batch.is_text[:, 1:]
        labels = batch.tokens[:, 1:][predicted]
        documents.append(batch.document[:, 1:][predicted])
        original, held = _log_probabilities(model, batch, read=sorted({*read, *written}))
        ce["original"].append(F.nll_loss(original, labels, reduction="none"))
        inputs, targets = (_text_rows(held, names, batch.is_text) for names in (read, written))
        for name, replace in replacements.items():
            edits = _stand_ins(replace(inputs, targets), held, written, batch.is_text)
            changed, _ = _log_probabilities(model, batch, edits=edits)
            ce[name].append(F.nll_loss(changed, labels, reduction="none"))
            kl[name].append((original.exp() * (original - changed)).sum(-1))
    return _recovered(ce, kl, torch.cat(documents).cpu().numpy(), seed)


def _recovered(ce: Mapping[str, list[Tensor]], kl: Mapping[str, list[Tensor]], documents: np.ndarray, seed: int) -> Recovered:
    if len(documents) == 0:
        raise TrainingError("no token of text is predicted in these batches; use longer documents")
    _, index = np.unique(documents, return_inverse=True)
    sums = {  # by metric and condition, the summed loss of every document
        metric: {name: np.bincount(index, torch.cat(parts).cpu().numpy()) for name, parts in losses.items()}
        for metric, losses in (("ce", ce), ("kl", kl))
    }
    sums["kl"]["original"] = np.zeros_like(sums["ce"]["original"])
    estimates = {
        f"{metric}{suffix}": stats.ratio(losses["zero"] - losses[name], losses["zero"] - losses["original"], seed=seed)
        for metric, losses in sums.items()
        for name, suffix in (("autoencoder", ""), ("mean", "_mean"))
    }
    means = {name: float(values.sum() / len(documents)) for name, values in sums["ce"].items()}
    return Recovered(len(documents), **estimates, losses=means)


def _text_rows(held: Mapping[str, Tensor], hooks: Sequence[str], is_text: Tensor) -> Float[Tensor, "row d"]:
    """The activations of text tokens, hooks and heads laid side by side."""
    return torch.cat([held[hook][is_text].flatten(1) for hook in hooks], dim=1)


def _stand_ins(rows: Float[Tensor, "row d"], held: Mapping[str, Tensor], hooks: Sequence[str], is_text: Tensor) -> list[Edit]:
    """Edits that put rows, cut to the sizes of the hooks, in the places of the text tokens."""
    sizes = [held[hook][0, 0].numel() for hook in hooks]
    if rows.shape[1] != sum(sizes):
        raise HookError(
            f"reconstructions of size {rows.shape[1]} do not fit {', '.join(hooks)} of size {sum(sizes)}; check target="
        )
    parts = rows.split(sizes, dim=1)
    return [edit_rows(hook, lambda _, part=part: part, where=is_text) for hook, part in zip(hooks, parts, strict=True)]


def _log_probabilities(
    model: Model, batch: TokenBatch, *, read: Sequence[str] = (), edits: Sequence[Edit] = ()
) -> tuple[Float[Tensor, "token d_vocab"], dict[str, Tensor]]:
    """In float64, at the positions whose next token is text; and the activations that were read."""
    inputs: dict[str, Any] = (
        {"attention_mask": batch.attention_mask} if bool(batch.is_padding.any()) and model.kind != "decoder" else {}
    )
    seen = model.run(batch.tokens, read=list(read), edits=list(edits), logits=True, **inputs)
    return seen.logits[:, :-1][batch.is_text[:, 1:]].double().log_softmax(-1), dict(seen.activations)


def _mean_activations(model: Model, hooks: Sequence[str], batches: Sequence[TokenBatch]) -> Float[Tensor, "d"]:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        rows = _text_rows(model.run(batch.tokens, read=list(hooks)).activations, hooks, batch.is_text)
        total = total + rows.double().sum(0)
        count += len(rows)
    if count == 0:
        raise TrainingError("these batches hold no text; check the corpus")
    return (total / count).float()
