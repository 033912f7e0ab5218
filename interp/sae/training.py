"""The training loop: one pass over a stream of activation batches, one step of every autoencoder per batch.

    sae = SparseAutoencoder(512, 4096, activation=TopK(32))
    history = train(sae, batches, steps=10_000)

    runs = {f"k={k}": Run(sae=SparseAutoencoder(512, 4096, activation=TopK(k))) for k in (16, 32, 64)}
    histories = train_many(runs, batches, steps=10_000, directory="runs/sweep", resume=True)

Must not know: models, text, architectures (an objective is passed in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import StoreError, TrainingError
from interp.process import fast
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, entered
from interp.sae.checkpoints import TrainingFolder
from interp.sae.feeds import CALIBRATION, Feed
from interp.sae.interruption import Interruption
from interp.sae.learner import History, Learner, Run

Stream = Batches | Callable[[int], Batches]
"""Batches; or a function from a step to the batches from there on, which a resumed training need not read from the start."""

Progress = Callable[[str, dict[str, float]], None]
"""Called with the name of a run and each new row of its history."""

NAME = "sae"
"""What `train` calls its only run."""


def train(sae: SparseAutoencoder, batches: Stream, *, steps: int, **settings: Any) -> History:
    """Trains `sae` in place on the first `steps` batches and returns what happened.

    settings: fields of `Run` (objective, learning_rate, hook …) and arguments of `train_many` (directory, progress …).

    Raises as `train_many` does.
    """
    of_run = {field.name: settings.pop(field.name) for field in fields(Run) if field.name in settings}
    return train_many({NAME: Run(sae=sae, **of_run)}, batches, steps=steps, **settings)[NAME]


def train_many(
    runs: Mapping[str, Run],
    batches: Stream,
    *,
    steps: int,
    log_every: int = 50,
    progress: Progress | None = None,
    directory: str | Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
) -> dict[str, History]:
    """Trains the autoencoder of every run in place, all on the same first `steps` batches, and returns what happened to each.

    The head of the stream sets the input scale (so that centred inputs have a mean squared norm of 1) and the starting b_dec.
    Each batch is read, checked and scaled once for all runs that read the same hooks. The same stream gives the same weights,
    whatever else is trained beside.

    directory: where to write `log.jsonl` and checkpoints: every `checkpoint_every` steps, at the end, and on SIGINT or SIGTERM,
        after which KeyboardInterrupt or TrainingError is raised.
    resume: go on from the last checkpoint in `directory`, if there is one; the end is then bit-equal, on a CPU, to that of a
        training that was never interrupted.

    Raises TrainingError for an empty or too short stream, rows of another size, non-finite rows, and a loss or gradient that is
    no number; the autoencoders then hold the weights of the last good step. Raises StoreError, before anything is trained, for
    a directory that cannot be written, holds a training already (without `resume`), or one with other settings (with it).
    """
    if min(steps, log_every, checkpoint_every) < 1 or not runs:
        counts = f"steps={steps}, log_every={log_every}, checkpoint_every={checkpoint_every}"
        raise TrainingError(f"{counts} and {len(runs)} runs train nothing; use 1 or more of each")
    learners = [Learner(name, run, steps) for name, run in runs.items()]
    with ExitStack() as stack:
        folder = None
        if directory is not None:
            folder = stack.enter_context(TrainingFolder(directory, _settings(learners, steps), resume=resume))
        interruption = stack.enter_context(Interruption(active=folder is not None))
        stack.enter_context(fast(learners[0].run.sae.W_dec.device))
        start, last_row = _restored(learners, folder)
        for done, row in _steps(learners, batches, start, steps, last_row):
            if done % log_every == 0 or done == steps:
                _report(learners, done, progress, folder)
            if folder is not None and (done % checkpoint_every == 0 or done == steps or interruption.requested):
                folder.save(done, {"last_row": row, "learners": [learner.state() for learner in learners]})
                interruption.act(f"stopped after step {done} of {steps}, which {folder.path} holds; pass resume=True to go on")
    for learner in learners:
        learner.finish()
    return {learner.name: learner.history for learner in learners}


def _steps(
    learners: list[Learner], batches: Stream, start: int, steps: int, last_row: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """Takes the steps from `start` on; after each, gives their number and the first row of the batch, by which to know it."""
    if start == steps:
        return
    sharing = _by_feed(learners)
    stream = enumerate(entered(batches, max(0, start - 1)), start=max(0, start - 1))
    if last_row is None:
        stream = _measured(sharing, stream)
    else:
        _check_place(sharing, stream, last_row)
    done = start
    for index, batch in islice(stream, steps - start):
        fed = [(feed.rows(batch, index), group) for feed, group in sharing]
        for rows, group in fed:
            for learner in group:
                learner.step(rows, index)
        done = index + 1
        yield done, fed[0][0].inputs[0]
    if done < steps:
        raise TrainingError(f"the stream ended after {done} of {steps} batches; pass steps={done}, or a longer stream")


def _by_feed(learners: list[Learner]) -> list[tuple[Feed, list[Learner]]]:
    """Learners that read the same rows, together."""
    groups: dict[Any, list[Learner]] = {}
    for learner in learners:
        groups.setdefault(Feed.key(learner.run.sae, learner.run.hook, learner.run.target), []).append(learner)
    return [(Feed(group[0].run.sae, group[0].run.hook, group[0].run.target), group) for group in groups.values()]


def _measured(sharing: list[tuple[Feed, list[Learner]]], stream: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Measures the scales on the head of the stream, and gives the whole stream back, head included."""
    head, size = [], 0
    while size < CALIBRATION and (item := next(stream, None)) is not None:
        head.append(item)
        size += sharing[0][0].count(item[1])
    if not head:
        raise TrainingError(
            "the stream of activations is empty; check the corpus and the hook, or pass a list if the iterator was used up"
        )
    for feed, learners in sharing:
        feed.measure([batch for _, batch in head], [learner.run.sae for learner in learners])
    return chain(head, stream)


