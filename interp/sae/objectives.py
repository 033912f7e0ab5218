"""What training lowers: from an autoencoder and a batch to a loss.

An objective sees inputs and targets that are already scaled (`s_in∘x`, `s_out∘y`; for an autoencoder they are one tensor), so
that centred targets have a mean squared norm of about 1. It returns the loss with its graph and what the trainer counts. While
latents are dead every objective adds AuxK, so that they come back.

Must not know: optimizers, schedules, models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import entries, kernels
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.entries import Entries, Sparse

AUX_WEIGHT = 1 / 32
"""Weight of AuxK in the loss (Gao et al. 2024, appendix A.2)."""

LEAK = 0.1
"""Slope of AuxK's activation below zero."""

SWING = 10.0
"""How far one batch may raise or lower the weight of the sparsity term, as a factor."""

SOFTENING = 0.01
"""What is added to a code before a power p < 1 is taken, whose derivative would have no bound at 0."""


@dataclass(frozen=True)
class Moment:
    """Where training stands when a batch comes, as far as a loss may know."""

    fraction: float  # of the steps, done: 0 at the first
    dead: Bool[Tensor, "d_sae"]  # latents that have been silent for too long
    sparsity: float  # weight of the sparsity term now: the trainer warms it up, and may control it


@dataclass(frozen=True)
class Outcome:
    """One batch under an objective."""

    loss: Float[Tensor, ""]
    error: Float[Tensor, "row d_out"]  # y - ŷ, detached
    fired: Int[Tensor, "d_sae"]  # rows on which each latent's code is not zero


class Objective(Protocol):
    """A loss, as a value: what an architecture is, beside its activation function. What it asks of the trainer:

    unit_decoder: decoder rows are held at unit length while training. Where they are not, `sae.absorb_decoder_norms()` is
        called once training is over.
    sparsity: weight of the sparsity term at the start, 0 where there is none. The trainer passes the weight of the moment in
        `Moment.sparsity`: this one, warmed up, and moved by the controller when there is a `target_l0`.
    target_l0: mean active latents per row that the controller holds (more: sparsity goes up). The objective itself multiplies the
        weight by the batch's L0 over this.
    resort_every: after so many steps the latents are sorted by how often they fired since, commonest first:
        `sae.permute(order)`, `optimizer.permute(order)`, and whatever else is counted per latent. None: never.

    An objective may update buffers of the activation (BatchTopK's threshold); everything else about it is constant.
    """

    unit_decoder: bool = True
    sparsity: float = 0.0
    target_l0: float | None = None
    resort_every: int | None = None

    def __call__(
        self, sae: SparseAutoencoder, inputs: Float[Tensor, "row d_in"], targets: Float[Tensor, "row d_out"], moment: Moment
    ) -> Outcome: ...


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Objective):
    """Mean over rows of ‖y - ŷ‖², for TopK and BatchTopK.

    k_start: k falls linearly from here to the activation's own k while the first `k_until` of the steps go by.
    wider: Multi-TopK: adds an eighth of the loss that TopK has with `wider` times as many latents (Gao et al. 2024, section 5.3).
    widths: Matryoshka: adds `inner` times the loss of the first w latents alone, for each w (Bussmann et al. 2025,
        arXiv:2503.17547). Unlike there, each of these losses holds the latents of the widths below fixed.
    """

    k_start: float | None = None
    k_until: float = 0.5
    wider: int = 1
    widths: tuple[int, ...] = ()
    inner: float = 0.5
    resort_every: int | None = None

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        k = self._k(sae, moment.fraction)
        rows, wanted = inputs, _less(targets, _linear(sae, inputs))
        if sae.draft is not None:
            first = _chosen(sae, sae.draft, rows, k)
            rows = sae.refined(rows, first.decode(first.pre.relu(), sae.W_dec))
        chosen = _chosen(sae, sae.activation, rows, k)
        codes = chosen.pre.relu()
        error = chosen.missed(wanted, codes, sae.W_dec)
        loss = kernels.mean_square(error) + self._wider(sae, rows, wanted, k) + self._nested(sae, chosen, codes, wanted)
        return _outcome(sae, inputs, moment, chosen, codes, error, loss)

    def _k(self, sae: SparseAutoencoder, fraction: float) -> float:
        if not isinstance(sae.activation, TopK | BatchTopK):
            raise TrainingError(
                f"a Reconstruction cannot train {sae.activation}; build the autoencoder with TopK(k) or BatchTopK(k)"
            )
        k = sae.activation.k
        if self.k_start is None:
            return k
        return self.k_start + (k - self.k_start) * min(1.0, fraction / self.k_until)

    def _wider(self, sae: SparseAutoencoder, rows: Tensor, targets: Tensor, k: float) -> Tensor | float:
        if self.wider == 1:
            return 0.0
        chosen = entries.largest(sae, rows, min(self.wider * int(k), sae.d_sae))
        return kernels.mean_square(chosen.missed(targets, chosen.pre.relu(), sae.W_dec)) / 8

    def _nested(self, sae: SparseAutoencoder, chosen: Sparse, codes: Tensor, targets: Tensor) -> Tensor | float:
        loss, within = 0.0, torch.zeros_like(targets)
        for first, last in zip((0, *self.widths), self.widths, strict=False):
            ring, support = chosen.ring(codes, first, last)
            within = within.detach() + kernels.decode(ring, support, sae.W_dec)
            loss = loss + self.inner * kernels.mean_square(targets - within)
        return loss


