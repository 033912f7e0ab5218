"""The token-efficient trainer: codes by matching pursuit and a dictionary by weighted means, then an encoder that imitates both.

Per batch, with codes f of the present dictionary D and what they leave, e = x - f D, every atom moves to the mean, weighted by
its code, of what the other atoms leave of its rows; the past is forgotten by a factor γ per batch:

    T_j ← γ T_j + Σ_rows f_j (e + f_j D_j),   D_j ← T_j / ‖T_j‖

This is the atom update of k-SVD (Aharon et al. 2006) for all atoms at once, with the running sums of online dictionary learning
(Mairal et al. 2010). No gradient and no learning rate are in it. Over the last batches the encoder learns, by Adam, to give the
pursuit's codes in one step.

Where features fire apart and there is room for all, this finds them from far fewer tokens than gradient descent. Where latents
are fewer than features, or features hang together, pursuit fits what it should leave alone, and autoencoders whose encoder is
one step do better. E14 has the figures for both.

Must not know: models, text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.process import fast
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, Hook
from interp.sae.classical import matching_pursuit
from interp.sae.feeds import CALIBRATION, Feed
from interp.sae.kernels import Support, decode
from interp.sae.learner import History
from interp.sae.training import NAME, Progress
from interp.stats import torch_generator

ROUNDS = 2
"""Rounds of matching pursuit: two choose nearly as well as k of them."""

MEMORY = 0.9
"""γ: what a batch keeps of the sums before it."""

REPLACE_EVERY = 5
"""Batches from one search for idle and doubled atoms to the next."""

DOUBLE = 0.9
"""Cosine above which the less used of two atoms is taken for a copy of the other."""

IMITATION = 0.25
"""Weight of the pursuit's codes against reconstruction in what the encoder learns."""

LEARNING_RATE = 1e-2
"""Of Adam, for the encoder, at the start; it falls linearly to 0."""

OFFSET_RATE = 0.1
"""Share of the mean residual that b_dec takes up per batch."""


def alternate(
    sae: SparseAutoencoder,
    batches: Batches,
    *,
    steps: int,
    hook: Hook = None,
    encoder_share: float = 1 / 3,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    log_every: int = 50,
    progress: Progress | None = None,
) -> History:
    """Trains an autoencoder with TopK(k) in place on the first `steps` batches and returns what happened.

    The head of the stream sets the input scale and the starting b_dec, as `training.train` does. All batches teach the
    dictionary; the last `encoder_share` of them, one at the least, teach the encoder too, which starts as its transpose.

    seed: of the rows that idle atoms start again from. progress: as for `training.train`.

    The history has `fvu` and `l0` of the pursuit's codes, and `replaced`, how many atoms started again.

    Raises TrainingError for another activation, refinement, a transcoder, an empty or too short stream, and rows that cannot be
    trained on.
    """
    if not isinstance(sae.activation, TopK) or sae.transcodes or sae.refinement:
        raise TrainingError(
            f"alternating updates train an autoencoder with TopK(k) and without refinement, not {sae}; use training.train"
        )
    if steps < 1 or log_every < 1 or not 0 <= encoder_share <= 1:
        raise TrainingError(
            f"steps={steps}, log_every={log_every}, encoder_share={encoder_share}: use 1 or more, 1 or more, and 0 to 1"
        )
    history, feed, last = History(), Feed(sae, hook, None), max(1, round(encoder_share * steps))
    atoms, encoder, window, done = Atoms(sae, k=int(sae.activation.k), seed=seed), None, _Window(), 0
    with fast(sae.W_dec.device):
        for batch in _measured(feed, sae, batches, steps):
            rows = feed.rows(batch, done).inputs
            support, error = atoms.learn(rows)
            if steps - done <= last:
                encoder = encoder or Imitation(sae)
                encoder.step(rows, support, learning_rate * (steps - done) / last)
            done += 1
            window.add(rows, support, error)
            if done % REPLACE_EVERY == 0 and encoder is None:
                window.replaced += atoms.replace(error)
            if done % log_every == 0 or done == steps:
                history.rows.append({"step": done, **window.close()})
                if progress is not None:
                    progress(NAME, history.last)
    _check_done(done, steps)
    return history


def distil(
    dictionary: Float[Tensor, "d_sae d"],
    batches: Batches,
    *,
    k: int,
    steps: int,
    hook: Hook = None,
    learning_rate: float = LEARNING_RATE,
) -> SparseAutoencoder:
    """An autoencoder with TopK(k) around a dictionary that was learned some other way, on rows less their mean.

    The dictionary stays as it is, its rows made unit; an encoder is taught on the first `steps` batches, as in `alternate`.

    Raises TrainingError for an empty or too short stream, and rows that cannot be trained on.
    """
    sae = SparseAutoencoder(dictionary.shape[1], len(dictionary), activation=TopK(k)).to(dictionary.device)
    with torch.no_grad():
        sae.W_dec.copy_(F.normalize(dictionary, dim=1))
    feed, encoder, done = Feed(sae, hook, None), Imitation(sae), 0
    with fast(sae.W_dec.device):
        for done, batch in enumerate(_measured(feed, sae, batches, steps), start=1):
            rows = feed.rows(batch, done - 1).inputs
            encoder.step(rows, _pursued(sae, rows, k), learning_rate * (steps - done + 1) / steps)
    _check_done(done, steps)
    return sae