def _check_place(sharing: list[tuple[Feed, list[Learner]]], stream: Iterator[tuple[int, Any]], last_row: Tensor) -> None:
    """Reads the last batch before the checkpoint and raises TrainingError unless it is the one that was trained on."""
    for feed, learners in sharing:
        feed.adopt(learners[0].run.sae)
    index, batch = next(stream, (None, None))
    if index is None:
        raise TrainingError("the stream ends before the place where training stopped; pass the same stream again")
    row = sharing[0][0].rows(batch, index).inputs[0]
    if not torch.allclose(row, last_row.to(row), rtol=1e-2, atol=1e-3):  # a live harvest need not be equal to the last bit
        raise TrainingError(f"batch {index} is not the one that was trained on; pass the same stream, with the same seed")


def _restored(learners: list[Learner], folder: TrainingFolder | None) -> tuple[int, Tensor | None]:
    """Puts the last checkpoint's state into the learners; its step, and the last row that was read."""
    checkpoint = None if folder is None else folder.load()
    if folder is None or checkpoint is None:
        return 0, None
    try:
        for learner, state in zip(learners, checkpoint.state["learners"], strict=True):
            learner.restore(state)
        last_row = checkpoint.state["last_row"]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StoreError(
            f"the checkpoint of step {checkpoint.step} in {folder.path} holds another state than this version writes ({error}); "
            "resume it with the version that wrote it, or choose another directory"
        ) from error
    rows = [{"run": learner.name} | row for learner in learners for row in learner.history.rows]
    folder.restart_log(sorted(rows, key=lambda row: row["step"]))
    return checkpoint.step, last_row


def _report(learners: list[Learner], done: int, progress: Progress | None, folder: TrainingFolder | None) -> None:
    rows = {learner.name: learner.report(done) for learner in learners}
    if folder is not None:
        folder.log([{"run": name} | row for name, row in rows.items()])
    if progress is not None:
        for name, row in rows.items():
            progress(name, row)


def _settings(learners: list[Learner], steps: int) -> dict[str, Any]:
    """What a training is, as plain values: what must be the same when it is resumed."""
    return {"steps": steps, "runs": {learner.name: learner.run.plain() for learner in learners}}
