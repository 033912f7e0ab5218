"""Heads as a report shows them: at work on one text, and their weights in numbers and in tokens.

Must not know: where anything is written, experiments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats as distributions

from interp import stats
from interp.errors import ModelError
from interp.heads import ablation, direct, patching, patterns, qkov
from interp.heads.classes import holm
from interp.heads.composition import Factors
from interp.heads.direct import Question
from interp.heads.patterns import Attention
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.report.views import AttentionView, AttributionView
from interp.tasks.contrast import Contrast

SCORES: dict[qkov.Circuit, str] = {"OV": "copying", "QK": "matching"}
"""What the eigenvalues of each circuit say."""


def attention_view(
    model: Model,
    tokens: Int[torch.Tensor, "1 pos"],
    shown: Sequence[str],
    *,
    attention: str = "self",
    keys: Sequence[str] | None = None,
    scores: Mapping[str, Float[np.ndarray, "layer head"]] | None = None,
    classes: pd.DataFrame | None = None,
    **beside: Any,
) -> AttentionView:
    """Every head of one attention on one text.

    shown: a string for every attending token; keys: for every attended one, in cross-attention. classes: as `heads.classes`
    gives them. beside: what the model takes beside tokens.
    """
    looked = patterns.attention_of(model, attention)
    hooks = [f"{path}.hook_pattern" for path in looked.paths.values()]
    run = model.run(tokens, read=hooks, **beside)
    words = None
    if classes is not None:
        named = classes.assign(word=classes["class"].str.replace("_", " "))
        words = [named.word[named.layer == layer].tolist() for layer in looked.paths]
    return AttentionView(
        name=f"attention-{attention}",
        title="Attention" if attention == "self" else f"Attention: {attention}",
        tokens=shown,
        keys=keys,
        patterns=np.stack([run.activations[hook][0].float().cpu().numpy() for hook in hooks]),
        scores=dict(scores or {}),
        classes=words,
    )


def attribution_view(
    model: Model, tokens: Int[torch.Tensor, "1 pos"], shown: Sequence[str], *, places: Sequence[int]
) -> AttributionView:
    """What every token brings straight to the logit of the token that follows, at each of some places (`heads.direct`).

    Groups: every head, by the token it brings from; and all components, those that do not look back at the place itself. The
    heads add up to the attention of all layers but for its biases, the components to the logit.

    Raises ModelError for models whose logits are no such sum.
    """
    n = tokens.shape[1]
    rows = tokens.expand(len(places), -1)
    question = Question(tokens[0, [place + 1 for place in places]].cpu(), positions=torch.tensor(places))
    brought = direct.by_source(model, rows, question).values  # [layer head source target]
    whole = direct.by_component(model, rows, question)
    heads, components = {}, {}
    for layer, head in np.ndindex(brought.shape[:2]):
        heads[f"L{layer}H{head}"] = brought[layer, head].T
    for name in whole.coords["component"]:
        at_place = np.zeros((len(places), n))
        at_place[np.arange(len(places)), places] = whole.sel(component=name).values
        components[name] = at_place
    for layer in range(model.n_layers):
        through = brought[layer].sum(0).T
        components[f"{layer}.attn"][np.arange(len(places)), places] -= through.sum(1)
        components[f"{layer}.attn"] += through
    return AttributionView(
        tokens=shown,
        targets=[(place, f"logit of “{shown[place + 1]}”") for place in places],
        title="Straight to a logit",
        groups={"heads": heads, "components": components},
        caption="Read with the scale of the last norm as it is in this run. What goes through later layers is not in it.",
    )


def costs(
    model: Model, looked: Attention, tokens: Int[torch.Tensor, "example pos"], *, seed: int = 0, **beside: Any
) -> Measurement:
    """KL(whole ‖ without) in nats, a head's output replaced by its mean over these inputs: Measurement(layer, head, example).

    Of the prediction at one place of each example, drawn from the last quarter: in rows that repeat, a copy.
    """
    hooks = [f"{path}.hook_z" for path in looked.paths.values()]
    means = ablation.mean_outputs(model, tokens, hooks, **beside)
    logits = model.run(tokens, logits=True, **beside).logits.float()
    n, length = logits.shape[:2]
    generator = stats.torch_generator(seed, "places asked about")
    places = torch.randint(3 * length // 4, length, (n,), generator=generator)
    whole = logits[torch.arange(n), places.to(logits.device)]
    contrast = Contrast(
        clean=tokens, corrupt=tokens, answers=whole.argmax(-1).cpu(), positions=places, beside=beside, reference=whole
    )
    star = re.sub(r"\.\d+\.", ".*.", hooks[0], count=1)
    return patching.sweep(model, contrast, star, by=("head",), metric=Contrast.divergence, values=means)


def circuits(model: Model, *, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Every head's weights in numbers: copying and matching, and the effective ranks of its OV and QK circuits.

    Beside each eigenvalue score stands p: how often a head with Gaussian weights lies as far from 0, by a normal distribution of
    the spread of `draws` such heads, after Holm's rule over all heads and both scores. Raises ModelError as `qkov.Reading`.
    """
    layer, head = np.divmod(np.arange(model.n_layers * model.n_heads), model.n_heads)
    columns: dict[str, np.ndarray] = {"layer": layer, "head": head}
    drawn = qkov.random_heads(model, draws, seed=seed)
    chance = []
    for circuit, score in SCORES.items():
        reading = qkov.Reading(model, circuit)
        layers = [reading.layer(layer) for layer in range(model.n_layers)]
        columns[score] = np.concatenate([reading.sign(heads).cpu().numpy() for heads in layers])
        columns[f"{circuit} rank"] = np.concatenate([reading.rank(heads).cpu().numpy() for heads in layers])
        spread = reading.sign(drawn).square().mean().sqrt().item()
        chance.append(2 * distributions.norm.sf(np.abs(columns[score]) / spread))
    adjusted = holm(np.concatenate(chance)).reshape(len(SCORES), -1)
    table = pd.DataFrame(columns | {f"{score} p": p for score, p in zip(SCORES.values(), adjusted, strict=True)})
    return table.filter(items=["layer", "head", "copying", "copying p", "OV rank", "matching", "matching p", "QK rank"])


