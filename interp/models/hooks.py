"""Which hooks a model has, in which order they fire, and through which of them an edit can act: found out, not believed.

A survey runs a short probe once with a zero added at every hook. The hooks that fire, and their order, are seen; a hook is
*connected* when the output has a gradient with respect to its zero, even one that happens to be 0. What autograd cannot
follow (integers, values used under no_grad) is tried out: the activation is changed and the outputs are compared.

Must not know: TransformerLens, model families. Hook points come in as modules with `add_hook` and `fwd_hooks`.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from interp.errors import HookError
from interp.models.runs import Edit, HookPoint, Visit, hooked
from interp.names import did_you_mean


@dataclass
class Survey:
    """What the probe saw, by the identity of the hook point. `place` is that of the last firing."""

    first: dict[int, int] = field(default_factory=dict)
    place: dict[int, int] = field(default_factory=dict)
    fired: Counter[int] = field(default_factory=Counter)
    connected: set[int] = field(default_factory=set)
    not_tensors: dict[int, str] = field(default_factory=dict)
    distributions: set[int] = field(default_factory=set)


class Hooks:
    """The hooks of one model.

    `points` maps every name, aliases included, to its hook point; `probe` runs the model on a short input and returns its
    output (None until there is such an input: then names alone are checked); `why_off(name)` says how to switch on a hook
    that the model keeps off.
    """

    def __init__(
        self,
        points: Mapping[str, HookPoint],
        probe: Callable[[], Tensor] | None,
        why_off: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self.points = dict(points)
        self.probe = probe
        self._why_off = why_off
        self._acts: dict[int, bool] = {}

    @cached_property
    def survey(self) -> Survey:
        """The probe's findings, made on first use."""
        with silenced(self.points.values()), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about edits to the probe, which nobody made
            return _survey(self.points, self._probed)

    def resolve(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names as given, if all can be read. Raises one HookError that lists every fault."""
        if isinstance(names, str):
            raise HookError(f"expected a sequence of hook names, got the string {names!r}; write [{names!r}]")
        names = tuple(names)
        faults = [fault for name in dict.fromkeys(names) if (fault := self.fault(name)) is not None]
        if faults:
            raise HookError("; ".join(faults))
        return names

    def readable(self) -> tuple[str, ...]:
        """All names that can be read, in the order in which they fire."""
        if self.probe is None:
            return tuple(self.points)
        names = [name for name in self.points if self.fault(name) is None]
        return tuple(sorted(names, key=lambda name: self.survey.place[id(self.points[name])]))

    def fault(self, name: str) -> str | None:
        """Why `name` cannot be read here, or None."""
        if name not in self.points:
            return f"no hook {name!r} on this model{did_you_mean(name, self.points)}"
        if self.probe is None:
            return None
        key = id(self.points[name])
        if key in self.survey.not_tensors:
            return f"{name} holds a {self.survey.not_tensors[key]}, not a tensor"
        if not self.survey.fired[key]:
            return f"{name} never fires on this model" + (f"; {why}" if (why := self._why_off(name)) else "")
        if self.survey.fired[key] > 1:
            return f"{name} fires {self.survey.fired[key]} times in one run, so one name does not say which"
        if key in self.survey.distributions:
            return f"{name} holds the pattern here (the softmax has been taken); read the pattern's hook, or q and k"
        block, _, leaf = name.rpartition(".")
        if leaf == "hook_resid_mid" and self._place(name) > self._place(f"{block}.hook_mlp_out"):
            return f"{name} holds the residual after the MLP here, not before it; read what the MLP is given, or hook_resid_post"
        return None

    def visits(self, read: Sequence[str], edits: Sequence[Edit], *, to_end: bool) -> list[Visit]:
        """What to do at each hook point. Raises HookError for names that cannot be read and edits that cannot act."""
        self.resolve([*self.resolve(read), *(edit.hook for edit in edits)])
        last = max((self.survey.place[id(self.points[name])] for name in read), default=-1)
        for edit in edits:
            key = id(self.points[edit.hook])
            if not to_end and self.survey.first[key] > last:
                mend = "read a later hook or pass logits=True"
                raise HookError(f"the edit at {edit.hook} comes after everything that is read; {mend}")
            if not self.acts(edit.hook):
                raise HookError(f"{edit.hook} is inert on this model: no edit there changes the output")
        keys = dict.fromkeys(id(self.points[name]) for name in (*read, *(edit.hook for edit in edits)))
        by_key = {id(point): point for point in self.points.values()}
        return [
            Visit(
                by_key[key],
                tuple(dict.fromkeys(name for name in read if id(self.points[name]) == key)),
                tuple(edit for edit in edits if id(self.points[edit.hook]) == key),
            )
            for key in keys
        ]

    def acts(self, name: str) -> bool:
        """Whether an edit at this hook can change the output."""
        key = id(self.points[name])
        if key not in self._acts:
            self._acts[key] = key in self.survey.connected or self._changes_output(name)
        return self._acts[key]

    def _place(self, name: str) -> float:
        """When the hook fires in a run; never, if there is none."""
        return self.survey.place.get(id(self.points.get(name)), float("inf"))

    def _probed(self) -> Tensor:
        assert self.probe is not None
        return self.probe()

    def _changes_output(self, name: str) -> bool:
        with silenced(self.points.values()), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = self._probed()
            with hooked([(self.points[name], lambda value, *, hook: _disturbed(value))]):
                try:
                    after = self._probed()
                except (IndexError, RuntimeError):  # the changed value was used: it was out of range
                    return True
        return not torch.equal(before, after)


@contextmanager
def silenced(points: Iterable[HookPoint]) -> Iterator[None]:
    """Keeps other people's hooks from firing within the block."""
    kept: list[tuple[Any, dict[str, Any]]] = []
    attributes = ("_forward_hooks", "_backward_hooks", "fwd_hooks", "bwd_hooks")
    try:
        for point in {id(point): point for point in points}.values():
            kept.append((point, {name: getattr(point, name) for name in attributes}))
            for name, value in kept[-1][1].items():
                setattr(point, name, [] if isinstance(value, list) else OrderedDict())
        yield
    finally:
        for point, values in kept:
            for name, value in values.items():
                setattr(point, name, value)


def _survey(points: Mapping[str, HookPoint], probe: Callable[[], Tensor]) -> Survey:
    survey, zeros, clock = Survey(), {}, iter(range(1 << 62))

    def watch(key: int, is_scores: bool) -> Callable[..., Tensor | None]:
        def hook(value: Any, *, hook: Any) -> Tensor | None:
            survey.fired[key] += 1
            survey.place[key] = next(clock)
            survey.first.setdefault(key, survey.place[key])
            if not isinstance(value, Tensor):
                survey.not_tensors[key] = type(value).__name__
                return None
            if is_scores and _is_distribution(value):
                survey.distributions.add(key)
            if not value.is_floating_point():
                return None
            zero = torch.zeros_like(value, requires_grad=True)
            zeros.setdefault(key, []).append(zero)
            return value + zero

        return hook

    names = {id(point): name for name, point in points.items()}
    distinct = {id(point): point for point in points.values()}
    with hooked((point, watch(key, "attn_scores" in names[key])) for key, point in distinct.items()):
        output = probe()
    flat = [(key, zero) for key, several in zeros.items() for zero in several]
    if flat and output.requires_grad:
        slopes = torch.autograd.grad(output.float().sum(), [zero for _, zero in flat], allow_unused=True)
        survey.connected = {key for (key, _), slope in zip(flat, slopes, strict=True) if slope is not None}
    return survey


def _is_distribution(value: Tensor) -> bool:
    value = value.detach()
    return bool((value >= 0).all()) and bool(((value.sum(-1) - 1).abs() < 1e-2).all())


def _disturbed(value: Tensor) -> Tensor:
    """Another value of the same kind: noise on numbers, other valid ids for integers."""
    if value.is_floating_point():
        return value * 1.5 + torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
    turned = value.flip(-1)
    return turned if not torch.equal(turned, value) else (value == 0).to(value.dtype)
