"""`interp train-sae`: sparse autoencoders on the activations of a model, of a store, or of planted features.

Every combination of the values given for --arch, --d-sae, --l0, --learning-rate and --seed is one autoencoder; all of them
are trained in one pass over the stream.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.cli import Answer
from interp.errors import ConfigError
from interp.experiment import flags
from interp.experiment.progress import EVERY, note

if TYPE_CHECKING:
    from interp.sae.learner import History, Run

BUFFER = 64
"""Batches that a live harvest is shuffled among."""

EXPANSION = 8
"""Latents per input dimension, unless --d-sae says otherwise."""


@dataclass(frozen=True)
class Source:
    """Where rows come from: a stream that can be entered at any batch, sizes of what it holds, and facts to save."""

    stream: Callable[[int], Iterator[Any]]
    parts: dict[str, int]  # what is read, and its size: one hook, or the parts of a crosscoder
    d_out: int | None  # size of the target of a transcoder
    facts: dict[str, Any]


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and trains."""
    return flags.call(train_sae, argv, prog=prog)


def train_sae(
    *,
    out: Path,
    hook: tuple[str, ...] = (),
    target: str | None = None,
    skip: bool = False,
    model: str = "stdlib-4l",
    corpus: str = "stdlib",
    store: Path | None = None,
    synthetic: str | None = None,
    arch: tuple[str, ...] = ("topk",),
    d_sae: tuple[int, ...] = (),
    l0: tuple[float, ...] = (32.0,),
    learning_rate: tuple[float, ...] = (),
    seed: tuple[int, ...] = (0,),
    tokens: int = 2_000_000,
    batch: int = 1024,
    checkpoint_every: int = 1000,
    track: Literal["log", "tensorboard", "wandb"] = "log",
    device: flags.Device = "auto",
    resume: bool = False,
) -> Answer:
    """Trains sparse autoencoders, transcoders (--target) or crosscoders (several hooks), and saves them in SAELens's layout.

    Several values for --arch, --d-sae, --l0, --learning-rate or --seed train every combination in one pass.

    Args:
        out: a new folder, for the autoencoders, the log and the checkpoints
        hook: what to read, such as blocks.2.hook_resid_post; several make a crosscoder
        target: the hook to write, for a transcoder
        skip: gives a transcoder a linear path beside its latents
        model: shipped or zoo model, folder, or hub name
        corpus: stdlib, stdlib:heldout, a file, a folder, or hf:org/name; read again and again if it is short
        store: a finished store of activations, instead of model and corpus
        synthetic: a preset of planted features, instead of model and corpus
        arch: topk, batchtopk, matryoshka, jumprelu, relu, gated, …
        d_sae: latents; 8 per input dimension by default
        l0: active latents per token to aim at
        learning_rate: by default what suits the width of the input
        seed: of the starting weights; the first also orders the data
        tokens: tokens to train on
        batch: tokens per step
        checkpoint_every: steps
        track: where to follow the training, beside the log in --out
        device: where everything runs
        resume: go on from the last checkpoint in --out
    """
    from interp.sae import formats
    from interp.sae.training import train_many

    place = flags.resolve_device(device)
    steps = tokens // batch
    if steps < 1:
        raise ConfigError(f"--tokens {tokens} is less than one batch of {batch}; give more tokens or a smaller --batch")
    source = _source(
        hook, target, model=model, corpus=corpus, store=store, synthetic=synthetic, batch=batch, seed=seed[0], device=place
    )
    runs = _runs(source, skip=skip, arch=arch, d_sae=d_sae, l0=l0, learning_rate=learning_rate, seed=seed, device=place)
    histories = train_many(
        runs,
        source.stream,
        steps=steps,
        directory=out,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=_followed(track, out, steps),
    )
    for name, run in runs.items():
        folder = out if len(runs) == 1 else out / name
        facts = source.facts | _architecture(run) | {"training_tokens": steps * batch} | _last(histories[name])
        formats.save(run.sae, folder, metadata=facts)
    scores = _recovered(synthetic, runs, seed[0])
    where = str(out) if len(runs) == 1 else f"{out}/{{{','.join(runs)}}}"
    return Answer("\n".join([_table(histories, scores), f"saved: {where}", f"score it: interp eval-sae {where}"]))


