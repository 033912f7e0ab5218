"""What does a network that suddenly generalises learn? (Nanda et al. 2023, arXiv:2301.05217)

A Transformer of one layer learns part of the table of addition modulo p by heart, and much later, all at once, the rest. What it
has come to compute is known: angles of a few frequencies are added. That is measured in its weights, neurons and logits, and by
taking frequencies away; and it is seen to grow while the test loss still says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp import experiment, figures, stats
from interp.mlp import fourier
from interp.models.batches import Batch
from interp.models.courses import Curves, measured
from interp.models.hooked import Edit, Model
from interp.models.lens import native_module
from interp.models.training import Course, Learner, constant, evenly, fit, last_logits
from interp.report import Report
from interp.tasks.answered import Answered
from interp.tasks.modular import additions, split

ID = "E11"
SOURCE = "Nanda et al. 2023"
CARRIED = 0.9  # share of the embedding's power that key frequencies carry
OWN_FREQUENCY = 0.85  # share of its variance from which a neuron counts as one of a single frequency (Nanda et al. 2023, §4.3)


@dataclass(frozen=True, kw_only=True)
class Config:
    p: int = 59
    share: float = 0.4  # of the table, to train on
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    steps: int = 4000  # each on all training examples at once
    control_steps: int = 2500  # of the two controls, which know their examples within 300
    learning_rate: float = 3e-3
    weight_decay: float = 1.0  # without it nothing is learned but the examples
    checkpoints: int = 51  # states measured along training
    seed: int = 0


QUICK = {"share": 0.45, "d_mlp": 128, "steps": 1100, "weight_decay": 1.5, "control_steps": 250, "checkpoints": 23}  # a short wait


@dataclass(frozen=True)
class Study:
    """A trained model, what it was trained and tested on, and its course."""

    config: Config
    train: Answered
    test: Answered
    model: Model
    course: Course

    @cached_property
    def logits(self) -> Float[Tensor, "p p p"]:
        """[a b c] of the trained model."""
        return answer_logits(self.model, self.config.p)

    @cached_property
    def keys(self) -> list[int]:
        """The fewest frequencies that carry CARRIED of the embedding's power."""
        return fourier.strongest(self.power, CARRIED)

    @cached_property
    def power(self) -> Float[Tensor, " frequency"]:
        """Of the numbers' embeddings."""
        return fourier.power(self.model.W_E[: self.config.p].detach())

    @cached_property
    def others(self) -> list[int]:
        """As many frequencies that are no keys, drawn at random."""
        rest = [k for k in range(1, self.config.p // 2 + 1) if k not in self.keys]
        drawn = stats.generator(self.config.seed, "other frequencies").permutation(rest)
        return sorted(drawn[: len(self.keys)].tolist())


def run(config: Config, report: Report) -> None:
    with experiment.stage("train with weight decay"):
        study = trained(config)
    with experiment.stage("train without weight decay"):
        memorised = trained(replace(config, weight_decay=0.0, steps=config.control_steps))
    with experiment.stage("train on a shuffled table"):
        shuffled = trained(replace(config, steps=config.control_steps), shuffled=True)
    report_generalisation(report, study, memorised, shuffled)
    with experiment.stage("measure along training"):
        report_phases(report, study, memorised)
    report_frequencies(report, study, memorised, shuffled)
    report_logits(report, study, memorised)
    report_neurons(report, study, memorised)
    report_edits(report, study)
    report.text(
        "What would have shown this false: embeddings spread over all frequencies; logits that lose nothing without the key "
        "frequencies, or more than noise with them alone; output phases that are not the sums of input phases."
    )


# ---- training ----


def trained(config: Config, *, shuffled: bool = False) -> Study:
    """A model trained on a share of the table; `shuffled` gives every sum the answer of another one."""
    every = additions(config.p)
    if shuffled:
        order = torch.randperm(len(every), generator=stats.torch_generator(config.seed, "shuffled"))
        every = replace(every, answers=every.answers[order])
    train, test = split(every, config.share, generator=stats.torch_generator(config.seed, "split"))
    module = native_module(architecture(config), stats.torch_seed(config.seed, "weights"))
    learner = Learner(
        module,
        schedule=constant(config.learning_rate, 10),
        weight_decay=config.weight_decay,
        clip=None,
        forward=lambda module, batch: last_logits(module, batch.tokens),
    )
    batch = Batch(tokens=train.tokens, targets=train.answers[:, None])
    batches = (batch for _ in experiment.progress(range(config.steps), "training"))
    course = fit(learner, batches, checkpoints=evenly(config.steps, config.checkpoints))
    return Study(config, train, test, Model.wrap(module, name="grokking"), course)


def architecture(config: Config) -> dict[str, Any]:
    """Of Nanda et al. 2023, §3: one layer, relu, no norms; weights are drawn with variance 1/d_model."""
    sizes = {"d_model": config.d_model, "d_head": config.d_model // config.n_heads, "n_heads": config.n_heads, "n_layers": 1}
    vocabulary = {"n_ctx": 3, "d_vocab": config.p + 1, "d_mlp": config.d_mlp}
    kind = {"act_fn": "relu", "normalization_type": None, "initializer_range": config.d_model**-0.5}
    return sizes | vocabulary | kind


# ---- what a model says ----


def answer_logits(model: Model, p: int, *, edits: Sequence[Edit] = ()) -> Float[Tensor, "p p p"]:
    """Logits [a b c] of every answer to every sum."""
    return model.run(additions(p).tokens, edits=edits).logits[:, 2, :p].unflatten(0, (p, p))


def right(logits: Float[Tensor, "p p p"], on: Answered) -> Float[np.ndarray, " example"]:
    """Whether the largest logit of each example is that of its answer."""
    return (logits[on.tokens[:, 0], on.tokens[:, 1]].argmax(-1) == on.answers).double().numpy()


def losses(logits: Float[Tensor, "p p p"], on: Answered) -> Float[np.ndarray, " example"]:
    """−ln p(answer) of each example, in nats."""
    return F.cross_entropy(logits[on.tokens[:, 0], on.tokens[:, 1]].double(), on.answers, reduction="none").numpy()


# ---- it generalises, late ----


def report_generalisation(report: Report, study: Study, memorised: Study, shuffled: Study) -> None:
    """The rest of the table is known; without weight decay, and where there is nothing to know, it is not."""
    report.section("The rest of the table")
    seed = study.config.seed
    kinds = {"weight decay": study, "no weight decay": memorised, "shuffled table": shuffled}
    found = {
        (kind, part): stats.bootstrap(right(each.logits, on), seed=seed)
        for kind, each in kinds.items()
        for part, on in (("train", each.train), ("test", each.test))
    }
    report.claim(
        "test",
        "share of sums it was not trained on that it gets right",
        found["weight decay", "test"],
        at_least=0.99,
        source=SOURCE,
        control=found["no weight decay", "test"],
        control_text="trained without weight decay, which gets all it was trained on right",
    )
    rows = [
        {"model": kind, "examples": part, "right": e.value, "low": e.low, "high": e.high} for (kind, part), e in found.items()
    ]
    report.table("accuracy", rows, caption="Share of right answers after training, with 95 % intervals over examples.")


def report_phases(report: Report, study: Study, memorised: Study) -> None:
    """By heart first, then by rule; the rule is seen to grow before the test loss falls."""
    report.section("Phases")
    along = measured(study.model, study.course.states, lambda model: measures(study, model))
    known, right_then = along.values["train, right"].mean(0), along.values["test, right"]
    by_heart = int(np.argmax(known >= 0.99)) if known.max() >= 0.99 else -1
    seed = study.config.seed
    report.claim(
        "by-heart",
        f"share of the test sums right when 99 % of the training sums first are (step {along.steps[by_heart]:.0f})",
        stats.bootstrap(right_then[:, by_heart], seed=seed),
        at_most=0.5,
        source=f"{SOURCE}; bound ours",
        control=stats.bootstrap(right_then[:, -1], seed=seed),
        control_text="the same after all steps",
    )
    report.claim(
        "before",
        "step at which the restricted loss is half fallen, over that of the test loss",
        along.ratio_of_falls("restricted", "test", seed=seed),
        at_most=0.95,
        source=f"{SOURCE}, §5.1; bound ours",
        control=along.ratio_of_falls("test", "test", seed=seed),
        control_text="the test loss itself",
    )
    names = {"train": "train", "test": "test", "restricted": "restricted (test)", "excluded": "excluded (train)"}
    table = along.table(names, "loss")
    ticks = (0, 0.5, 1, 2, 5, 10, 20)
    axis = {"yscale": "symlog", "yticks": ticks, "yticklabels": [f"{each:g}" for each in ticks], "ylabel": "nats per sum"}
    report.figure(
        "phases",
        figures.lines(table, "step", "loss", by="measure", xlabel="training step", **axis),
        data=table,
        caption="Losses along training; linear below 1 and logarithmic above. Restricted: the logits' key frequencies of a + b "
        "alone. Excluded: all but these.",
        alt="Training loss falls at once; restricted loss falls next, then test loss, while excluded loss rises.",
    )
    report_explained(along, report)
    report_norms(study, memorised, report)


def report_explained(along: Curves, report: Report) -> None:
    """How much of the logits the formula is, along training."""
    table = along.table({"explained": "one strength for all sums", "unevenly": "a strength for each sum"}, "share")
    report.figure(
        "explained",
        figures.lines(table, "step", "share", by="measure", xlabel="training step", ylabel="variance explained", ylim=(0, 1)),
        data=table,
        caption="Share of the logits' variance that Σ α_k cos(w_k (a + b − c)) explains along training, at the final model's key "
        "frequencies; with one strength α_k, and with one for each sum.",
        alt="Both shares rise with the rule; the one with a strength for each sum stays above.",
    )


def report_norms(study: Study, memorised: Study, report: Report) -> None:
    """What weight decay does."""
    kept = {kind: sorted(each.course.states.items()) for kind, each in (("with weight decay", study), ("without", memorised))}
    sizes = pd.DataFrame(
        [
            {"step": step, "norm": float(nn.utils.get_total_norm(state.values())), "trained": kind}
            for kind, states in kept.items()
            for step, state in states
        ]
    )
    report.figure(
        "norms",
        figures.lines(sizes, "step", "norm", by="trained", xlabel="training step", ylabel="norm of all weights", ylim=(0, None)),
        data=sizes,
        caption="Euclidean norm of all weights along training: the rule needs less of it than the examples.",
        alt="With weight decay the norm rises, then falls; without it the norm keeps rising.",
    )


def measures(study: Study, model: Model) -> dict[str, Float[np.ndarray, " example"]]:
    """Losses and right answers of each example, and what the formula explains; keys are those of the trained model."""
    logits, keys = answer_logits(model, study.config.p), study.keys
    return {
        "train": losses(logits, study.train),
        "test": losses(logits, study.test),
        "restricted": losses(fourier.restricted(logits, keys), study.test),
        "excluded": losses(fourier.excluded(logits, keys), study.train),
        "train, right": right(logits, study.train),
        "test, right": right(logits, study.test),
        "explained": np.array([fourier.explained(logits, keys)]),
        "unevenly": np.array([fourier.explained_unevenly(logits, keys)]),
    }


# ---- by a few frequencies ----


def report_frequencies(report: Report, study: Study, memorised: Study, shuffled: Study) -> None:
    """Embeddings are waves of few frequencies."""
    report.section("Frequencies")
    report.claim(
        "frequencies",
        f"frequencies that carry {CARRIED:.0%} of the embedding's power, of {study.config.p // 2}",
        len(study.keys),
        at_most=10,
        source=SOURCE,
        control=min(len(memorised.keys), len(shuffled.keys)),
        control_text="without weight decay, or on a shuffled table: the fewer of the two",
    )
    kinds = {"weight decay": study, "no weight decay": memorised}
    table = pd.DataFrame(
        [
            {"frequency": k, "share": float(value / each.power.sum()), "model": kind}
            for kind, each in kinds.items()
            for k, value in enumerate(each.power, 1)
        ]
    )
    report.figure(
        "embedding",
        figures.lines(table, "frequency", "share", by="model", ylabel="share of the embedding's power", ylim=(0, None)),
        data=table,
        caption=f"Power of the numbers' embeddings by frequency. Keys: {', '.join(map(str, study.keys))}.",
        alt="Few high peaks with weight decay, a low uneven line without.",
    )


def report_logits(report: Report, study: Study, memorised: Study) -> None:
    """The key frequencies of a + b are all that the answers need, and most of what the logits are."""
    report.section("Logits")
    seed, logits = study.config.seed, study.logits
    report.claim(
        "restricted",
        "share of the test sums right with the key frequencies of a + b alone in the logits",
        stats.bootstrap(right(fourier.restricted(logits, study.keys), study.test), seed=seed),
        at_least=0.99,
        source=f"{SOURCE}, §5.1",
        control=stats.bootstrap(right(fourier.restricted(logits, study.others), study.test), seed=seed),
        control_text="as many other frequencies",
    )
    report.claim(
        "excluded",
        "loss on training sums without them",
        stats.bootstrap(losses(fourier.excluded(logits, study.keys), study.train), seed=seed),
        at_least=np.log(study.config.p),
        unit="nats",
        source=f"{SOURCE}, §5.1; bound ours, that of guessing: ln p",
        control=stats.bootstrap(losses(fourier.excluded(logits, study.others), study.train), seed=seed),
        control_text="without as many other frequencies",
    )
    shares = {name: float(fourier.explained(each.logits, study.keys)) for name, each in (("own", study), ("other", memorised))}
    report.claim(
        "explained",
        "share of the logits' variance that Σ α_k cos(w_k (a + b − c)) explains",
        shares["own"],
        at_least=0.95,
        source=f"{SOURCE}, §4.1, at p = 113",
        control=shares["other"],
        control_text="trained without weight decay",
    )
    uneven, by_chance = (fourier.explained_unevenly(logits, each) for each in (study.keys, study.others))
    report.text(
        f"One strength for all sums explains {shares['own']:.2f} of the variance, a strength for each sum {uneven:.2f} (with as "
        f"many other frequencies {by_chance:.2f}). The first difference is that a neuron reads "
        "`cos w_k a + cos w_k b = 2 cos(w_k (a − b)/2) cos(w_k (a + b)/2)`: how loud a frequency is depends on a − b. "
        "The rest lies at other frequencies of c and at shifted angles. Both shares are drawn along training above: where "
        "examples are few they swing for long after all sums are right."
    )


# ---- neurons ----


def report_neurons(report: Report, study: Study, memorised: Study) -> None:
    """Each neuron has one frequency, and writes at the sum of the phases at which it reads."""
    report.section("Neurons")
    seed, kinds = study.config.seed, {"weight decay": study, "no weight decay": memorised}
    found = {kind: neurons(each) for kind, each in kinds.items()}
    single = {kind: stats.bootstrap(each["share"] >= OWN_FREQUENCY, seed=seed) for kind, each in found.items()}
    report.claim(
        "neurons",
        f"share of neurons with {OWN_FREQUENCY:.0%} of their variance at one frequency",
        single["weight decay"],
        at_least=0.6,
        source=f"{SOURCE}, §4.3: 85 %; bound ours",
        control=single["no weight decay"],
        control_text="trained without weight decay",
    )
    own = found["weight decay"][found["weight decay"]["share"] >= OWN_FREQUENCY]
    if own.empty:
        report.not_run("phases", "output phases are sums of input phases", "no neuron has a frequency of its own", source=SOURCE)
        return
    read, written = np.asarray(own["a"] + own["b"]), np.asarray(own["out"])
    order = stats.generator(seed, "phases").permutation(len(own))
    report.claim(
        "phases",
        "mean cosine of a neuron's output phase less the sum of its input phases (such neurons)",
        stats.bootstrap(np.cos(written - read), seed=seed),
        at_least=0.9,
        source="Gromov 2023 (arXiv:2301.02679), §3; bound ours",
        control=stats.bootstrap(np.cos(written[order] - read), seed=seed),
        control_text="output phases of other neurons",
    )
    table = pd.DataFrame(
        {
            "sum of input phases": np.mod(read, 2 * np.pi),
            "output phase": np.mod(written, 2 * np.pi),
            "frequency": own["frequency"].astype(str),
        }
    ).sort_values("frequency", key=lambda column: column.astype(int))
    report.figure(
        "phases-of-neurons",
        figures.scatter(table, "sum of input phases", "output phase", by="frequency", aspect="equal"),
        data=table,
        caption="Neurons of a single frequency, in radians; 0 is 2π. In the closed form (E11b) all are on the diagonal.",
        alt="Points along the diagonal, for every frequency.",
    )
    shares = pd.concat([pd.DataFrame({"share": each["share"], "model": kind}) for kind, each in found.items()])
    report.figure(
        "neurons",
        figures.histogram(
            shares, "share", by="model", xlabel="share of variance at the neuron's own frequency", ylabel="neurons"
        ),
        data=shares,
        caption="How much of each neuron's variance over all sums lies at one frequency.",
        alt="With weight decay most neurons are near 1, without it near 0.1.",
    )


def neurons(study: Study) -> pd.DataFrame:
    """Of every neuron: frequency and its share, phases at which it reads a and b, and at which it writes the answer."""
    p, hook = study.config.p, "blocks.0.mlp.hook_post"
    activations = study.model.run(additions(p).tokens, read=[hook]).activations[hook][:, 2].unflatten(0, (p, p))
    frequency, share = fourier.neurons(activations)
    written = (study.model.W_out[0] @ study.model.W_U[:, :p]).detach().T
    places = {"a": activations.mean(1), "b": activations.mean(0), "out": written}
    phases = {name: fourier.phases(table, frequency).numpy() for name, table in places.items()}
    return pd.DataFrame({"frequency": frequency.numpy(), "share": share.numpy()} | phases)


# ---- taking frequencies away ----


def report_edits(report: Report, study: Study) -> None:
    """The model needs its key frequencies in the embeddings, and nothing else of them."""
    report.section("Edited embeddings")
    p, seed = study.config.p, study.config.seed
    every = range(1, p // 2 + 1)
    kept = {
        "all": every,
        "key frequencies alone": study.keys,
        "all but the keys": [k for k in every if k not in study.keys],
        "as many others alone": study.others,
        "all but as many others": [k for k in every if k not in study.others],
    }
    found = {
        name: stats.bootstrap(right(with_frequencies(study, frequencies), study.test), seed=seed)
        for name, frequencies in kept.items()
    }
    wanted: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
        ("keys-suffice", "nothing but the key frequencies", "key frequencies alone", {"at_least": 0.95}, "as many others alone"),
        ("keys-needed", "all but the key frequencies", "all but the keys", {"at_most": 0.1}, "all but as many others"),
    )
    for slug, text, kind, target, control in wanted:
        report.claim(
            slug,
            f"share of the test sums right when the embeddings of numbers have {text}",
            found[kind],
            **target,
            source=f"{SOURCE}, §4.4; bound ours",
            control=found[control],
            control_text=control,
        )
    table = pd.DataFrame([{"embeddings": name, "right": e.value, "low": e.low, "high": e.high} for name, e in found.items()])
    report.figure(
        "edits",
        figures.bars(table, "embeddings", "right", low="low", high="high", xlabel="share of test sums right"),
        data=table,
        caption="What the model still gets right when frequencies are taken out of the embeddings of a and b while it runs.",
        alt="All sums are right with the key frequencies alone, next to none without them.",
    )


def with_frequencies(study: Study, frequencies: Sequence[int]) -> Float[Tensor, "p p p"]:
    """Logits of the model when embeddings of numbers have the constant and these frequencies only."""
    p = study.config.p
    table = fourier.keep(study.model.W_E[:p].detach(), [0, *frequencies])

    def embed(value: Tensor) -> Tensor:
        value[:, :2] = table[additions(p).tokens[:, :2]]
        return value

    return answer_logits(study.model, p, edits=[Edit("hook_embed", embed)])


if __name__ == "__main__":
    experiment.main(Config, run)