@dataclass(frozen=True, kw_only=True)
class Lasso(Objective):
    """Mean over rows of ‖y - ŷ‖² + λ Σ_j n_j f_j^p, for ReLU. n_j is the length of decoder row j, summed over `sae.parts`.

    unit_decoder: True holds n_j at 1 (Bricken et al. 2023); False lets the rows grow, and n_j weighs the codes (Templeton et
        al. 2024). A crosscoder's rows have a length in each part, and their sum is what counts (Lindsey et al. 2024).
    p_end: p falls linearly from 1 to this over the steps (p-annealing, Karvonen et al. 2024, arXiv:2408.00113). The term is
        rescaled, batch by batch, to the size that it has at p = 1, so λ means the same throughout.
    """

    target_l0: float | None = None
    sparsity: float = 0.05
    unit_decoder: bool = True
    p_end: float = 1.0

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        if not isinstance(sae.activation, ReLU):
            raise TrainingError(f"a Lasso cannot train {sae.activation}; build the autoencoder with ReLU()")
        positive = entries.above(sae, inputs, inputs.new_zeros(1))
        codes = positive.pre.relu()
        error = positive.missed(_less(targets, _linear(sae, inputs)), codes, sae.W_dec)
        p = 1 - (1 - self.p_end) * moment.fraction
        weight = _weight(self.target_l0, moment, codes, len(inputs))
        penalty = weight * _power(self._weighed(sae, positive, codes), p) / len(inputs)
        return _outcome(sae, inputs, moment, positive, codes, error, kernels.mean_square(error) + penalty)

    def _weighed(self, sae: SparseAutoencoder, positive: Entries, codes: Tensor) -> Tensor:
        if self.unit_decoder and len(sae.parts) == 1:
            return codes
        return codes * positive.spread(sae.part_norms().sum(1))


@dataclass(frozen=True, kw_only=True)
class GatedLasso(Objective):
    """Mean over rows of ‖y - ŷ‖² + λ Σ_j relu(h_j) + ‖y - ŷ(relu(h))‖², the last through a decoder held fixed, for Gated.

    h are the gate's pre-activations (Rajamanoharan et al. 2024, arXiv:2404.16014, section 3). The last term teaches the gate.
    """

    target_l0: float | None = None
    sparsity: float = 0.05

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        if not isinstance(sae.activation, Gated):
            raise TrainingError(f"a GatedLasso cannot train {sae.activation}; build the autoencoder with Gated(…)")
        open_ = entries.above(sae, inputs, inputs.new_zeros(1))
        gate, linear = open_.pre.relu(), _linear(sae, inputs)
        codes = sae.activation(open_.pre, open_.latents)
        error = open_.missed(_less(targets, linear), codes, sae.W_dec)
        by_gate = open_.missed(_less(targets, linear.detach()), gate, sae.W_dec.detach())
        weight = _weight(self.target_l0, moment, codes, len(inputs))
        loss = kernels.mean_square(error) + weight * gate.sum() / len(inputs) + kernels.mean_square(by_gate)
        return _outcome(sae, inputs, moment, open_, codes, error, loss)


@dataclass(frozen=True, kw_only=True)
class Jump(Objective):
    """Mean over rows of ‖y - ŷ‖² + λ · L0, for JumpReLU (Rajamanoharan et al. 2024, arXiv:2407.14435, section 4).

    bandwidth: width ε of the window around a threshold in which its pseudo-derivative is not zero.
    to_input: lets the pseudo-derivative pass to the pre-activations too, with the opposite sign, not to the thresholds alone.

    Beside AuxK, the thresholds of dead latents sink: nothing else would lower one that no pre-activation comes near. On 40
    planted features in 20 dimensions 4 % of latents were dead after 0.1M tokens instead of 12 % (means of 3 seeds).
    """

    target_l0: float | None = None
    sparsity: float = 1e-3
    bandwidth: float = 0.03
    to_input: bool = False

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        if not isinstance(sae.activation, JumpReLU):
            raise TrainingError(f"a Jump cannot train {sae.activation}; build the autoencoder with JumpReLU(threshold)")
        threshold = sae.activation.threshold
        near = entries.above(sae, inputs, threshold.detach() - self.bandwidth / 2)
        codes, active = _Jump.apply(near.pre, near.spread(threshold), self.bandwidth, self.to_input)
        error = near.missed(_less(targets, _linear(sae, inputs)), codes, sae.W_dec)
        weight = _weight(self.target_l0, moment, codes, len(inputs))
        loss = kernels.mean_square(error) + weight * active.sum() / len(inputs) + AUX_WEIGHT * threshold[moment.dead].sum()
        return _outcome(sae, inputs, moment, near, codes, error, loss)


