"""How much each feature contributes to a number of the model's, and whether taking the feature out agrees.

At the marked positions the activation y that an autoencoder writes is b + f W_dec + e: bias, features, and the rest (what it does
not explain, and a skip). For a metric m of y, with m₀ its value where y is the bias alone,

    feature j    Σ_pos f_j (W_dec[j] · ḡ)          rest    Σ_pos e · ḡ          residual    m - m₀ - all of these

ḡ is the gradient of m at y (`by_gradient`: gradient × activation, first order), or its mean over the straight path from b to y
(`by_integrated_gradients`, Sundararajan et al. 2017, arXiv:1703.01365; midpoint rule), for which the residual goes to 0 with the
steps. Attributions are hypotheses; `ablation_effects` is what happens, and `intervention_check` puts the two side by side.

All take, after their own options, what the model is given beside the tokens: attention_mask=, decoder_input=. In an
encoder–decoder the marked positions are those of the stack that the autoencoder stands in.

Must not know: reports, how autoencoders are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model, Run
from interp.sae import splicing
from interp.sae.splicing import Site, Where


@dataclass(frozen=True)
class Metric:
    """A number per example, read off a run.

    value: from the run to one number per example, with its graph.
    read: hooks whose activations `value` wants; the logits where there are none.
    """

    value: Callable[[Run], Float[Tensor, " example"]]
    read: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attribution:
    """Contributions to a metric, in its units.

    features: Measurement (example, latent), summed over marked positions. rest: Measurement (example), what the features leave.
    metric: Measurement (example), its value. residual: Measurement (example), what the sum misses of metric - metric at bias.
    """

    features: Measurement
    rest: Measurement
    metric: Measurement
    residual: Measurement


def codes_of(site: Site, latent: int, *, where: Where) -> Metric:
    """A feature's code, summed over the marked positions: what earlier features do to it is then an attribution."""
    splicing.check_latents(site, [latent])

    def value(run: Run) -> Tensor:
        activation = run.activations[site.hook]
        codes = site.encode(activation, where)[:, latent]
        return codes.new_zeros(len(activation)).index_add(0, _example_of(activation, where), codes)

    return Metric(value, (site.hook,))


def by_gradient(
    model: Model, site: Site, tokens: Int[Tensor, "example _"], metric: Metric, *, where: Where, **beside: Any
) -> Attribution:
    """Gradient × activation: one backward pass. Raises ConfigError for a metric that is not one number per example."""
    return _attributed(_Inputs(model, tokens, beside), site, metric, where, at=[1.0])


def by_integrated_gradients(
    model: Model,
    site: Site,
    tokens: Int[Tensor, "example _"],
    metric: Metric,
    *,
    where: Where,
    steps: int = 16,
    **beside: Any,
) -> Attribution:
    """Integrated gradients by the midpoint rule: `steps` backward passes. Raises ConfigError as `by_gradient`."""
    if steps < 1:
        raise ConfigError(f"steps={steps} is no path; use at least 1")
    path = [(step + 0.5) / steps for step in range(steps)]
    return _attributed(_Inputs(model, tokens, beside), site, metric, where, at=path)


def ablation_effects(
    model: Model,
    site: Site,
    tokens: Int[Tensor, "example _"],
    metric: Metric,
    latents: Int[Tensor, "example choice"],
    *,
    where: Where,
    **beside: Any,
) -> Float[Tensor, "example choice"]:
    """What the metric loses when one feature is silenced at all marked positions, the rest kept: m - m without it.

    latents: for each example the features to silence, one after the other.
    """
    splicing.check_latents(site, latents.unique().tolist())
    inputs = _Inputs(model, tokens, beside)
    before = inputs.measure(metric, [])
    effects = []
    for chosen in latents.T:
        edits = splicing.splice(site, where=where, error=True, change=_silencing(chosen, where))
        effects.append(before - inputs.measure(metric, edits))
    return torch.stack(effects, dim=1)


def intervention_check(
    model: Model,
    site: Site,
    tokens: Int[Tensor, "example _"],
    metric: Metric,
    attribution: Attribution,
    *,
    where: Where,
    n: int = 10,
    seed: int = 0,
    **beside: Any,
) -> pd.DataFrame:
    """Attributions beside what silencing does: the n strongest features of every example, and n others of its active ones.

    Gives example, latent, source ("attributed", or "random" for the others), attribution and effect. Examples with fewer active
    features give fewer rows.
    """
    values = torch.from_numpy(attribution.features.values)
    order = values.abs().argsort(dim=1, descending=True)
    ranked = {"attributed": order[:, :n], "random": _random_others(values, order, n, seed)}
    tables = []
    for source, latents in ranked.items():
        effects = ablation_effects(model, site, tokens, metric, latents, where=where, **beside)
        example = np.repeat(np.arange(len(latents)), latents.shape[1])
        columns = {"example": example, "latent": latents.flatten().numpy(), "source": source}
        columns |= {"attribution": values.gather(1, latents).flatten().numpy(), "effect": effects.flatten().cpu().numpy()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables).query("attribution != 0").reset_index(drop=True)


def agreement(check: pd.DataFrame, *, seed: int = 0) -> stats.Estimate:
    """Mean over examples of Spearman's rank correlation between attribution and effect, with its bootstrap interval."""
    groups = [rows for _, rows in check.groupby("example") if len(rows) > 2]
    known = [value for rows in groups if np.isfinite(value := rows.attribution.corr(rows.effect, method="spearman"))]
    if not known:
        raise ConfigError("no example has three features with different attributions; use longer prompts or a larger n")
    return stats.bootstrap(known, seed=seed)