def partners(model: Model, *, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """For every head after the first layer, the earlier head through which its keys match its queries' tokens best.

    matching: `Reading.sign` of W_QK whose key reads what that head wrote; beside it `alone`, without it, and `chance`, what the
    largest of as many heads with Gaussian weights in the partner's place stays below in 19 of 20 draws. An induction head's
    partner is a previous-token head. Raises ModelError as `qkov.Reading`, and for a model of one layer.
    """
    if model.n_layers < 2:
        raise ModelError(f"{model.name} has {model.n_layers} layer; a head's partner is in an earlier one")
    reading, rows = qkov.Reading(model, "QK"), []
    drawn = qkov.random_heads(model, draws, seed=seed)
    early: list[qkov.Head] = []
    for layer in range(model.n_layers):
        for head in range(model.n_heads if layer else 0):
            own = qkov.qk(model, (layer, head))
            found = [float(reading.sign(qkov.qk(model, (layer, head), key_from=[one]))) for one in early]
            best = int(np.argmax(found))
            null = reading.sign(Factors(own.left, (own.right @ drawn.right.mT) @ drawn.left.mT)).cpu().numpy()
            chance = np.quantile(null, 0.95 ** (1 / len(early)))
            row = {"layer": layer, "head": head, "partner": "L{}H{}".format(*early[best]), "matching": found[best]}
            rows.append(row | {"alone": float(reading.sign(own)), "chance": chance})
        early += [(layer, head) for head in range(model.n_heads)]
    return pd.DataFrame(rows)


def directions(
    model: Model, heads: Sequence[qkov.Head], vocabulary: Sequence[str], *, strongest: int = 3, tokens: int = 6
) -> pd.DataFrame:
    """The strongest singular directions of the circuits of some heads, as the tokens at both of their ends (`qkov.Spectrum`)."""
    rows = []
    for circuit in SCORES:
        reading = qkov.Reading(model, circuit)
        for layer, head in heads:
            spectrum = reading.spectrum(qkov.ov(model, (layer, head)) if circuit == "OV" else qkov.qk(model, (layer, head)))
            for direction in range(min(strongest, len(spectrum.values))):
                for sign, (read, write) in spectrum.ends(direction, min(tokens, len(vocabulary) // 2)).items():
                    place = {"head": f"L{layer}H{head}", "circuit": circuit, "direction": direction, "end": sign}
                    said = {"reads": _words(read, vocabulary), "writes": _words(write, vocabulary)}
                    rows.append(place | {"share": float(spectrum.shares[direction])} | said)
    return pd.DataFrame(rows)


def _words(tokens: Sequence[int], vocabulary: Sequence[str]) -> str:
    return " ".join(f"“{vocabulary[token]}”" for token in tokens)
