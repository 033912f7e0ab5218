"""Planted features: activations whose true dictionary and codes are known, for tests, calibration and comparison.

    x = Σ_i codes_i · G_i + bias + noise,   codes_i = on_i · magnitude_i,   G_i unit directions

Features fire apart, or together through shared factors, or only under a parent (`Forest`). All is drawn sparsely: the work
grows with the features that may fire, not with rows × features, wherever features are not correlated.

Must not know: autoencoders, training, files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.names import did_you_mean
from interp.stats import torch_generator, torch_seed


@dataclass(frozen=True)
class Forest:
    """`roots` trees, the first features of a dictionary level by level: each node above `depth` has `branching` children.

    A child can fire only where its parent does, its size goes with its parent's, and of the siblings that would fire at once
    one stays, drawn at random.
    """

    roots: int
    branching: int
    depth: int

    @property
    def starts(self) -> tuple[int, ...]:
        """The first feature of each level, and the first after the trees."""
        sizes = [self.roots * self.branching**level for level in range(self.depth + 1)]
        return tuple(sum(sizes[:level]) for level in range(self.depth + 2))

    def children(self, level: int) -> Int[Tensor, "parent child"]:
        """The children of all features of one level."""
        first, after = self.starts[level + 1 : level + 3]
        return torch.arange(first, after).view(-1, self.branching)


@dataclass(frozen=True)
class Codes:
    """True codes as entries, ordered by row: feature `feature[e]` fires on row `row[e]` with size `value[e]`."""

    row: Int[Tensor, "entry"]
    feature: Int[Tensor, "entry"]
    value: Float[Tensor, "entry"]

    def dense(self, rows: int, features: int) -> Float[Tensor, "row feature"]:
        """The same as a matrix."""
        return self.value.new_zeros(rows, features).index_put_((self.row, self.feature), self.value)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A known dictionary and the law by which its features fire.

    dictionary: unit rows.
    probability: of firing; for a child in `forest`, of firing where its parent does, before siblings exclude each other.
    magnitude, spread: mean and standard deviation of a feature's size where it fires; sizes are uniform, and never below 0.
    factor: features i and j fire as if Gaussians with correlation factor_i · factor_j passed their thresholds; None: apart.
    bias: added to every row. noise: expected norm of the Gaussian noise added to a row.
    """

    dictionary: Float[Tensor, "feature d"]
    probability: Float[Tensor, "feature"]
    magnitude: Float[Tensor, "feature"]
    spread: Float[Tensor, "feature"]
    bias: Float[Tensor, "d"]
    noise: float = 0.0
    factor: Float[Tensor, "feature rank"] | None = None
    forest: Forest | None = None

    def to(self, device: torch.device | str) -> Planted:
        """The same on another device; a device draws its own random numbers."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)

    @torch.no_grad()
    def draw(self, rows: int, generator: torch.Generator) -> tuple[Float[Tensor, "row d"], Codes]:
        """Rows, and their true codes as entries. `generator` lives on the device of the dictionary."""
        codes = self._codes(rows, generator)
        offsets = torch.searchsorted(codes.row, torch.arange(rows, device=codes.row.device))
        x = F.embedding_bag(codes.feature, self.dictionary, offsets, mode="sum", per_sample_weights=codes.value) + self.bias
        if self.noise:
            x += self._normal(x.shape, generator) * (self.noise / x.shape[1] ** 0.5)
        return x, codes

    def sample(self, rows: int, generator: torch.Generator) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row feature"]]:
        """Rows and their true codes as a matrix."""
        x, codes = self.draw(rows, generator)
        return x, codes.dense(rows, len(self.dictionary))

    def batches(self, rows: int, count: int, *, seed: int = 0, start: int = 0) -> Iterator[Float[Tensor, "row d"]]:
        """Batches number `start` to `count` - 1 of the stream with this seed.

        Batch i depends on (seed, i) alone, so a stream can be taken up anywhere.
        """
        for index in range(start, count):
            yield self.draw(rows, self.generator(seed, index))[0]

    def generator(self, seed: int, index: int) -> torch.Generator:
        """The generator that batch number `index` of a stream is drawn from."""
        return torch.Generator(self.dictionary.device).manual_seed(torch_seed(seed, "planted rows", index))

    def _codes(self, rows: int, generator: torch.Generator) -> Codes:
        shared = None if self.factor is None else self._normal((rows, self.factor.shape[1]), generator)
        row, feature = self._free(rows, shared, generator)
        levels = [Codes(row, feature, self._sizes(feature, generator))]
        for level in range(0 if self.forest is None else self.forest.depth):
            levels.append(self._children(level, levels[-1], shared, generator))
        if len(levels) == 1:
            return levels[0]
        row = torch.cat([codes.row for codes in levels])
        order = row.argsort(stable=True)
        feature, value = (torch.cat([getattr(codes, name) for codes in levels])[order] for name in ("feature", "value"))
        return Codes(row[order], feature, value)

    def _free(self, rows: int, shared: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the features without parents fire, ordered by row."""
        device = self.dictionary.device
        free = torch.arange(len(self.dictionary), device=device)
        if self.forest is not None:
            free = torch.cat([free[: self.forest.roots], free[self.forest.starts[-1] :]])
        if shared is not None:
            chance = self._chance(free, shared)
            row, place = (torch.rand(chance.shape, generator=generator, device=device) < chance).nonzero(as_tuple=True)
            return row, free[place]
        # Poisson counts of rate -log(1 - p) per cell: a cell is hit at least once with probability p, apart from all others
        hits = torch.poisson(-rows * torch.log1p(-self.probability[free]), generator=generator).long()
        feature = torch.repeat_interleave(free, hits)
        row = torch.randint(rows, feature.shape, generator=generator, device=device)
        cell = (row * len(self.dictionary) + feature).unique()
        return cell // len(self.dictionary), cell % len(self.dictionary)

    def _chance(self, features: Int[Tensor, "n"], shared: Float[Tensor, "row rank"]) -> Float[Tensor, "row n"]:
        """Probability of firing given the shared factors: Φ((factor · shared + Φ⁻¹(p)) / √(1 - ‖factor‖²))."""
        assert self.factor is not None
        factor, start = self.factor[features], torch.special.ndtri(self.probability[features])
        rest = (1 - factor.square().sum(1)).sqrt()
        return _normal_cdf(torch.addmm(start / rest, shared, (factor / rest[:, None]).T))

    def _children(self, level: int, parents: Codes, shared: Tensor | None, generator: torch.Generator) -> Codes:
        """What fires below the active features of one level."""
        assert self.forest is not None
        first, after = self.forest.starts[level : level + 2]
        inside = (parents.feature >= first) & (parents.feature < after)
        row, parent, size = parents.row[inside], parents.feature[inside], parents.value[inside]
        children = self.forest.children(level).to(row.device)[parent - first]
        chance = self.probability[children]
        if shared is not None:
            assert self.factor is not None
            factor = self.factor[children]
            rest = (1 - factor.square().sum(-1)).sqrt()
            pull = torch.einsum("ecr,er->ec", factor, shared[row])
            chance = _normal_cdf((pull + torch.special.ndtri(chance)) / rest)
        uniform = torch.rand((2, *chance.shape), generator=generator, device=row.device)
        fires = uniform[0] < chance
        entry, place = fires.any(1).nonzero().squeeze(1), (uniform[1] * fires).argmax(1)
        feature = children[entry, place[entry]]
        return Codes(row[entry], feature, self._sizes(feature, generator) * (size / self.magnitude[parent])[entry])

    def _sizes(self, feature: Int[Tensor, "entry"], generator: torch.Generator) -> Float[Tensor, "entry"]:
        uniform = torch.rand(feature.shape, generator=generator, device=feature.device)
        return (self.magnitude[feature] + (2 * uniform - 1) * math.sqrt(3) * self.spread[feature]).relu()

    def _normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.dictionary.device)


