"""What is asked of a model about a contrast: whether the two fit together, and the metric's value on a run.

Every intervention and attribution asks through here, so that a contrast that fits no model, and a metric that is no number per
example, end in one line before a table is made of them.

Must not know: how effects are found, figures, reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast, Metric


def require_fits(model: Model, contrast: Contrast, *, twins: bool = True) -> None:
    """Raises ModelError, with every fault, for a contrast that this model cannot be asked about: answers outside its vocabulary,
    positions outside the rows, twins that differ nowhere, further inputs whose twins have other names or shapes.

    twins: whether the corrupted twins are used at all; if not, they may be anything.
    Tokens and further inputs by themselves are checked by `Model.run`.
    """
    faults = [*_unasked(model, contrast), *(_alike(contrast) if twins else ())]
    if faults:
        raise ModelError("; ".join(faults))


def ask(metric: Metric, contrast: Contrast, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
    """The metric of every example. Raises ConfigError unless it is one finite number per example."""
    value = metric(contrast, logits)
    if not isinstance(value, Tensor) or value.shape != (len(contrast),):
        came = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(f"the metric gave {came} for {len(contrast)} examples; give one number per example")
    if not value.isfinite().all():
        example = int((~value.isfinite()).nonzero()[0])
        raise ConfigError(f"the metric is {float(value[example])} in example {example}; give one that is finite on these logits")
    return value


def require_telling(effects: Float[Tensor, "item example *rest"], names: Sequence[str]) -> None:
    """Raises ModelError for estimates that are not finite, and for a table in which every one is 0."""
    if not effects.isfinite().all():
        item, example = (~effects.isfinite()).flatten(2 if effects.ndim > 2 else 1).nonzero()[0][:2].tolist()
        raise ModelError(
            f"the estimate at {names[item]} is not finite in example {example}: its gradient or activation overflows; use a "
            "model in float32, or another metric"
        )
    if not bool(effects.any()):
        raise ModelError(
            "every effect is exactly 0: the metric does not depend on the activations there (its gradient is 0), or the twins do "
            "not differ in anything it sees; ask another metric, or corrupt other tokens"
        )


def _unasked(model: Model, contrast: Contrast) -> Iterator[str]:
    """Faults of the question."""
    for name, ids in (("answers", contrast.answers), ("wrong", contrast.wrong)):
        outside = [] if ids is None else ids[(ids < 0) | (ids >= model.d_vocab)].tolist()
        if outside:
            yield f"{name} holds the id {outside[0]}, but the model's vocabulary is 0 to {model.d_vocab - 1}"
    length = contrast.beside.get("decoder_input", contrast.clean).shape[1]
    places = torch.as_tensor(contrast.positions)
    outside = places[(places < -length) | (places >= length)].tolist()
    if outside:
        yield f"positions holds {outside[0]}, but the logits have {length} positions; use {-length} to {length - 1}"
    if contrast.reference is not None and contrast.reference.shape != (len(contrast), model.d_vocab):
        expected = f"[{len(contrast)}, {model.d_vocab}]"
        yield f"reference has shape {list(contrast.reference.shape)}, expected {expected}: logits where the question is asked"


def _alike(contrast: Contrast) -> Iterator[str]:
    """Faults of the twins."""
    twins = contrast.beside if contrast.beside_corrupt is None else contrast.beside_corrupt
    yield from _unequal(contrast.beside, twins)
    if torch.equal(contrast.clean, contrast.corrupt) and all(
        torch.equal(value, twins[name]) for name, value in contrast.beside.items() if name in twins
    ):
        yield "clean and corrupted inputs are the same in every example, so nothing can have an effect; give twins that differ"


def _unequal(clean: Mapping[str, Tensor], corrupt: Mapping[str, Tensor]) -> Iterator[str]:
    if set(clean) != set(corrupt):
        came = f"{', '.join(sorted(clean)) or 'nothing'} beside the clean tokens and {', '.join(sorted(corrupt)) or 'nothing'}"
        yield f"there is {came} beside the corrupted ones; give the same inputs to both"
    for name in sorted(set(clean) & set(corrupt)):
        if clean[name].shape != corrupt[name].shape:
            shapes = f"{list(clean[name].shape)} beside the clean tokens and {list(corrupt[name].shape)}"
            yield f"{name} has shape {shapes} beside the corrupted ones; give twins of equal length, so that positions match"
