"""An autoencoder at its place in a model: edits that put its reconstruction there, or change what single features say.

    y′ = y + (f′ - f) W_dec                  with the error term: only the change of the codes is felt
    y′ = ŷ + (f′ - f) W_dec                  without: the reconstruction stands in for the activation

f are the codes of what is read, f′ the changed ones, ŷ the reconstruction. An autoencoder reads and writes one hook, a
transcoder reads one and writes another. Activations with a head axis are laid side by side, as `harvest` does.

Every edit says at which positions it acts: `where` is [batch pos], mostly `TokenBatch.is_text`, or None for everywhere; BOS and
padding keep their activations when it marks text. Model.run refuses edits at hooks through which nothing can act.

Must not know: how autoencoders are trained, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, HookError
from interp.models.hooked import Edit
from interp.sae.autoencoder import SparseAutoencoder

Where = Bool[Tensor, "batch pos"] | None
Change = Callable[[Float[Tensor, "row d_sae"]], Float[Tensor, "row d_sae"]]


@dataclass(frozen=True)
class Site:
    """An autoencoder and the hook it reads; for a transcoder also the hook it writes, which must come later.

    Raises HookError for a transcoder without a hook to write, and for an autoencoder with another one.
    """

    sae: SparseAutoencoder
    hook: str
    hook_out: str | None = None

    def __post_init__(self) -> None:
        if self.sae.transcodes and self.hook_out is None:
            raise HookError(f"a transcoder writes another hook than the one it reads ({self.hook}); pass hook_out=")
        if not self.sae.transcodes and self.hook_out is not None:
            raise HookError(f"an autoencoder writes the hook it reads ({self.hook}), not {self.hook_out}; leave hook_out out")

    @property
    def written(self) -> str:
        """The hook that is written."""
        return self.hook if self.hook_out is None else self.hook_out

    @property
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        """What a unit of every code adds to the activation that is written."""
        return self.sae.W_dec * (self.sae.scale_out.mean() / self.sae.scale_out)

    def encode(self, activation: Float[Tensor, "_ _ *d"], where: Where) -> Float[Tensor, "row d_sae"]:
        """Codes at the marked positions of the activation that is read. Raises HookError when it has another size."""
        found = rows(activation, where, self.hook)
        _check_size(self.hook, found.shape[1], self.sae.d_in, "d_in")
        return self.sae.encode(found.to(self.sae.W_dec.device))


def splice(site: Site, *, where: Where, error: bool = False, change: Change | None = None) -> list[Edit]:
    """Edits that put the reconstruction in place of the activation, or that change the codes beneath it.

    error: keep what the autoencoder does not explain (a skip counts among it); then only `change` is felt.
    change: from codes to codes, row by row.

    Raises HookError for an edit that would change nothing; while running, for activations of another size than the
    autoencoder's and for a transcoder whose hooks come in the other order.
    """
    if error and change is None:
        raise HookError("with the error term and no change of the codes nothing is changed; pass change=, or error=False")

    def replace(read: Float[Tensor, "row d_in"], written: Float[Tensor, "row d_out"]) -> Float[Tensor, "row d_out"]:
        _check_size(site.hook, read.shape[1], site.sae.d_in, "d_in")
        _check_size(site.written, written.shape[1], site.sae.d_out, "d_out")
        base = written if error else site.sae(read)
        if change is None:
            return base
        codes = site.sae.encode(read)
        return base + (change(codes) - codes) @ site.directions

    if site.hook_out is None:
        return [edit_rows(site.hook, lambda both: replace(both, both), where=where)]
    carried: list[Tensor] = []

    def carry(read: Tensor) -> Tensor:
        carried[:] = [rows(read, where, site.hook)]
        return read

    def put(written: Tensor) -> Tensor:
        if not carried:
            raise HookError(f"{site.written} fires before {site.hook}, so what is read comes too late; swap hook and hook_out")
        return replace(carried.pop(), written)

    return [Edit(site.hook, carry), edit_rows(site.hook_out, put, where=where)]


def ablate(site: Site, latents: Iterable[int], *, where: Where, error: bool = True) -> list[Edit]:
    """Edits under which features do not fire: their codes are 0. Raises as `clamp`."""
    return clamp(site, dict.fromkeys(latents, 0.0), where=where, error=error)


def clamp(site: Site, values: Mapping[int, float], *, where: Where, error: bool = True) -> list[Edit]:
    """Edits under which each of these features has the given code at every marked position.

    Raises ConfigError for latents that do not exist or none at all; else as `splice`.
    """
    latents = check_latents(site, values)
    fixed = torch.tensor(list(values.values()), dtype=site.sae.W_dec.dtype, device=latents.device)

    def change(codes: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        return codes.index_copy(1, latents, fixed.expand(len(codes), -1))

    return splice(site, where=where, error=error, change=change)


def steer(site: Site, latent: int, strength: float, *, where: Where) -> list[Edit]:
    """An edit that adds `strength` units of a feature's direction to the activation, whatever the feature says there.

    Raises ConfigError for a latent that does not exist, HookError for a strength of 0.
    """
    check_latents(site, [latent])
    if strength == 0:
        raise HookError("a strength of 0 changes nothing; pass another strength")
    added = strength * site.directions[latent].detach()

    def push(written: Float[Tensor, "row d_out"]) -> Float[Tensor, "row d_out"]:
        _check_size(site.written, written.shape[1], site.sae.d_out, "d_out")
        return written + added

    return [edit_rows(site.written, push, where=where)]


def edit_rows(hook: str, replace: Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]], *, where: Where) -> Edit:
    """An edit of the rows at the marked positions, heads side by side; all else stays. Raises HookError as `rows`."""

    def apply(activation: Tensor) -> Tensor:
        new = replace(rows(activation, where, hook)).to(activation)
        marked = _marked(activation, where)
        return activation.index_put((marked,), new.reshape(-1, *activation.shape[2:]))

    return Edit(hook, apply)


def rows(activation: Float[Tensor, "_ _ *d"], where: Where, hook: str) -> Float[Tensor, "row d"]:
    """The activation at the marked positions, one row each, heads side by side.

    Raises HookError for marks of another shape than the tokens, and when nothing is marked.
    """
    marked = _marked(activation, where)
    if marked.shape != activation.shape[:2]:
        raise HookError(
            f"where marks positions of shape {tuple(marked.shape)}, and {hook} has {tuple(activation.shape[:2])} of them; "
            "mark the tokens of this run"
        )
    if not bool(marked.any()):
        raise HookError(f"no position is marked, so the edit at {hook} cannot act; mark at least one, or pass where=None")
    return activation[marked].flatten(1)


def positions(of: Tensor, where: Where) -> Int[Tensor, "row 2"]:
    """(example, position) of every marked row of `rows`."""
    return _marked(of, where).nonzero()


def check_latents(site: Site, latents: Iterable[int]) -> Tensor:
    """The latents as a tensor. Raises ConfigError for none, and for those that do not exist."""
    chosen, d_sae = list(latents), site.sae.d_sae
    if not chosen or min(chosen) < 0 or max(chosen) >= d_sae:
        raise ConfigError(f"latents {chosen[:8]} are not among the {d_sae} of this autoencoder; give some from 0 to {d_sae - 1}")
    return torch.tensor(chosen, device=site.sae.W_dec.device)


def _marked(activation: Tensor, where: Where) -> Tensor:
    everywhere = torch.ones(activation.shape[:2], dtype=torch.bool, device=activation.device)
    return everywhere if where is None else where.to(activation.device)


def _check_size(hook: str, found: int, wanted: int, name: str) -> None:
    if found != wanted:
        raise HookError(
            f"{hook} has activations of size {found}, and the autoencoder has {name}={wanted}; use the hook it was trained on"
        )
