"""Can a program become a transformer whose circuit is known, and is that circuit found? (Weiss 2021; Lindner et al. 2023)

Six RASP programs become weights: a step is a head or a few neurons, and every dimension of the residual stream has a name. The
model's outputs are held against the program's on every input. Which edges matter follows from the program alone; every edge of
the model is then replaced, one at a time, to see whether that is so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from interp import experiment, figures, stats
from interp.heads import calibration, edge_attribution, paths
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.models.rasp_circuits import CompiledProgram, Words, compiled_task
from interp.models.rasp_programs import TASKS
from interp.report import Report
from interp.tasks.contrast import Contrast

ID = "E19"
SOURCE = "Lindner et al. 2023, arXiv:2301.05062"
SEEN = 1e-4  # change of the logit difference from which an effect counts
SHOWN = "reverse"  # the program that is looked into


@dataclass(frozen=True, kw_only=True)
class Config:
    programs: tuple[str, ...] = tuple(TASKS)
    examples: int = 64  # inputs with twins on which edges are replaced
    seed: int = 0


QUICK = {"examples": 32, "programs": ("hist", "reverse", "sort", "frac_prevs")}


def run(config: Config, report: Report) -> None:
    compiled = {name: compiled_task(name) for name in config.programs}
    report_outputs(config, report, compiled)
    if SHOWN in compiled:
        report_residual(report, compiled[SHOWN])
    with experiment.stage("replace every edge of every model"):
        report_circuits(config, report, compiled)


# ---- outputs ----


def report_outputs(config: Config, report: Report, compiled: dict[str, CompiledProgram]) -> None:
    """The largest difference between the logits and the program's output, on every input of every length."""
    report.section("Programs as weights")
    rows, errors, shuffled = [], [], []
    for name, program in compiled.items():
        inputs = [program.inputs(length) for length in range(1, program.plan.length + 1)]
        model = program.compiled.model
        errors.append(max(program.error(each) for each in inputs))
        shuffled.append(disagreement(program, permuted(model, config.seed), inputs[-1]))
        rows.append(
            {
                "program": name,
                "what it says": program.compiled.description,
                "steps": len(program.plan.program.steps),
                "layers": model.n_layers,
                "heads": model.n_heads,
                "d_model": model.d_model,
                "inputs tried": sum(map(len, inputs)),
                "largest error": f"{errors[-1]:.1e}",
            }
        )
    report.claim(
        "outputs",
        f"largest error of any logit, over all inputs of all {len(compiled)} programs",
        max(errors),
        at_most=1e-4,
        source=SOURCE,
        control=min(shuffled),
        control_text="the same weights with the residual dimensions that heads and neurons write to shuffled, best program",
    )
    report.claim(
        "wrong-program",
        "share of inputs on which a model says what its own program says at every position, worst program",
        min(1 - wrong_share(program, program) for program in compiled.values()),
        at_least=1.0,
        source="closed form",
        control=max(1 - wrong_share(program, other) for program, other in neighbours(compiled)),
        control_text="another program on the same words, best pair",
    )
    report.table("programs", rows, caption="The programs, the size of their models, and how far outputs are off.")


def disagreement(program: CompiledProgram, model: Model, inputs: list[Words]) -> float:
    """The largest difference between another model's logits and the program's."""
    logits = model.run(program.encode(inputs)).logits[:, 1:]
    return float((logits - program.expected(inputs)).abs().max())


def wrong_share(program: CompiledProgram, other: CompiledProgram) -> float:
    """Share of inputs on which the model of one program does not say what another program does."""
    inputs = program.inputs()
    logits = program.compiled.model.run(program.encode(inputs)).logits[:, 1:]
    expected = other.expected(inputs)
    values = max(logits.shape[-1], expected.shape[-1])
    said, meant = (torch.nn.functional.pad(each, (0, values - each.shape[-1])) for each in (logits, expected))
    return float(((said - meant).abs().amax((1, 2)) > 0.01).double().mean())


def neighbours(compiled: dict[str, CompiledProgram]) -> list[tuple[CompiledProgram, CompiledProgram]]:
    """Every two different programs over the same words."""
    programs = list(compiled.values())
    return [(a, b) for a in programs for b in programs if a is not b and a.plan.vocabulary == b.plan.vocabulary]


def permuted(model: Model, seed: int) -> Model:
    """The same weights, but what heads and MLPs write lands in shuffled dimensions: the control."""
    other = model.untrained(seed)
    generator = stats.torch_generator(seed, "shuffled dimensions")
    order = torch.randperm(model.d_model, generator=generator)
    for layer in range(model.n_layers):
        for name in ("attn.W_Q", "attn.W_K", "attn.W_V", "attn.b_Q", "mlp.W_in", "mlp.b_in"):
            other.weight(f"blocks.{layer}.{name}").copy_(model.weight(f"blocks.{layer}.{name}"))
        for name in ("attn.W_O", "mlp.W_out"):
            other.weight(f"blocks.{layer}.{name}").copy_(model.weight(f"blocks.{layer}.{name}")[..., order])
    for name in ("W_E", "W_pos", "W_U"):
        other.weight(name).copy_(model.weight(name))
    return other