class Atoms:
    """The decoder of `sae`, as a dictionary that learns from the codes of its own matching pursuit."""

    def __init__(self, sae: SparseAutoencoder, *, k: int, seed: int = 0) -> None:
        self.sae, self.k = sae, k
        self._targets, self._uses = torch.zeros_like(sae.W_dec), torch.zeros_like(sae.b_enc)
        self._generator = torch_generator(seed, "atoms start again")

    @torch.no_grad()
    def learn(self, rows: Float[Tensor, "row d"]) -> tuple[Support, Float[Tensor, "row d"]]:
        """Moves every atom by one batch of scaled rows. Returns the batch's codes and errors, as they were before."""
        sae = self.sae
        support = _pursued(sae, rows, self.k)
        codes = support.values
        error = rows - sae.b_dec - decode(codes, support, sae.W_dec)
        own = support.gather_rows(codes, error) + support.total(codes.square())[:, None] * sae.W_dec
        self._targets.mul_(MEMORY).add_(own)
        self._uses.mul_(MEMORY).add_(support.total((codes > 0).to(codes)))
        used = self._targets.square().sum(1) > 0
        sae.W_dec.copy_(torch.where(used[:, None], F.normalize(self._targets, dim=1), sae.W_dec))
        sae.b_dec.add_(error.mean(0), alpha=OFFSET_RATE)
        return support, error

    @torch.no_grad()
    def replace(self, error: Float[Tensor, "row d"]) -> int:
        """Lets idle and doubled atoms start again, from the errors of badly coded rows. Returns how many."""
        bad = self._spare().nonzero().squeeze(1)[: len(error)]
        worst = error.norm(dim=1).topk(len(bad)).indices
        mixed = worst[torch.randperm(len(bad), generator=self._generator).to(worst.device)]
        self.sae.W_dec[bad] = F.normalize(error[mixed], dim=1)
        self._targets[bad], self._uses[bad] = 0.0, self._uses.median()
        return len(bad)

    def _spare(self) -> Tensor:
        """Atoms that code less than one row, and the less used of any two that are nearly the same."""
        order = self._uses.argsort(descending=True)
        ranked = self.sae.W_dec[order]
        doubled = torch.zeros_like(order, dtype=torch.bool)
        doubled[order] = (ranked @ ranked.T).triu(1).amax(0) > DOUBLE
        return doubled | (self._uses < 1)


class Imitation:
    """Teaches the encoder of `sae` to reconstruct through its present decoder, and to do so with codes found some other way.

    Lowers ‖e‖² + IMITATION · Σ_j (relu(h_j) - f_j)², mean over rows, by Adam; e is the error of the encoder's own top k.
    Imitation alone tells best when a latent should fire, reconstruction alone fits best.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        with torch.no_grad():
            sae.W_enc.copy_(sae.W_dec.T)
            sae.b_enc.zero_()
        self._adam = torch.optim.Adam([sae.W_enc, sae.b_enc], fused=True)

    def step(self, rows: Float[Tensor, "row d"], support: Support, learning_rate: float) -> None:
        """One step on the codes of a batch of scaled rows."""
        sae, offset = self.sae, self.sae.b_dec.detach()
        codes = rows.new_zeros(len(rows), sae.d_sae).index_put_((support.rows, support.latents), support.values)
        pre = torch.addmm(sae.b_enc - offset @ sae.W_enc, rows, sae.W_enc)
        error = rows - offset - sae.activation(pre) @ sae.W_dec.detach()
        loss = error.square().sum(1).mean() + IMITATION * (pre.relu() - codes).square().sum(1).mean()
        loss.backward()
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad()


@torch.no_grad()
def _pursued(sae: SparseAutoencoder, rows: Float[Tensor, "row d"], k: int) -> Support:
    return matching_pursuit(rows - sae.b_dec, sae.W_dec, k, rounds=min(ROUNDS, k))


def _check_done(done: int, steps: int) -> None:
    if done < steps:
        raise TrainingError(f"the stream ended after {done} of {steps} batches; pass steps={done}, or a longer stream")


def _measured(feed: Feed, sae: SparseAutoencoder, batches: Batches, steps: int) -> Iterator[Any]:
    """The first `steps` batches, once the scales are measured on the head of them."""
    stream, head, size = islice(batches, steps), [], 0
    while size < CALIBRATION and (batch := next(stream, None)) is not None:
        head.append(batch)
        size += feed.count(batch)
    if not head:
        raise TrainingError(
            "the stream of activations is empty; check the corpus and the hook, or pass a list if the iterator was used up"
        )
    feed.measure(head, [sae])
    return chain(head, stream)


class _Window:
    """Sums since the last row of the history."""

    def __init__(self, tokens: int = 0) -> None:
        self.replaced, self._before, self._tokens = 0, tokens, tokens
        self._active, self._error, self._squares, self._total = 0, 0.0, 0.0, torch.zeros(())

    def add(self, rows: Float[Tensor, "row d"], support: Support, error: Float[Tensor, "row d"]) -> None:
        self._tokens += len(rows)
        self._active += int((support.values > 0).sum())
        self._error += float(error.double().square().sum())
        self._squares += float(rows.double().square().sum())
        self._total = self._total + rows.sum(0, dtype=torch.float64)

    def close(self) -> dict[str, float]:
        """The figures of the window; starts the next one."""
        size = self._tokens - self._before
        spread = self._squares - float(self._total.square().sum()) / size
        figures = {
            "tokens": self._tokens,
            "fvu": self._error / spread if spread > 0 else math.nan,
            "l0": self._active / size,
            "replaced": self.replaced,
        }
        self.__init__(self._tokens)
        return figures
