"""One forward pass with hooks: edits, reads, the stop after the last read, and what comes back.

Must not know: TransformerLens, model families, names. Hook points come in as modules with `add_hook` and `fwd_hooks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interp.errors import HookError, ModelError


class HookPoint(Protocol):
    """A place in a model where activations can be read and replaced (TransformerLens's `HookPoint`)."""

    fwd_hooks: list[Any]

    def add_hook(self, hook: Callable[..., Any]) -> Any: ...


@dataclass(frozen=True)
class Edit:
    """Replaces the activation at `hook` by `apply(activation)`.

    `apply` returns the new activation, of the same shape and dtype. It gets a copy, so writing into it is safe, but it must
    return what it means: a function that returns None is refused rather than ignored.
    """

    hook: str
    apply: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Visit:
    """What to do at one hook point: apply `edits` in order, then store the result under each name in `names`."""

    point: HookPoint
    names: tuple[str, ...]
    edits: tuple[Edit, ...]


class Run:
    """What a forward pass gave: `activations` by the names asked for, and `logits` if it ran to the end."""

    def __init__(self, activations: dict[str, Tensor], logits: Tensor | None) -> None:
        self.activations = activations
        self._logits = logits

    @property
    def logits(self) -> Tensor:
        """Logits, [batch pos d_vocab]. Raises ModelError when the run stopped after its last read."""
        if self._logits is None:
            raise ModelError("this run stopped after its last read and has no logits; ask for them with run(…, logits=True)")
        return self._logits


class _Stop(Exception):
    """Everything asked for has been read."""


def execute(forward: Callable[[], Tensor], visits: Sequence[Visit], *, to_end: bool, grad: bool) -> Run:
    """Runs `forward` with a hook at every visit; unless `to_end`, stops it as soon as all reads are in.

    Without `grad`, what is read is a copy: it shares no memory with the model or with the caller's input. With `grad` it is
    the tensor of the graph itself. Hooks are removed whatever happens; other hooks on the same points are left alone.
    """
    activations: dict[str, Tensor] = {}
    waiting = {name for visit in visits for name in visit.names}

    def visitor(visit: Visit) -> Callable[..., Tensor | None]:
        def hook(value: Tensor, *, hook: Any) -> Tensor | None:
            for edit in visit.edits:
                value = _edited(value, edit)
            for name in visit.names:
                activations[name] = value if grad else value.detach().clone()
                waiting.discard(name)
            if visit.names and not waiting and not to_end:
                raise _Stop
            return value if visit.edits or grad else None

        return hook

    with hooked((visit.point, visitor(visit)) for visit in visits), torch.set_grad_enabled(grad):
        try:
            logits = forward()
        except _Stop:
            logits = None
    if waiting:
        raise HookError(f"{', '.join(sorted(waiting))} never fired on these inputs")
    return Run(activations, logits)


@contextmanager
def hooked(hooks: Iterable[tuple[HookPoint, Callable[..., Any]]]) -> Iterator[None]:
    """Adds hooks for the duration of a `with` block, and removes just those."""
    added = []
    try:
        for point, hook in hooks:
            added.append((point, point.add_hook(hook)))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Puts modules in evaluation mode (no dropout) and gives each its own mode back."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _edited(value: Tensor, edit: Edit) -> Tensor:
    new = edit.apply(value.clone())
    if new is None:
        raise HookError(f"the edit at {edit.hook} returned None; return the new activation, also when editing in place")
    if not isinstance(new, Tensor):
        raise HookError(f"the edit at {edit.hook} returned a {type(new).__name__}; return a tensor")
    if new.shape != value.shape or new.dtype != value.dtype:
        raise HookError(f"the edit at {edit.hook} returned {_kind(new)} in place of {_kind(value)}; keep the shape and the dtype")
    return new


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


@contextmanager
def passing_on(blocks: Iterable[nn.Module], *, as_tuple: bool) -> Iterator[None]:
    """Within the `with` block, these modules give back the hidden states they are given, and compute nothing."""
    blocks = list(blocks)

    def forward(*args: Any, hidden_states: Any = None, **_: Any) -> Any:
        value = args[0] if args else hidden_states
        return (value,) if as_tuple else value

    for block in blocks:
        block.__dict__["forward"] = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]