def planted(n: int, d: int, *, commonest: float = 0.05, rarest: float = 0.002, noise: float = 0.0, seed: int = 0) -> Planted:
    """`n` features in `d` dimensions that fire apart, with sizes uniform on [0.5, 1.5].

    Firing probabilities fall as a power law of the rank from `commonest` to `rarest`.
    """
    if not 0 < rarest <= commonest < 1:
        raise ConfigError(
            f"firing probabilities from {commonest} down to {rarest} are not ordered within (0, 1); swap or shrink them"
        )
    exponent = torch.arange(1, n + 1).double().log() / math.log(max(n, 2))
    return Planted(
        dictionary=_directions(n, d, seed),
        probability=(commonest * (rarest / commonest) ** exponent).float(),
        magnitude=torch.ones(n),
        spread=torch.full((n,), 1 / math.sqrt(12)),
        bias=torch.zeros(d),
        noise=noise,
    )


def benchmark_like(n: int, d: int, *, seed: int = 0) -> Planted:
    """Features that fire as those of SynthSAEBench-16k do (Chanin & Garriga-Alonso 2026, arXiv:2602.14687).

    That has n = 16,384 and d = 768. Zipf firing probabilities of exponent 1/2 from 0.4 down to 5e-4; a third of the features
    free, the rest in trees of depth 3 with 4 children each, exclusive and scaled by their parents, their probabilities raised
    to make up for both; correlations of rank 25 and scale 0.1; mean sizes from 5 (commonest) to 4, standard deviations
    |N(0.5, 0.5²)|; a bias of norm 0.5.
    The directions form a tight frame, the optimum of the published orthogonalisation. One difference: sizes are uniform, with
    the published means and deviations, where the original draws them from a normal law.
    """
    forest = Forest(roots=n // 128, branching=4, depth=3)
    if n < max(128, d):
        raise ConfigError(f"n={n} features are fewer than {max(128, d)}: too few for a tree, or for {d} dimensions; use more")
    generator = torch_generator(seed, "planted law")
    rank = torch.arange(1, n + 1).double().rsqrt()
    probability = 5e-4 + (0.4 - 5e-4) * (rank - rank[-1]) / (1 - rank[-1])
    factor = 0.1 * torch.randn(n, 25, generator=generator)
    length = factor.norm(dim=1, keepdim=True)
    bias = torch.randn(d, generator=generator)
    return Planted(
        dictionary=_tight_frame(_directions(n, d, seed)),
        probability=_compensated(probability, forest).float(),
        magnitude=torch.linspace(5, 4, n),
        spread=(0.5 + 0.5 * torch.randn(n, generator=generator)).abs(),
        bias=0.5 * bias / bias.norm(),
        factor=factor * (length.clamp(max=math.sqrt(0.99)) / length),
        forest=forest,
    )


PRESETS: dict[str, Callable[[int], Planted]] = {
    "tiny": lambda seed: planted(64, 32, rarest=0.02, seed=seed),
    "small": lambda seed: planted(512, 64, seed=seed),
    "medium": lambda seed: planted(2048, 256, seed=seed),
    "synth-sae-bench-1k": lambda seed: benchmark_like(1024, 128, seed=seed),
    "synth-sae-bench-16k": lambda seed: benchmark_like(16384, 768, seed=seed),
}
"""Instances by name. True L0: 1.6, 2.0, 7.0, 7.0, 35."""


def preset(name: str, *, seed: int = 0) -> Planted:
    """The instance of that name (`PRESETS`). Raises ConfigError for a name that is not there."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}{did_you_mean(name, PRESETS)}; presets are {', '.join(PRESETS)}")
    return PRESETS[name](seed)


def _directions(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    generator = torch_generator(seed, "planted dictionary")
    return F.normalize(torch.randn(n, d, generator=generator), dim=1)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.erf(x * 0.5**0.5)  # torch.special.ndtr is not vectorised


def _tight_frame(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Unit rows with Gᵀ G = (n / d) · identity, nearly: they overlap as little as they can on average."""
    for _ in range(4):
        whitener = torch.linalg.cholesky(directions.T @ directions)
        directions = F.normalize(torch.linalg.solve_triangular(whitener, directions.T, upper=False).T, dim=1)
    return directions


def _compensated(wanted: Float[Tensor, "feature"], forest: Forest) -> Float[Tensor, "feature"]:
    """Probabilities of firing under a firing parent that come near the wanted ones: p/P · (1 + Σ_siblings p/P), at most 1."""
    given = wanted.clone()
    for level in range(forest.depth):
        first, after = forest.starts[level : level + 2]
        children = forest.children(level)
        share = wanted[children] / wanted[first:after, None]
        given[children] = (share * (1 + share.sum(1, keepdim=True) - share)).clamp(max=1)
    return given