def feature_effects(
    model: Model,
    upstream: Site,
    downstream: Site,
    tokens: Int[Tensor, "example _"],
    targets: Sequence[int],
    *,
    where: Where,
    **beside: Any,
) -> Measurement:
    """How much the features of one autoencoder contribute to codes of a later one, by gradient × activation.

    Measurement (example, target, latent): the part of the target's code, summed over the marked positions, that comes from each
    upstream latent there, through all of the model between the two hooks. `ablation_effects` with `codes_of` checks it. From one
    stack of an encoder–decoder to the other no mark fits both: use where=None, or `by_gradient` with `codes_of`.
    """
    metrics = [codes_of(downstream, j, where=where) for j in targets]
    parts = [by_gradient(model, upstream, tokens, metric, where=where, **beside) for metric in metrics]
    values = np.stack([part.features.values for part in parts], axis=1)
    return Measurement("effect", values, ("example", "target", "latent"), coords={"target": list(targets)}, unit="code")


@torch.no_grad()
def virtual_weights(
    upstream: Site, downstream: Site, sources: Sequence[int], targets: Sequence[int]
) -> Float[Tensor, "source target"]:
    """What a unit of an earlier feature's code adds to a later feature's pre-activation along the residual stream alone.

    Directions that are written times directions that are read (Elhage et al. 2021, "virtual weights"), in the units of the later
    codes; what attention and MLPs between the two do is left out. Raises ConfigError when the sizes do not meet.
    """
    if upstream.sae.d_out != downstream.sae.d_in:
        raise ConfigError(
            f"{upstream.written} is written with {upstream.sae.d_out} dimensions and {downstream.hook} is read with "
            f"{downstream.sae.d_in}; virtual weights need two autoencoders of one residual stream"
        )
    first, last = splicing.check_latents(upstream, sources), splicing.check_latents(downstream, targets)
    later = downstream.sae
    return (upstream.directions[first] * later.scale) @ later.W_enc[:, last] / later.scale_out.mean()


@dataclass(frozen=True)
class _Inputs:
    """A model and what it is given, which stay as they are while edits change."""

    model: Model
    tokens: Int[Tensor, "example _"]
    beside: Mapping[str, Any]

    def measure(self, metric: Metric, edits: Sequence[Edit], *, grad: bool = False) -> Float[Tensor, " example"]:
        """The metric under some edits. Raises ConfigError unless it is one number per example."""
        run = self.model.run(self.tokens, read=metric.read, edits=edits, logits=not metric.read, grad=grad, **self.beside)
        with torch.set_grad_enabled(grad):
            value = metric.value(run)
        if value.shape != (len(self.tokens),):
            raise ConfigError(
                f"the metric gave shape {tuple(value.shape)} for {len(self.tokens)} examples; give one number per example"
            )
        return value


def _attributed(inputs: _Inputs, site: Site, metric: Metric, where: Where, *, at: Sequence[float]) -> Attribution:
    """The attribution whose gradients are taken at these points of the path from bias (0) to activation (1)."""
    sae = site.sae
    with torch.no_grad():
        run = inputs.model.run(inputs.tokens, read=[site.hook, site.written], **inputs.beside)
        codes = site.encode(run.activations[site.hook], where)
        written = splicing.rows(run.activations[site.written], where, site.written).to(codes)
        bias = sae.decode(codes.new_zeros(1, sae.d_sae))
        rest = written - bias - codes @ site.directions
        example = _example_of(run.activations[site.hook], where)
        baseline = inputs.measure(metric, [_placed(site, bias.expand_as(written), where)])
        value = inputs.measure(metric, [])
    slope = torch.zeros_like(written)
    for point in at:
        leaf = (bias + point * (written - bias)).requires_grad_()
        measured = inputs.measure(metric, [_placed(site, leaf, where)], grad=True)
        slope += torch.autograd.grad(measured.sum(), leaf)[0] / len(at)

    def per_example(terms: Float[Tensor, "row *any"]) -> np.ndarray:
        return terms.new_zeros(len(inputs.tokens), *terms.shape[1:]).index_add(0, example, terms).double().cpu().numpy()

    with torch.no_grad():
        features, left = per_example(codes * (slope @ site.directions.T)), per_example((rest * slope).sum(1))
    total, start = value.double().cpu().numpy(), baseline.double().cpu().numpy()
    return Attribution(
        features=Measurement("attribution", features, ("example", "latent")),
        rest=Measurement("rest", left, ("example",)),
        metric=Measurement("metric", total, ("example",)),
        residual=Measurement("residual", total - start - features.sum(1) - left, ("example",)),
    )


def _placed(site: Site, values: Float[Tensor, "row d_out"], where: Where) -> Edit:
    return splicing.edit_rows(site.written, lambda _: values, where=where)


def _silencing(latents: Int[Tensor, " example"], where: Where) -> splicing.Change:
    """The change of codes under which each example loses its own feature."""

    def change(codes: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        each = len(codes) // len(latents)  # positions of an example, where all are marked
        example = torch.arange(len(latents)).repeat_interleave(each) if where is None else where.nonzero()[:, 0]
        return codes.scatter(1, latents[example.to(latents.device)].to(codes.device)[:, None], 0.0)

    return change


def _random_others(values: Tensor, order: Tensor, n: int, seed: int) -> Int[Tensor, "example choice"]:
    """For every example n random features beyond its n first, active ones before silent ones."""
    rng = stats.generator(seed, "random active features")
    lottery = torch.from_numpy(rng.random(values.shape)) + (values != 0)
    lottery.scatter_(1, order[:, :n], -1.0)
    return lottery.argsort(dim=1, descending=True)[:, :n]


def _example_of(of: Tensor, where: Where) -> Int[Tensor, " row"]:
    return splicing.positions(of, where)[:, 0]