def _source(
    hook: tuple[str, ...],
    target: str | None,
    *,
    model: str,
    corpus: str,
    store: Path | None,
    synthetic: str | None,
    batch: int,
    seed: int,
    device: str,
) -> Source:
    if synthetic is not None:
        if hook or target or store:
            raise ConfigError("--synthetic makes its own rows; leave out --hook, --target and --store")
        return _planted(synthetic, batch=batch, seed=seed, device=device)
    if not hook and store is None:
        raise ConfigError("say what to read: --hook blocks.2.hook_resid_post, or --store, or --synthetic")
    if target and len(hook) > 1:
        raise ConfigError(f"a transcoder reads one hook, and --hook names {len(hook)}; leave out --target for a crosscoder")
    if store is not None:
        return _stored(store, hook, target, batch=batch, seed=seed)
    return _live(model, corpus, hook, target, batch=batch, seed=seed, device=device)


def _planted(preset: str, *, batch: int, seed: int, device: str) -> Source:
    import sys

    from interp.sae.synthetic import preset as named

    truth = named(preset, seed=seed).to(device)
    return Source(
        stream=lambda start: truth.batches(batch, sys.maxsize, seed=seed, start=start),
        parts={"x": truth.dictionary.shape[1]},
        d_out=None,
        facts={"synthetic_preset": preset, "synthetic_seed": seed},
    )


def _stored(folder: Path, hook: tuple[str, ...], target: str | None, *, batch: int, seed: int) -> Source:
    from interp.activations import ActivationStore
    from interp.sae.batches import epochs

    opened = ActivationStore.open(folder)
    header, names = opened.header, hook or opened.hooks[:1]
    read = (*names, target) if target else names
    for name in read:
        ActivationStore.open(folder, hook=name)
    widths = {name: math.prod(header.shapes[name]) for name in read}
    return Source(
        stream=lambda start: _split(epochs(opened, read, rows=batch, seed=seed, start=start), widths[names[0]], bool(target)),
        parts={name: widths[name] for name in names},
        d_out=widths[target] if target else None,
        facts=_facts(names, target, header.model, header.model_fingerprint, header.corpus, header.corpus_revision),
    )


def _live(model: str, corpus: str, hook: tuple[str, ...], target: str | None, *, batch: int, seed: int, device: str) -> Source:
    from interp.activations import harvest
    from interp.models.hooked import Model
    from interp.sae.batches import shuffled
    from interp.text import pack, resolve

    loaded, texts = Model.load(model, device=device), resolve(corpus)
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise ConfigError(f"{model} has no tokenizer here, so it cannot read --corpus {corpus}; train from a --store instead")
    read = (*hook, target) if target else hook

    def packed() -> Iterator[Any]:
        return pack(texts.documents(), tokenizer, context=loaded.n_ctx, batch=8)

    widths = {name: rows.shape[1] for name, rows in next(harvest(loaded, packed(), read)).activations.items()}

    def stream(start: int) -> Iterator[Any]:
        batches = (each for _ in itertools.count() for each in harvest(loaded, packed(), read))
        rows = shuffled(batches, rows=batch, buffer=BUFFER * batch, hook=read, seed=seed)
        return _split(itertools.islice(rows, start, None), widths[hook[0]], bool(target))

    return Source(
        stream=stream,
        parts={name: widths[name] for name in hook},
        d_out=widths[target] if target else None,
        facts=_facts(hook, target, loaded.name, loaded.fingerprint, texts.name, texts.revision),
    )


def _split(rows: Iterator[Any], d_in: int, pairs: bool) -> Iterator[Any]:
    """Rows as they are, or cut into what a transcoder reads and what it writes."""
    return ((each[:, :d_in], each[:, d_in:]) for each in rows) if pairs else rows


def _facts(hook: Sequence[str], target: str | None, model: str, fingerprint: str, corpus: str, revision: str) -> dict[str, Any]:
    """What SAELens keeps of a training, by its names, and our own."""
    facts = {
        "model_name": model,
        "model_fingerprint": fingerprint,
        "hook_name": hook[0],
        "dataset_path": corpus,
        "dataset_revision": revision,
    }
    return facts | ({"hook_names": list(hook)} if len(hook) > 1 else {}) | ({"hook_name_out": target} if target else {})