class _Jump(torch.autograd.Function):
    """(h · 1[h > θ], 1[h > θ]) with straight-through derivatives, δ(u) taken as 1[|u| < ε/2] / ε:

    ∂f/∂h = 1[h > θ] (+ θ δ(h - θ) if to_input),  ∂f/∂θ = -θ δ(h - θ),  ∂1/∂θ = -δ(h - θ) (= -∂1/∂h if to_input)
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, to_input: bool) -> tuple[Tensor, Tensor]:
        active = pre > threshold
        ctx.save_for_backward(pre, threshold, active)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return pre * active, active.to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        g_codes, g_active = gradients
        pre, threshold, active = ctx.saved_tensors
        delta = ((pre - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        g_jump = (threshold * g_codes + g_active) * delta
        return g_codes * active + (g_jump if ctx.to_input else 0.0), -g_jump, None, None


def auxk(
    sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"], error: Float[Tensor, "row d_out"], dead: Bool[Tensor, "d_sae"]
) -> Float[Tensor, ""]:
    """How badly the dead latents, at most d/2 of them per row, reconstruct what the live ones left over: ‖e - ê‖² / ‖e‖².

    ê has no bias of its own, and b_dec is held fixed: the main loss alone teaches it. The relu leaks: a latent dies because its
    pre-activations are negative, and a tight relu would pass the encoder no gradient then. Without any relu latents learn
    signed codes that they cannot use once alive. Planted features found after 0.6M tokens (n = 512, d = 64, k = 3), and
    share of 16 buried latents of 32 (bias -0.5) still dead: tight .87 and .50, no relu .79 and .16, leaking 0.1 .88 and .09.
    """
    latents = dead.nonzero()[:, 0]
    read = rows if sae.b_in is None else rows - sae.b_in.detach()
    pre = read @ sae.W_enc[:, latents] + sae.b_enc[latents]
    values, chosen = F.leaky_relu(pre, LEAK).topk(min(len(latents), max(1, sae.d_in // 2)), dim=-1, sorted=False)
    guess = torch.zeros_like(pre).scatter(-1, chosen, values) @ sae.W_dec[latents]
    return (error - guess).square().sum() / error.square().sum().clamp_min(1e-12)


def _chosen(sae: SparseAutoencoder, activation: nn.Module, rows: Tensor, k: float) -> Sparse:
    if isinstance(activation, TopK):
        return entries.largest(sae, rows, round(k))
    assert isinstance(activation, BatchTopK)
    chosen = entries.largest_of_batch(sae, rows, k)
    if len(chosen.pre):
        activation.observe(chosen.pre.detach().min())
    return chosen


def _linear(sae: SparseAutoencoder, inputs: Tensor) -> Tensor:
    """What is written whatever the codes are: b_dec, and what the skip adds."""
    return sae.b_dec if sae.W_skip is None else sae.b_dec + inputs @ sae.W_skip


def _less(targets: Tensor, linear: Tensor) -> Tensor:
    return targets + (-linear)  # the minus, and that of its gradient, on what may be one row


@torch.no_grad()
def _weight(target_l0: float | None, moment: Moment, codes: Tensor, n_rows: int) -> Tensor | float:
    """λ of this batch: the moment's, times the batch's L0 over the target within `SWING`.

    The controller alone, which sums up what was missed, overshoots for long. After 0.5M tokens of 512 planted features in 64
    dimensions a JumpReLU had an L0 of 1.67 for 2.1 wanted and 13 % dead latents; with this factor 2.04 and 3 %.
    """
    if target_l0 is None:
        return moment.sparsity
    return moment.sparsity * (codes.count_nonzero() / (n_rows * target_l0)).clamp(1 / SWING, SWING)


def _power(values: Tensor, p: float) -> Tensor:
    """Σ (v + ε)^p - ε^p over the values, rescaled by a constant so that it equals Σ v."""
    if p == 1.0:
        return values.sum()
    powers = ((values + SOFTENING).pow(p) - SOFTENING**p).sum()
    return powers * (values.sum() / powers.clamp_min(1e-12)).detach()


def _outcome(
    sae: SparseAutoencoder, inputs: Tensor, moment: Moment, at: Entries, codes: Tensor, error: Tensor, loss: Tensor
) -> Outcome:
    left = error.detach()
    if bool(moment.dead.any()):
        loss = loss + AUX_WEIGHT * auxk(sae, inputs, left, moment.dead)
    return Outcome(loss, left, at.fired(codes))
