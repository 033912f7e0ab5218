"""The small parts that hooked Transformers are made of: linear maps, norms, MLPs, embeddings, dropout.

Every part has a hook before it (`hook_in`) and one after it (`hook_out`), and TransformerLens's shorter names for some of them
(`aliases`). Weights are drawn from a generator that is handed in, never from torch's own.

Must not know: attention, how parts are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.models.lens import HookPoint

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class Part(nn.Module):
    """A module with a hook on what it is given and one on what it gives back.

    `aliases`: further names of hooks inside, relative to this part.
    """

    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.hook_in, self.hook_out = HookPoint(), HookPoint()


class Linear(Part):
    """y = x Wᵀ + b, drawn after Glorot & Bengio 2010: uniform within √(6 / (d_in + d_out)), b = 0.

    heads_in, heads_out: number of heads that the hook's last axis is split into; the map itself is flat on both sides.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        generator: torch.Generator,
        heads_in: int | None = None,
        heads_out: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        bound = (6 / (d_in + d_out)) ** 0.5
        self.weight = nn.Parameter((2 * torch.rand(d_out, d_in, generator=generator) - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.heads_in, self.heads_out = heads_in, heads_out

    def forward(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        y = F.linear(_seen(self.hook_in, x, self.heads_in), self.weight, self.bias)
        return _seen(self.hook_out, y, self.heads_out)


class Norm(Part):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450): (x − mean x) / √(var x + ε) · w + b over the last axis."""

    def __init__(self, d_model: int, *, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.eps = eps
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = self.hook_in(x)
        centred = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_out(self.hook_normalized(centred / scale) * self.weight + self.bias)

    @property
    def w(self) -> Tensor:
        """The gain, [d_model]."""
        return self.weight

    @property
    def b(self) -> Tensor:
        """The bias, [d_model]."""
        return self.bias


class Mlp(Part):
    """f(x W_in + b_in) W_out + b_out, position by position (Vaswani et al. 2017, §3.3)."""

    aliases = {"hook_pre": "in.hook_out", "hook_post": "out.hook_in"}

    def __init__(self, d_model: int, d_mlp: int, *, act_fn: str, generator: torch.Generator) -> None:
        super().__init__()
        self.add_module("in", Linear(d_model, d_mlp, generator=generator))
        self.out = Linear(d_mlp, d_model, generator=generator)
        self.act_fn = ACTIVATIONS[act_fn]

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.hook_out(self.out(self.act_fn(self._in(self.hook_in(x)))))

    @property
    def _in(self) -> Linear:  # TransformerLens's name for it is a word of Python's
        return getattr(self, "in")

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self._in.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return self.out.weight.T

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"]:
        assert self._in.bias is not None
        return self._in.bias

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        assert self.out.bias is not None
        return self.out.bias


class Embed(Part):
    """A row of `weight` for every token, times `scale` (√d_model in Vaswani et al. 2017, §3.4). Rows are N(0, 1/d_model)."""

    def __init__(self, d_vocab: int, d_model: int, *, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_vocab, d_model, generator=generator) / d_model**0.5)
        self.scale = scale

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.hook_out(self.weight[self.hook_in(tokens)] * self.scale)


class Dropout(nn.Module):
    """Each number is 0 with probability `p` and otherwise divided by 1 − p, in training only (Srivastava et al. 2014).

    Draws from `generator`, which whoever trains must set: without one, training with p > 0 would not be repeatable.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.p
        return x * kept / (1 - self.p)


def _seen(hook: nn.Module, x: Tensor, heads: int | None) -> Tensor:
    return hook(x) if heads is None else hook(x.unflatten(-1, (heads, -1))).flatten(-2)
