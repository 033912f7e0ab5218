"""Fine-tuning a copy of a model: some of its matrices in full, or through adapters of low rank.

What it learns from is a matter of the batches: curated rows, a teacher's probabilities (`batches.taught`) or rows that a teacher
wrote (`generation.continued`). What it changed is read off by `interp.comparison`.

Must not know: tasks, analyses, reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interp.models.batches import Batch
from interp.models.hooked import Model
from interp.models.lora import Adapters, home_of
from interp.models.training import Forward, Learner, Schedule, fit, plain


def fine_tuned(
    model: Model,
    batches: Iterable[Batch],
    parts: Sequence[str],
    *,
    schedule: Schedule,
    rank: int | None = None,
    seed: int = 0,
    forward: Forward = plain,
) -> Model:
    """A copy of a model after training some of its linear parts (["blocks.0.attn.q", …]), and nothing else; the model stays.

    rank: of adapters on these parts (α = rank), which are merged at the end; without it the matrices themselves are trained.
    seed: of the adapters and of dropout. Raises ModelError as `Adapters` does, and for models that cannot be built anew.
    """
    tuned = model.with_weights(model.state(), name=f"{model.name} (fine-tuned)")
    adapters = None if rank is None else Adapters(tuned, parts, rank=rank, alpha=rank, seed=seed)
    if adapters is None:
        trained = {id(home_of(tuned, part).weight) for part in parts}
        for each in tuned.module.parameters():
            each.requires_grad_(id(each) in trained)
    fit(Learner(tuned.module, schedule=schedule, seed=seed, forward=forward), batches)
    if adapters is not None:
        adapters.merge()
    tuned.module.requires_grad_(True)
    return tuned
