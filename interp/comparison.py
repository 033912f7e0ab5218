"""What did training change? Two models of one shape, before and after, held against each other.

    observed, looked   what every head, neuron and feature does on the same tokens in both, and where heads look
    carried            what share of a change of behaviour passes over with the activations of some units: cross-model
                       activation patching (CMAP; Prakash et al. 2024, arXiv:2402.14811)
    grafted            … and with some of the weights

Of one shape are a model and its fine-tuned twin (adapters merged or attached), or two checkpoints of one training. Held against
itself a model gives 0 everywhere. The control is `interp.models.changes.noised`: as large a change of weights that points
nowhere. What the change of weights is by itself is read in that module too.

Batches stream; what is kept does not grow with them, but for one number per row and head (`looked`) or part (`carried`).

Must not know: how models are trained, autoencoders (a `Coder` is passed in), figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from scipy.stats import t as student
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, HookError, ModelError
from interp.measurement import Measurement
from interp.models.changes import graft
from interp.models.hooked import Edit, Model
from interp.streaming import Moments
from interp.tasks.contrast import Contrast, Metric

_NO_UNITS = ("hook_pattern", "hook_attn_scores")
"""Endings of hooks whose second axis is not the position."""


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, each an independent example for tests.

    where: the positions that count, of what stands at the hooks; all without it. beside: as for `Model.run`.
    """

    tokens: Int[Tensor, "batch pos"]
    where: Bool[Tensor, "batch _"] | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)

    def read(self, model: Model, hooks: Sequence[str]) -> dict[str, Tensor]:
        """What stands at the hooks."""
        return model.run(self.tokens, read=list(dict.fromkeys(hooks)), **dict[str, Any](self.beside)).activations

    def counts(self, length: int) -> Float[Tensor, "batch pos"]:
        """1 at the positions that count, 0 elsewhere. Raises ConfigError for marks of another length."""
        if self.where is None:
            return torch.ones(len(self.tokens), length, dtype=torch.float64)
        if list(self.where.shape) != [len(self.tokens), length]:
            wanted = [len(self.tokens), length]
            raise ConfigError(f"where has shape {list(self.where.shape)}, the activations {wanted}; mark every position")
        return self.where.double()


class Coder(Protocol):
    """An autoencoder, as far as this module is concerned: codes of rows, and rows of codes."""

    def encode(self, x: Any) -> Tensor: ...

    def decode(self, codes: Any) -> Tensor: ...


