"""Is an MLP a key–value memory, and how much does it hold? (Geva et al. 2021, arXiv:2012.14913; Meng et al. 2022, 2202.05262)

Where the truth is known, every method must find it: a planted MLP holds 256 keys in 64 dimensions, one neuron each. What fires a
neuron, what it writes, what integrated gradients say and what an edit does are compared with what was planted. Then capacity:
how far a linear memory, attention and an MLP with the same keys and values get before they confuse them, against theory.
Last a memory that training made, in which a fact is no neuron's own: a table of token triples, to be read back from
the sub-updates of its neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import experiment, figures, stats, superposition
from interp.mlp import associative, editing, knowledge, recall
from interp.mlp.subupdates import SubUpdates, scaled, sub_updates
from interp.mlp.values import value_logits
from interp.models import zoo
from interp.models.memories import PlantedMemory, planted_memory
from interp.report import Report
from interp.tasks.facts import Prompts

ID = "E15"


@dataclass(frozen=True, kw_only=True)
class Config:
    keys: int = 256  # in the planted memory
    d_model: int = 64
    edited: int = 64  # keys whose value is rewritten, one at a time
    integral: int = 50  # steps of integrated gradients
    d_capacity: int = 32  # dimensions of the keys whose number is increased
    draws: int = 20  # random memories at every load
    steps: int = zoo.TrigramRecipe.steps  # training of the model of triples
    seed: int = 0


QUICK = {"edited": 16, "draws": 8, "steps": 800}

GEVA, DAI, MENG = "Geva et al. 2021", "Dai et al. 2022", "Meng et al. 2022"
RAMSAUER = "Ramsauer et al. 2020"
ISSUE = "target of this report"


def run(config: Config, report: Report) -> None:
    planted = planted_memory(config.keys, config.d_model, seed=config.seed)
    report_reading(config, report, planted)
    report_attribution(config, report, planted)
    report_editing(config, report, planted)
    report_capacity(config, report)
    report_correlated(config, report)
    report_triples(config, report)


# ---- the planted memory ----


def report_reading(config: Config, report: Report, planted: PlantedMemory) -> None:
    """What fires each neuron is its key, and what it writes is what follows."""
    report.section("Reading a planted memory")
    hook = "blocks.0.mlp.hook_post"
    generator = stats.torch_generator(config.seed, ID, "walks")
    rows = planted.walks(4 * config.keys, 8, generator=generator)
    post = planted.model.run(rows[:, :-1], read=[hook]).activations[hook].flatten(0, 1)
    strongest = post.argmax(0)
    trigger, following = rows[:, :-1].flatten()[strongest], rows[:, 1:].flatten()[strongest]
    owner = torch.empty_like(planted.neuron)
    owner[planted.neuron] = torch.arange(config.keys)
    said = value_logits(planted.model, 0).argmax(1)
    shuffled = following[torch.randperm(config.keys, generator=generator)]
    report.claim(
        "trigger",
        "share of neurons whose strongest trigger is the key that was planted",
        stats.bootstrap(trigger == owner, seed=config.seed),
        at_least=1.0,
        source=GEVA,
        control=stats.bootstrap(trigger == owner.roll(1), seed=config.seed),
        control_text="the key of the next neuron",
    )
    report.claim(
        "agreement",
        "agreement: share of neurons whose value promotes the token after their strongest trigger most",
        stats.bootstrap(said == following, seed=config.seed),
        at_least=1.0,
        source=GEVA,
        control=stats.bootstrap(said == shuffled, seed=config.seed),
        control_text="tokens after the triggers of other neurons",
    )
    report.text(
        f"{config.keys} keys in {config.d_model} dimensions. The largest |cosine| between two of them is "
        f"{superposition.coherence(planted.model.W_E.numpy()):.2f}; "
        f"it could not be less than {superposition.welch_bound(config.keys, config.d_model):.2f} (Welch's bound)."
    )


def report_attribution(config: Config, report: Report, planted: PlantedMemory) -> None:
    """Integrated gradients point to the neuron that knows, and add up to what it does."""
    report.section("Integrated gradients")
    with experiment.stage("integrated gradients"):
        found = knowledge.attribute(planted.model, planted.prompts, steps=config.integral)
        untrained = planted.model.untrained(stats.torch_seed(config.seed, "untrained"))
        known = recall.is_first(untrained, planted.prompts)
    top = torch.from_numpy(found.values.sel(layer=0).values).argmax(1)
    report.claim(
        "knowledge-neuron",
        "share of facts for which the neuron with the largest attribution is the one that holds it",
        stats.bootstrap(top == planted.neuron, seed=config.seed),
        at_least=1.0,
        source=DAI,
        control=stats.bootstrap(top.roll(1) == planted.neuron, seed=config.seed),
        control_text="the neuron found for another fact",
    )
    report.claim(
        "completeness",
        f"largest completeness residual of the midpoint rule with {config.integral} steps",
        float(np.abs(found.residual.values).max()),
        at_most=0.01,
        unit="probability",
        source=DAI,
        control=float(np.abs(knowledge.attribute(planted.model, planted.prompts, steps=2).residual.values).max()),
        control_text="2 steps",
    )
    report.text(f"An untrained model of the same shape knows {float(known.float().mean()):.1%} of the facts.")


def report_editing(config: Config, report: Report, planted: PlantedMemory) -> None:
    """A fact is rewritten exactly, by a change of rank one, and no other moves."""
    report.section("Editing")
    model, prompts, before = planted.model, planted.prompts, planted.model.fingerprint
    keys = editing.subject_keys(model, 0, [prompts])
    moment, wanted = editing.second_moment([keys]), prompts.answer.roll(1)
    weight = model.weight("blocks.0.mlp.W_out")
    values = weight[0].norm() * model.W_U.T[wanted]
    rows = []
    with experiment.stage("edits"):
        for fact in range(config.edited):
            one, others = slice(fact, fact + 1), prompts[torch.arange(config.keys) != fact]
            own = editing.rewrite(model, 0, keys[one], values[one], moment)
            blunt = editing.rewrite(model, 0, keys.mean(0, keepdim=True), values[one], moment, max_relative_norm=100.0)
            edited = own.apply(model)
            rows.append(
                {
                    "fact": fact,
                    "error": float((keys[one] @ edited.weight("blocks.0.mlp.W_out") - values[one]).norm()),
                    "error before": float((keys[one] @ weight - values[one]).norm()),
                    "rank": int(torch.linalg.matrix_rank(own.change)),
                    "relative norm": own.relative_norm,
                    "success": float(recall.is_first(edited, prompts[one].asking(wanted[one]))),
                    "unmoved": float(editing.unmoved(model, edited, others).float().mean()),
                    "unmoved, mean key": float(editing.unmoved(model, blunt.apply(model), others).float().mean()),
                }
            )
    table = pd.DataFrame(rows)
    report.table("edits", table, caption="One edit per row, each made to the model as it was planted.")
    claim_edits(config, report, table, already=recall.is_first(model, prompts.asking(wanted)))
    several = editing.rewrite(model, 0, keys[: config.edited], values[: config.edited], moment)
    report.claim(
        "edit-rank",
        "largest rank of a change",
        table["rank"].max(),
        equals=1,
        source=MENG,
        control=int(torch.linalg.matrix_rank(several.change)),
        control_text=f"{config.edited} facts at once",
    )
    report.claim(
        "untouched",
        "the model that was edited still has its own weights (1: yes)",
        float(model.fingerprint == before),
        equals=1,
        control=float(several.apply(model).fingerprint == before),
        control_text="the edited copy",
    )


def claim_edits(config: Config, report: Report, table: pd.DataFrame, *, already: Tensor) -> None:
    """What the table of edits has to show."""
    report.claim(
        "edit-exact",
        "largest ‖W′k* − v*‖ of an edit",
        table["error"].max(),
        at_most=1e-5,
        source=MENG,
        control=table["error before"].min(),
        control_text="smallest before an edit",
    )
    report.claim(
        "edit-success",
        "share of edits after which the new answer comes first",
        stats.bootstrap(table["success"], seed=config.seed),
        at_least=1.0,
        source=MENG,
        control=stats.bootstrap(already, seed=config.seed),
        control_text="before the edit",
    )
    report.claim(
        "edit-specificity",
        "share of all other answers that an edit leaves as they were",
        stats.bootstrap(table["unmoved"], seed=config.seed),
        at_least=1.0,
        source=MENG,
        control=stats.bootstrap(table["unmoved, mean key"], seed=config.seed),
        control_text="written to the mean of all keys",
    )


# ---- capacity ----

LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
COOL, THRESHOLD = 0.05, 0.6
"""Temperature of the attention memory, and the cosine at which a neuron of the MLP memory begins to fire."""


def report_capacity(config: Config, report: Report) -> None:
    """The same random keys and values in four memories, with ever more of them."""
    report.section("Capacity")
    table = capacity_table(config)
    report_linear(config, report, table)
    crowded = table[table.load == LOADS[-1]].pivot(index="draw", columns="memory", values="retrieved")
    for memory in ("attention", "MLP"):
        report.claim(
            f"capacity-{memory.lower()}",
            f"share of {LOADS[-1]:.0f} d keys that the {memory} memory tells apart",
            stats.bootstrap(crowded[memory], seed=config.seed),
            at_least=0.99,
            source=RAMSAUER,
            control=stats.bootstrap(crowded["hebbian"], seed=config.seed),
            control_text="linear, Hebbian",
        )
    shown = pd.DataFrame(table.groupby(["memory", "load"], as_index=False)[["error", "retrieved", "expected"]].mean())
    report.table("capacity", shown, caption="Error relative to the mean ‖v‖², share retrieved, and theory where there is one.")
    report.figure(
        "capacity",
        figures.lines(
            shown, "load", "retrieved", by="memory", xscale="log", xlabel="keys per dimension", title="Keys told apart"
        ),
        data=shown,
        caption=f"Random keys in {config.d_capacity} dimensions, asked for exactly; mean over {config.draws} draws.",
        alt="Linear memories lose keys beyond their dimension; attention and the MLP keep them all",
    )
    report_temperature(config, report)


def capacity_table(config: Config) -> pd.DataFrame:
    """Mean error and share retrieved of every memory at every load, one row per draw."""
    rows = []
    for load in LOADS:
        n = round(load * config.d_capacity)
        for draw in range(config.draws):
            keys, values = pair(config, n, draw)
            memories = {
                "hebbian": keys @ associative.hebbian(keys, values),
                "least_squares": keys @ associative.least_squares(keys, values),
                "attention": associative.attend(keys, keys, values, temperature=COOL),
                "MLP": associative.fire(keys, keys, values, threshold=THRESHOLD),
            }
            for memory, read in memories.items():
                linear = memory in ("hebbian", "least_squares")
                rows.append(
                    {
                        "memory": memory,
                        "load": load,
                        "draw": draw,
                        "error": float(associative.error(read, values).mean()),
                        "retrieved": float(associative.retrieved(read, values).mean()),
                        "expected": associative.expected_error(n, config.d_capacity, rule=memory) if linear else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def pair(config: Config, n: int, draw: int) -> tuple[Tensor, Tensor]:
    """Random unit keys and values."""
    known, said = (
        associative.unit_vectors(n, config.d_capacity, seed=stats.torch_seed(config.seed, ID, what, n, draw))
        for what in ("keys", "values")
    )
    return known, said


def report_linear(config: Config, report: Report, table: pd.DataFrame) -> None:
    """Both linear memories err as much as theory says."""
    hebbian = table[table.memory == "hebbian"]
    by_draw = hebbian.groupby("draw")[["error", "expected"]].sum()
    report.claim(
        "hebbian-error",
        "error of a Hebbian memory over its theory, (n − 1)/d, all loads together",
        stats.ratio(by_draw["error"], by_draw["expected"], seed=config.seed),
        between=(0.95, 1.05),
        source="Kohonen 1972",
        control=float(table[table.memory == "least_squares"]["error"].sum() / hebbian["expected"].sum()),
        control_text="least squares",
    )
    fitted = table[table.memory == "least_squares"].groupby("load")[["error", "expected"]].mean()
    report.claim(
        "least-squares-error",
        "largest distance of a least-squares memory's error from max(0, 1 − d/n), over loads",
        float((fitted.error - fitted.expected).abs().max()),
        at_most=0.03,
        source="pseudoinverse",
        control=float((hebbian.groupby("load").error.mean() - fitted.expected).abs().max()),
        control_text="Hebbian",
    )


def report_temperature(config: Config, report: Report) -> None:
    """Attention retrieves while it is cold enough for the gap between keys; the bound on what it misses holds."""
    n, rows, over, over_twice = 4 * config.d_capacity, [], [], []
    for draw in range(config.draws):
        keys, values = pair(config, n, draw)
        cosine = (keys @ keys.T).fill_diagonal_(-1)
        for temperature in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
            right = (keys @ keys.T / temperature).softmax(-1).diagonal()
            missed, gap = float((1 - right).max()), 1 - float(cosine.max())
            over.append(missed - associative.attention_error_bound(n, gap, temperature))
            over_twice.append(missed - associative.attention_error_bound(n, 2 * gap, temperature))
            read = associative.attend(keys, keys, values, temperature=temperature)
            rows.append({"temperature": temperature, "error": float(associative.error(read, values).mean())})
    report.claim(
        "attention-bound",
        "1 − p of the right key less its bound (n − 1) e^(−gap/T): the largest over keys, temperatures and draws",
        max(over),
        at_most=1e-6,
        source=RAMSAUER,
        control=max(over_twice),
        control_text="the bound for twice the gap",
    )
    table = pd.DataFrame(pd.DataFrame(rows).groupby("temperature", as_index=False).mean())
    report.figure(
        "temperature",
        figures.lines(table, "temperature", "error", xscale="log", title=f"Attention memory, {n} keys", ylabel="relative error"),
        data=table,
        caption="Error of what attention reads against the temperature of its softmax.",
        alt="The error rises from 0 to 1 as the softmax gets warmer",
    )


def report_correlated(config: Config, report: Report) -> None:
    """Where keys are correlated, an edit that knows their second moment disturbs the others less."""
    report.section("Edits among correlated keys")
    damage = {
        kind: np.array([edit_damage(config, draw, decay) for draw in range(config.draws)])
        for kind, decay in {"correlated": 1.0, "uncorrelated": 0.0}.items()
    }
    report.claim(
        "correlated-edit",
        "damage to other keys of edits by C⁻¹ over that of edits by C = I, correlated keys",
        stats.ratio(*damage["correlated"].T, seed=config.seed),
        at_most=0.5,
        source=MENG,
        control=stats.ratio(*damage["uncorrelated"].T, seed=config.seed),
        control_text="uncorrelated keys",
    )


def edit_damage(config: Config, draw: int, decay: float) -> tuple[float, float]:
    """Mean ‖kΔ‖² over the other keys of one rank-one edit, with C and with I; the i-th axis of the keys has scale i^(−decay)."""
    d = config.d_capacity
    keys, values = pair(config, 8 * d, draw)
    keys = keys * torch.arange(1, d + 1).float().pow(-decay)
    weight = associative.least_squares(keys, values)
    moment = editing.second_moment([keys])
    found = []
    for metric in (moment, torch.eye(d, dtype=moment.dtype)):
        left, right = editing.least_change(weight, keys[:1], values[1:2], metric)
        found.append(float((keys[1:].double() @ left @ right).square().sum(1).mean()))
    return found[0], found[1]


# ---- a memory that was trained ----


def report_triples(config: Config, report: Report) -> None:
    """No neuron of a trained memory has a fact to itself, but together they can be read back."""
    report.section("A table of triples, trained")
    recipe = zoo.TrigramRecipe(seed=config.seed, steps=config.steps)
    with experiment.stage("train triples"):
        model = zoo.train(recipe).model
    prompts = recipe.table.prompts
    updates = sub_updates(model, prompts.tokens, 0)
    table = read_back_table(config, updates, prompts)
    untrained = sub_updates(model.untrained(stats.torch_seed(config.seed, "untrained")), prompts.tokens, 0)
    report.claim(
        "triples",
        "share of stored (a, b) → c whose c the sub-updates of all neurons promote most, c not being told",
        stats.bootstrap(knowledge.read_back(updates, prompts) == prompts.answer, seed=config.seed),
        at_least=0.75,
        source=ISSUE,
        control=stats.bootstrap(knowledge.read_back(updates, prompts, top=1) == prompts.answer, seed=config.seed),
        control_text="the longest sub-update alone",
    )
    silent = scaled(model, [(0, neuron) for neuron in range(recipe.d_mlp)], 0.0)
    report.claim(
        "triples-needed",
        "share of the triples that the model still knows when its neurons are silent",
        stats.bootstrap(recall.is_first(model, prompts, edits=silent), seed=config.seed),
        at_most=0.25,
        source=ISSUE,
        control=stats.bootstrap(recall.is_first(model, prompts), seed=config.seed),
        control_text="as it is",
    )
    by_chance = float((knowledge.read_back(untrained, prompts) == prompts.answer).float().mean())
    active = float((updates.coefficient[:, 1] > 0).float().sum(1).mean())
    report.text(
        f"{recipe.facts} triples of {recipe.tokens} tokens in {recipe.d_mlp} neurons, on average {active:.0f} of them active. "
        f"From an untrained model {by_chance:.1%} are read back."
    )
    report.figure(
        "triples",
        figures.lines(table, "neurons", "recovered", low="low", high="high", xscale="log", title="Triples read back"),
        data=table,
        caption="Share of triples whose answer is what the longest sub-updates together promote most.",
        alt="The share of triples read back rises with the number of neurons read together",
    )


def read_back_table(config: Config, updates: SubUpdates, prompts: Prompts) -> pd.DataFrame:
    """How many triples can be read back from the longest 1, 2, 4 … sub-updates."""
    rows, neurons = [], 1
    while neurons <= updates.coefficient.shape[-1]:
        found = stats.bootstrap(knowledge.read_back(updates, prompts, top=neurons) == prompts.answer, seed=config.seed)
        rows.append({"neurons": neurons} | found.cells("recovered"))
        neurons *= 2
    return pd.DataFrame(rows)


if __name__ == "__main__":
    experiment.main(Config, run)