def _runs(
    source: Source,
    *,
    skip: bool,
    arch: tuple[str, ...],
    d_sae: tuple[int, ...],
    l0: tuple[float, ...],
    learning_rate: tuple[float, ...],
    seed: tuple[int, ...],
    device: str,
) -> dict[str, Run]:
    """Every combination, named by what differs."""
    from interp.sae.architectures import build
    from interp.sae.learner import Run

    d_in = sum(source.parts.values())
    parts = source.parts if len(source.parts) > 1 else None
    axes: dict[str, Sequence[Any]] = {
        "arch": arch,
        "d": d_sae or (EXPANSION * d_in,),
        "l0": l0,
        "lr": learning_rate or (None,),
        "seed": seed,
    }
    varied = [name for name, values in axes.items() if len(values) > 1]
    runs = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        name = "-".join(str(chosen[axis]) if axis == "arch" else f"{axis}{chosen[axis]:g}" for axis in varied) or "sae"
        if name in runs:
            raise ConfigError(f"{name} is asked for twice; give every value once")
        sae, objective = build(
            chosen["arch"], d_in, chosen["d"], l0=chosen["l0"], d_out=source.d_out, skip=skip, parts=parts, seed=chosen["seed"]
        )
        runs[name] = Run(sae=sae.to(device), objective=objective, learning_rate=chosen["lr"])
    return runs


def _followed(track: str, out: Path, steps: int) -> Callable[[str, dict[str, float]], None]:
    """What is told of every row of a history."""
    from interp.sae import trackers

    listeners = [_notes(steps)]
    if track == "tensorboard":
        listeners.append(trackers.tensorboard(out / "tensorboard"))
    elif track == "wandb":
        listeners.append(trackers.weights_and_biases("interp", name=out.name))

    def tell(name: str, row: dict[str, float]) -> None:
        for listener in listeners:
            listener(name, row)

    return tell


def _notes(steps: int) -> Callable[[str, dict[str, float]], None]:
    """Says every ten seconds how far each run is."""
    import time

    said: dict[str, float] = {}
    began = time.monotonic()

    def tell(name: str, row: dict[str, float]) -> None:
        if time.monotonic() - said.get(name, began) >= EVERY:
            said[name] = time.monotonic()
            figures = f"fvu {row['fvu']:.3f}, l0 {row['l0']:.1f}, dead {row['dead']:.1%}"
            pace = f"{row['tokens_per_second']:,.0f} tokens/s, about {row['seconds_left']:.0f} s left"
            note(f"{name}: step {row['step']:,} of {steps:,}, {figures}, {pace}")

    return tell


def _architecture(run: Run) -> dict[str, Any]:
    """What the weights alone do not tell, by SAELens's names."""
    widths = getattr(run.objective, "widths", ())
    if not widths:
        return {}
    details = {"matryoshka_widths": [*widths, run.sae.d_sae]}
    return {"training_architecture": "matryoshka_batchtopk", "training_architecture_details": details}


def _last(history: History) -> dict[str, float]:
    return {f"training_{name}": history.last[name] for name in ("fvu", "l0", "dead")}


def _recovered(synthetic: str | None, runs: dict[str, Run], seed: int) -> dict[str, dict[str, float]]:
    """How much of a planted dictionary each run found."""
    if synthetic is None:
        return {}
    from interp.sae.recovery import recovery
    from interp.sae.synthetic import preset

    truth = preset(synthetic, seed=seed).dictionary
    found = {name: recovery(run.sae.W_dec.cpu(), truth) for name, run in runs.items()}
    return {name: {"mmcs": mmcs, "found": share} for name, (mmcs, share) in found.items()}


def _table(histories: dict[str, History], scores: dict[str, dict[str, float]]) -> str:
    import pandas as pd

    kept = ("tokens", "fvu", "l0", "dead", "tokens_per_second")
    rows = {name: {key: history.last[key] for key in kept} | scores.get(name, {}) for name, history in histories.items()}
    shown = pd.DataFrame.from_dict(rows, orient="index")
    return shown.to_string(float_format=lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}")