@dataclass(frozen=True)
class Units:
    """Units of one kind: heads where what stands at the hook has a head axis, else its columns (neurons); or features of a coder.

    chosen: some of them; all without it. coder: an autoencoder trained on the model before. Raises HookError for attention
    patterns, which `looked` compares.
    """

    hook: str
    chosen: tuple[int, ...] | None = None
    coder: Coder | None = None

    def __post_init__(self) -> None:
        if self.hook.endswith(_NO_UNITS):
            raise HookError(f"{self.hook} holds patterns, which are no units; compare them with looked(…)")

    def of(self, activation: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch pos unit width"]:
        """What each unit says: a vector for heads, else a number. Raises ConfigError for units there are not."""
        values = activation if self.coder is None else self._encoded(activation)
        values = values if values.ndim == 4 else values[..., None]
        if self.chosen is None:
            return values
        outside = [unit for unit in self.chosen if not 0 <= unit < values.shape[2]]
        if outside or not self.chosen:
            came = f"no unit {outside[0]}" if outside else "no unit chosen"
            raise ConfigError(f"{came} at {self.hook}; choose among 0 to {values.shape[2] - 1}")
        return values[:, :, list(self.chosen)]

    def put(self, into: Float[Tensor, "batch pos *rest"], source: Float[Tensor, "batch pos *rest"]) -> Tensor:
        """`into` with these units as in `source`. Features change along what they write; what no feature explains stays."""
        self.of(source[:1])  # refuses units there are not
        chosen = slice(None) if self.chosen is None else list(self.chosen)
        if self.coder is None:
            mixed = into.clone()
            mixed[:, :, chosen] = source[:, :, chosen]
            return mixed
        own, mixed = self._encoded(into), self._encoded(into).clone()
        mixed[:, :, chosen] = self._encoded(source)[:, :, chosen]
        return into + (self.coder.decode(mixed.flatten(0, 1)) - self.coder.decode(own.flatten(0, 1))).reshape(into.shape).to(into)

    @torch.no_grad()
    def _encoded(self, activation: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch pos feature"]:
        assert self.coder is not None
        return self.coder.encode(activation.flatten(2).flatten(0, 1)).unflatten(0, activation.shape[:2])


# ---- what units do ----


def observed(before: Model, after: Model, batches: Iterable[Rows], units: Sequence[Units]) -> pd.DataFrame:
    """Every unit in both models on the same tokens; of each hook those first that changed most.

    With a what a unit says before at a position that counts (a vector for heads), a' after, one row per unit with

    share        of all that changed at its hook: Σ|a' − a|² over the sum of that over all units listed
    change       Σ|a' − a|² / Σ|a|²; infinite for a unit that was silent
    correlation  of a with a', over positions (and coordinates, each about its mean); NaN for one that always says the same
    before, after     mean of |a| for heads, of a for neurons and features
    fires before, fires after   how often a > 0; NaN for heads
    q            the false discovery rate (Benjamini & Hochberg 1995) at which the means differ, by t-tests paired by row. It says
                 that other rows would differ too, as they do under noise in the weights; what a unit matters, `carried` says

    Raises ConfigError for marks and units that do not fit, fewer than two rows, or none that counts,
    and no units.
    """
    if not units:
        raise ConfigError("there are no units to compare; give one at least")
    sums = [_Sums() for _ in units]
    hooks = [each.hook for each in units]
    for rows in batches:
        first, second = (rows.read(model, hooks) for model in (before, after))
        for each, total in zip(units, sums, strict=True):
            total.update(each.of(first[each.hook]), each.of(second[each.hook]), rows.counts(first[each.hook].shape[1]))
    found = pd.concat([_table(each, total) for each, total in zip(units, sums, strict=True)], ignore_index=True)
    return found.assign(q=false_discovery_control(found.p.to_numpy())).drop(columns="p")


def strongest(table: pd.DataFrame, units: Units, n: int) -> Units:
    """The `n` of some units that changed most, by a table of `observed`."""
    return replace(units, chosen=tuple(map(int, _rows_of(table, units).unit[:n])))


def drawn(table: pd.DataFrame, units: Units, n: int, *, seed: int, number: int = 0) -> Units:
    """The control: `n` of them at random, of those that ever fire in either model; another draw for every number."""
    rows = _rows_of(table, units)
    fires = rows.unit[rows[["fires before", "fires after"]].fillna(1).sum(axis=1) > 0].to_numpy()
    if n > len(fires):
        raise ConfigError(f"n={n} units cannot be drawn from {len(fires)} that fire at {units.hook}; draw {len(fires)} at most")
    picked = stats.generator(seed, "drawn units", units.hook, number).choice(fires, n, replace=False)
    return replace(units, chosen=tuple(map(int, picked)))


def _rows_of(table: pd.DataFrame, units: Units) -> pd.DataFrame:
    return table.loc[(table.hook == units.hook) & ((table.kind == "feature") == (units.coder is not None)), :]


def unexplained(model: Model, batches: Iterable[Rows], units: Units) -> float:
    """Σ|x − x̂|² / Σ|x − mean|² of a coder on a model: whether its features still speak of what they were trained on.

    Raises ConfigError without a coder.
    """
    if units.coder is None:
        raise ConfigError(f"there is no coder at {units.hook}, so nothing is reconstructed; give Units(hook, coder=…)")
    moments, left = Moments(), 0.0
    for rows in batches:
        activation = rows.read(model, [units.hook])[units.hook].flatten(2)
        x = activation[rows.counts(activation.shape[1]).bool().to(activation.device)]
        with torch.no_grad():
            left += float((x - units.coder.decode(units.coder.encode(x))).double().square().sum())
        moments.update(x)
    found = moments.compute()
    return left / float(found.variance.sum() * found.n)


def looked(before: Model, after: Model, batches: Iterable[Rows], hooks: Sequence[str]) -> dict[str, Measurement]:
    """How far every head looks elsewhere, averaged over the queries that count: name -> Measurement(attention, head, example).

    "total variation": ½ Σ_keys |p' − p|, the share of attention that moved. "divergence": Jensen and Shannon's, in nats, at most
    ln 2. attention: the hooks, which all end in hook_pattern; HookError for others.
    """
    wrong = [hook for hook in hooks if not hook.endswith("hook_pattern")]
    if wrong or not hooks:
        raise HookError(f"{wrong[0] if wrong else 'nothing'} holds no attention pattern; give hooks that end in hook_pattern")
    kept: dict[str, list[Tensor]] = {"total variation": [], "divergence": []}
    for rows in batches:
        p, q = (torch.stack([*rows.read(model, hooks).values()]).double() for model in (before, after))
        counts = rows.counts(p.shape[3]).to(p.device)
        mean = (p + q) / 2
        entropy = [torch.xlogy(each, each).sum(-1) for each in (p, q, mean)]
        moved = {"total variation": (p - q).abs().sum(-1) / 2, "divergence": (entropy[0] + entropy[1]) / 2 - entropy[2]}
        for name, values in moved.items():  # [attention batch head query]
            kept[name].append(((values * counts[:, None]).sum(-1) / counts.sum(-1)[:, None]).transpose(1, 2))
    units = {"total variation": "attention", "divergence": "nats"}
    return {
        name: Measurement(
            name, torch.cat(parts, 2).cpu().numpy(), ("attention", "head", "example"), {"attention": list(hooks)}, units[name]
        )
        for name, parts in kept.items()
    }


def _table(units: Units, total: _Sums) -> pd.DataFrame:
    found = pd.DataFrame(total.table())
    numbers = range(len(found)) if units.chosen is None else units.chosen
    kind = total.kind if units.coder is None else "feature"
    columns: dict[str, Any] = {"hook": units.hook, "kind": kind, "unit": numbers}
    return pd.DataFrame(columns | dict(found.items())).sort_values(by=["share"], ascending=False, kind="stable")


class _Sums:
    """Running sums over positions of two models' units."""

    def __init__(self) -> None:
        self.kind = "neuron"
        self._n, self._levels = 0.0, Moments()
        self._sums: dict[str, Any] = {}

    def update(
        self,
        a: Float[Tensor, "batch pos unit width"],
        b: Float[Tensor, "batch pos unit width"],
        counts: Float[Tensor, "batch pos"],
    ) -> None:
        if a.shape != b.shape:
            raise ModelError(f"units are {list(a.shape)} in the model before and {list(b.shape)} after; give models of one shape")
        a, b, counts = a.double(), b.double(), counts.to(a.device)
        heads = a.shape[-1] > 1
        self.kind = "head" if heads else "neuron"
        spread = counts[..., None, None]
        new = {"a": (a * spread).sum((0, 1)), "b": (b * spread).sum((0, 1))}
        for name, product in {"aa": a * a, "bb": b * b, "ab": a * b, "change": (b - a).square()}.items():
            new[name] = (product * spread).sum((0, 1, 3))
        levels = {name: x.norm(dim=-1) if heads else x[..., 0] for name, x in (("a", a), ("b", b))}
        for name, level in levels.items():
            new[f"level {name}"] = (level * counts[..., None]).sum((0, 1))
            new[f"fires {name}"] = ((level > 0) * counts[..., None]).sum((0, 1)) * (np.nan if heads else 1.0)
        self._sums = {name: self._sums.get(name, 0) + value for name, value in new.items()}
        self._n += float(counts.sum())
        of_row = ((levels["b"] - levels["a"]) * counts[..., None]).sum(1) / counts.sum(1)[:, None]
        self._levels.update(of_row[counts.sum(1) > 0])

    def table(self) -> dict[str, np.ndarray]:
        if not self._n or (differences := self._levels.compute()).n < 2:
            raise ConfigError("fewer than two rows have a position that counts; tests are paired by row, so give more rows")
        sums = {name: value.cpu().numpy() for name, value in self._sums.items()}
        variances = [sums[2 * name] - np.square(sums[name]).sum(-1) / self._n for name in "ab"]
        common = sums["ab"] - (sums["a"] * sums["b"]).sum(-1) / self._n
        constant = (variances[0] <= 1e-12 * sums["aa"]) | (variances[1] <= 1e-12 * sums["bb"])
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.where(sums["change"] > 0, sums["change"] / sums["aa"], 0.0)
            share = np.where(sums["change"] > 0, sums["change"] / sums["change"].sum(), 0.0)
            correlation = np.where(constant, np.nan, common / np.sqrt(variances[0] * variances[1]))
        return {
            "share": share,
            "change": change,
            "correlation": correlation,
            **{name: sums[f"level {side}"] / self._n for name, side in (("before", "a"), ("after", "b"))},
            **{f"fires {name}": sums[f"fires {side}"] / self._n for name, side in (("before", "a"), ("after", "b"))},
            "p": _paired_p(differences.mean.cpu().numpy(), differences.variance.cpu().numpy(), differences.n),
        }


def _paired_p(mean: np.ndarray, variance: np.ndarray, n: int) -> np.ndarray:
    """Of two-sided t-tests that the mean is 0; differences that are all alike leave no doubt."""
    error = np.sqrt(variance / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * student.sf(np.abs(mean) / error, n - 1)
    return np.where(error > 0, p, np.where(mean == 0, 1.0, 0.0))


# ---- what carries a change of behaviour ----


@dataclass(frozen=True)
class Carried:
    """By how much a metric changes when a part of one model is put into the other, and when all of it is, on every example.

    effects: Measurement(part, example); whole: Measurement(example).
    """

    effects: Measurement
    whole: Measurement

    def share(self, part: str, *, seed: int = 0) -> stats.Estimate:
        """Σ effect / Σ whole over examples, which are resampled. Raises ConfigError where the models behave alike."""
        whole = self.whole.values
        if abs(whole.mean()) <= 1e-6 * max(1.0, float(np.abs(whole).max())):
            raise ConfigError("the metric is the same in both models, so there is no change to share out; ask another metric")
        return stats.ratio(self.effects.sel(part=part).values, whole, seed=seed)

    def table(self, *, seed: int = 0) -> pd.DataFrame:
        """part, share, low, high."""
        shares = {part: self.share(part, seed=seed) for part in self.effects.coords["part"]}
        return pd.DataFrame(
            [{"part": part, "share": each.value, "low": each.low, "high": each.high} for part, each in shares.items()]
        )


def carried(
    into: Model,
    source: Model,
    contrast: Contrast,
    parts: Mapping[str, Sequence[Units]],
    *,
    metric: Metric = Contrast.logit_difference,
    where: Bool[Tensor, "example pos"] | None = None,
    batch: int = 64,
) -> Carried:
    """Runs `into` on the clean inputs with the activations that `source` has there put in, part by part (CMAP).

    From the model after into the one before, the share says what is enough for the change; the other way round, what it needs.
    where: the positions at which they are put in; all without it. The corrupted twins are not used.

    Raises HookError and ConfigError for units that do not exist, ConfigError for a metric that is no finite number per example.
    """

    def runs(rows: slice) -> list[Tensor]:
        asked = contrast[rows]
        given = Rows(asked.clean, None if where is None else where[rows], asked.beside)
        hooks = [units.hook for part in parts.values() for units in part]
        theirs = given.read(source, hooks)
        edits = [[Edit(units.hook, partial(_put, units, theirs[units.hook], given)) for units in part] for part in parts.values()]
        beside: dict[str, Any] = dict(asked.beside)
        logits = [model.run(asked.clean, edits=each, **beside).logits for model, each in ((source, []), (into, []))]
        logits += [into.run(asked.clean, edits=each, **beside).logits for each in edits]
        return [_ask(metric, asked, each) for each in logits]

    return _carried(list(parts), contrast, runs, batch)


def grafted(
    into: Model,
    source: Model,
    contrast: Contrast,
    parts: Mapping[str, Sequence[str]],
    *,
    metric: Metric = Contrast.logit_difference,
    batch: int = 64,
) -> Carried:
    """As `carried`, with weights in place of activations: parts name weights, as `graft` does."""
    models = [source, into, *(graft(into, source, names) for names in parts.values())]

    def runs(rows: slice) -> list[Tensor]:
        asked = contrast[rows]
        return [_ask(metric, asked, model.run(asked.clean, **dict[str, Any](asked.beside)).logits) for model in models]

    return _carried(list(parts), contrast, runs, batch)


def _carried(parts: list[str], contrast: Contrast, runs: Callable[[slice], list[Tensor]], batch: int) -> Carried:
    """runs: the metric in the source, in the model as it is, and with every part put in."""
    if not parts:
        raise ConfigError("there are no parts to put in; name one at least")
    found = [torch.stack(runs(slice(start, start + batch))) for start in range(0, len(contrast), batch)]
    source, own, *with_part = torch.cat(found, 1).double().cpu().numpy()
    effects = Measurement("effect", np.stack(with_part) - own, ("part", "example"), {"part": parts})
    return Carried(effects, Measurement("whole", source - own, ("example",)))


def _put(units: Units, theirs: Tensor, given: Rows, value: Tensor) -> Tensor:
    counts = given.counts(value.shape[1]).bool().to(value.device)
    return torch.where(counts.view(*counts.shape, *(1,) * (value.ndim - 2)), units.put(value, theirs), value)


def _ask(metric: Metric, contrast: Contrast, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
    value = metric(contrast, logits)
    if list(value.shape) != [len(contrast)] or not value.isfinite().all():
        raise ConfigError(f"the metric gave {list(value.shape)} for {len(contrast)} examples; give one finite number per example")
    return value.detach()