# ---- the residual stream ----


def report_residual(report: Report, program: CompiledProgram) -> None:
    """What stands in the labelled dimensions at every position, after the last layer."""
    report.section("A residual stream with names")
    words = program.plan.vocabulary[:3]
    model = program.compiled.model
    hook = f"blocks.{model.n_layers - 1}.hook_resid_post"
    held = model.run(program.encode([words]), read=[hook]).activations[hook][0]
    used = [i for i in range(model.d_model) if bool((held[:, i].abs() > 0.01).any())]
    positions = ["BOS", *words]
    rows = [
        {"position": position, "dimension": program.compiled.labels[i], "value": round(float(values[i]), 4) + 0.0}
        for position, values in zip(positions, held, strict=True)
        for i in used
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "residual",
        figures.heatmap(table, "position", "dimension", "value", xlabel="", ylabel="dimension of the residual stream"),
        caption=f"The residual stream of {SHOWN} on {' '.join(words)} after the last layer: dimensions that are used, by name.",
        alt="One dimension of each step is 1 at each word. Tokens run down a diagonal, reversed tokens up.",
        data=table,
    )
    report.text(
        "Each step has dimensions of its own, one per value, and writes a 1 into the one that holds. `1/(1+length)` is a number: "
        "the attention that BOS keeps when every word gets as much, from which one layer of neurons reads the length."
    )


# ---- circuits ----


def report_circuits(config: Config, report: Report, compiled: dict[str, CompiledProgram]) -> None:
    """The edges with an effect are those that follow from the program, under each ablation."""
    report.section("Circuits that follow from the program")
    rows, edges, wrong, scores, blurred = [], [], 0, [], []
    for name, program in compiled.items():
        truth = program.compiled
        contrast = truth.contrast(config.examples, seed=config.seed)
        row: dict[str, object] = {"program": name}
        for ablation, circuit in truth.circuits.items():
            effects = paths.effects(truth.model, contrast, Contrast.logit_difference, replacement=ablation)
            largest = dict(zip(effects.coords["edge"], np.abs(effects.values).max(1).tolist(), strict=True))
            wrong += len({edge for edge, size in largest.items() if size > SEEN} ^ circuit)
            row |= {"edges": len(largest), ablation: len(circuit)}
            if ablation == "corrupt":
                scores.append(calibration.score(effects, effects, circuit, truth.decoys).auroc)
                blurred.append(calibration.score(shuffled(effects, config.seed), effects, circuit, truth.decoys).auroc)
                eap = calibration.score(edge_attribution.eap(truth.model, contrast), effects, circuit, truth.decoys)
                row |= {"AUROC of EAP": eap.auroc}
                edges += carried(name, program, largest)
        rows.append(row)
    report.claim(
        "circuits",
        "edges whose effect is not as declared, over all programs and ablations",
        wrong,
        at_most=0,
        source="the programs' own interpreter",
        control=sum(len(each.compiled.circuits["zero"] ^ each.compiled.circuits["corrupt"]) for each in compiled.values()),
        control_text="edges declared under one ablation, found under the other",
    )
    report.claim(
        "recovered",
        "AUROC of exact patching on the declared edges, mean over programs",
        stats.bootstrap(scores, seed=config.seed),
        at_least=1.0,
        source=SOURCE,
        control=stats.bootstrap(blurred, seed=config.seed),
        control_text="the same effects dealt out to random edges",
    )
    report.table("circuits", rows, caption="Edges that matter, by what takes their place (mean only where it has one answer).")
    report.table("carried", edges, caption="What each edge of the circuit under replacement by the twin's values carries.")
    report_note(report)


def report_note(report: Report) -> None:
    report.text(
        "Under zero even the reading of a constant counts: `reverse` needs the length of its input, which is the same in both "
        "twins, so two edges matter under replacement and nine under zero. Published for tracr's `reverse` are two and ten "
        "(Conmy et al. 2023, arXiv:2304.14997): here keys of which all are selected attend as evenly as keys, and BOS, that are "
        "all zero.\n\n"
        "EAP, whose AUROC is in the table, gives nothing to edges behind attention and neurons that are saturated.\n\n"
        "The section would be false if one edge outside a declared circuit changed an output, or one inside it none."
    )


def shuffled(effects: Measurement, seed: int) -> Measurement:
    """The same effects, dealt out to the edges by chance."""
    order = stats.generator(seed, "shuffled effects").permutation(len(effects.values))
    return Measurement(effects.name, effects.values[order], effects.dims, effects.coords, effects.unit)


def carried(name: str, program: CompiledProgram, largest: dict[str, float]) -> list[dict[str, object]]:
    """The edges of a circuit with the steps that they carry."""
    return [
        {
            "program": name,
            "edge": edge,
            "carries": ", ".join(dict.fromkeys(read.source for read in program.carried[edge])),
            "for": ", ".join(dict.fromkeys(read.reader for read in program.carried[edge])),
            "largest effect": largest[edge],
        }
        for edge in sorted(program.compiled.circuits["corrupt"])
    ]


if __name__ == "__main__":
    experiment.main(Config, run)
