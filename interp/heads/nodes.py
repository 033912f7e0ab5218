"""The nodes whose effects are asked for: their names, and the hooks at which they stand side by side.

What writes into a residual stream is named as in the graph: "input", "a0.h1", "m0", "dec.c0.h1". What a head reads with is
"a0.h1<q>" ("a0.kv0<k>" where several heads share one key), its pattern "a0.h1<pattern>", the residual after block 0 "resid0".

Must not know: how effects are found, figures, reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.heads.ablation import axes
from interp.heads.graph import Graph
from interp.models.anatomy import Sublayer
from interp.names import did_you_mean

WRITERS = ("input", "z", "mlp")
"""The parts that write into a residual stream: the nodes of the graph."""
PARTS = (*WRITERS, "q", "k", "v", "pattern", "resid")


@dataclass(frozen=True)
class Site:
    """Nodes at one hook: one for each head there, or a single one.

    block: the block it stands in, as "blocks.0"; None for residuals, which belong to no block.
    sublayer: the attention or MLP it is part of; None for residuals.
    """

    part: str
    hook: str
    names: tuple[str, ...]
    sublayer: Sublayer | None = None

    @property
    def block(self) -> str | None:
        return None if self.sublayer is None else ".".join(self.hook.split(".")[:2])

    @property
    def pattern(self) -> str:
        """The hook of the pattern that the queries, keys or values here belong to."""
        assert self.sublayer is not None
        return pattern_hook(self.sublayer)

    def per_node(self, products: Float[Tensor, "example ..."]) -> Float[Tensor, "node example pos"]:
        """Products of activations and gradients at the hook, summed within each node and position (in a pattern, the query's)."""
        known = axes(self.hook)
        if "head" not in known:
            return products.flatten(2).sum(-1)[None]
        return products.movedim((known["head"], known["pos"]), (0, 2)).flatten(3).sum(-1)


def sites(graph: Graph, parts: Sequence[str]) -> list[Site]:
    """The sites of some parts of a model. Raises ConfigError for parts that do not exist."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown or isinstance(parts, str) or not parts:
        came = f"no part {unknown[0]!r}{did_you_mean(unknown[0], PARTS)}" if unknown else f"parts={parts!r}"
        raise ConfigError(f"{came}; give some of {', '.join(PARTS)}")
    return [site for site in _all(graph) if site.part in parts]


def pattern_hook(sublayer: Sublayer) -> str:
    """The hook of an attention's pattern."""
    return f"{sublayer.writes.rpartition('.')[0]}.hook_pattern"


def _all(graph: Graph) -> Iterator[Site]:
    written, read = _by_hook(graph)
    for stream in graph.anatomy.streams.values():
        yield Site("input", stream.start, written[stream.start])
        for sublayer in stream.sublayers:
            names = written[sublayer.writes]
            if sublayer.heads is None:
                yield Site("mlp", sublayer.writes, names, sublayer)
                continue
            for way, how in sublayer.ways.items():
                yield Site(way, how.hook, read[how.hook], sublayer)
            yield Site("pattern", pattern_hook(sublayer), tuple(f"{name}<pattern>" for name in names), sublayer)
            yield Site("z", sublayer.writes, names, sublayer)
        for hook in stream.ends.values():
            yield Site("resid", hook, (f"{stream.prefix}resid{hook.split('.')[1]}",))


def _by_hook(graph: Graph) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The names of what is written, and read, at each hook."""
    written: dict[str, tuple[str, ...]] = {}
    read: dict[str, tuple[str, ...]] = {}
    for name, writer in graph.writers.items():
        written[writer.hook] = (*written.get(writer.hook, ()), name)
    for (target, way), reader in graph.readers.items():
        read[reader.way.hook] = (*read.get(reader.way.hook, ()), f"{target}<{way}>")
    return written, read
