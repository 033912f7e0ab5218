"""The neuron census: one row for every neuron of a model, from its weights and from how often it fires; and the spectra of the
weights beside those of random ones.

Must not know: figures, reports, what the text says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.mlp.keys import Triggers
from interp.mlp.memories import Memories, layers, memories, source
from interp.mlp.values import readings, value_logits
from interp.models.hooked import Model

DUPLICATE = 0.95
"""Cosine from which two neurons count as one written twice."""
_CHUNK = 1024  # neurons compared with all others at a time


def census(model: Model, found: Mapping[str, Triggers] | None = None, *, stack: str | None = None) -> pd.DataFrame:
    """One row per neuron, layer by layer. The encoder of an encoder–decoder, which writes no logits, has no readings.

    Of the weights, with the norm before the MLP folded into what is read:
        key_norm, gate_norm, value_norm    lengths; gate_norm for gated MLPs only
        in_out_cosine    cos(kᵢ, vᵢ): 1 writes along what it reads, −1 erases it; unrelated directions have 0 ± 1/√d_model
        in_out_z         the same in those standard deviations
        gate_out_cosine, gate_in_cosine    likewise, for gated MLPs only
        twin, twin_cosine    the neuron of the layer most like it, and how much: the least cosine of keys, gates and values
        expert           of a mixture, else absent
    Of the value through the final norm and the unembedding (`values.readings`):
        confidence, entropy, kurtosis
    Of the activations, where `found` (the triggers of every layer) is given:
        density          share of tokens with an activation above 0
        dead, always_on  density 0 and 1
        largest          activation

    Raises ModelError for a model without MLPs, or whose logits are more than final norm and unembedding.
    """
    return pd.concat([_layer(model, layer, found, stack) for layer in layers(model, stack)], ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per layer of a `census`: neurons, medians, and how many stand out."""
    by_layer = table.groupby("layer", sort=True)
    columns = {
        "neurons": by_layer.size(),
        "value norm": by_layer.value_norm.median(),
        "|in-out z| > 5": by_layer.in_out_z.agg(lambda z: int((z.abs() > 5).sum())),
        **({"kurtosis": by_layer["kurtosis"].median()} if "kurtosis" in table else {}),
        "duplicates": by_layer.twin_cosine.agg(lambda cosine: int((cosine >= DUPLICATE).sum())),
    }
    if "density" in table:
        columns |= {"density": by_layer.density.median(), "dead": by_layer.dead.sum(), "always on": by_layer.always_on.sum()}
    return pd.DataFrame(columns).reset_index()


def spectrum(model: Model, *, stack: str | None = None) -> pd.DataFrame:
    """Singular values of the keys, gates and values of every layer, each beside what random weights would have.

    Columns layer, matrix, component (from 1), value, random: the values of a Gaussian matrix of the same shape and the same
    Frobenius norm (Marchenko & Pastur 1967, by their quantiles).
    """
    rows = []
    for layer in layers(model, stack):
        held = memories(model, layer, stack=stack)
        for name, matrix in _matrices(held).items():
            values = torch.linalg.svdvals(matrix).cpu().numpy()
            random = _marchenko_pastur(*matrix.shape)[: len(values)] * float(matrix.norm())
            rows += [
                {"layer": layer, "matrix": name, "component": place + 1, "value": float(value), "random": float(null)}
                for place, (value, null) in enumerate(zip(values, random, strict=True))
            ]
    return pd.DataFrame(rows)


def _layer(model: Model, layer: int, found: Mapping[str, Triggers] | None, stack: str | None) -> pd.DataFrame:
    held = memories(model, layer, stack=stack)
    matrices = _matrices(held)
    twin, twin_cosine = _twins(list(matrices.values()))
    columns: dict[str, object] = {"layer": layer, "neuron": np.arange(len(held.values))}
    if held.expert is not None:
        columns["expert"] = held.expert
    columns |= {f"{name}_norm": matrix.norm(dim=1) for name, matrix in matrices.items()}
    cosine = F.cosine_similarity(held.keys, held.values)
    columns |= {"in_out_cosine": cosine, "in_out_z": cosine * held.keys.shape[1] ** 0.5}
    if held.gates is not None:
        columns["gate_out_cosine"] = F.cosine_similarity(held.gates, held.values)
        columns["gate_in_cosine"] = F.cosine_similarity(held.gates, held.keys)
    columns |= {"twin": twin, "twin_cosine": twin_cosine}
    if stack != "encoder":
        pointed = readings(value_logits(model, layer, stack=stack))
        columns |= {"confidence": pointed.confidence, "entropy": pointed.entropy, "kurtosis": pointed.kurtosis}
    if found is not None:
        fired = found[source(model, layer, stack=stack).name]
        columns |= {
            "density": fired.density,
            "dead": fired.density == 0,
            "always_on": fired.density == 1,
            "largest": fired.value[0],
        }
    return pd.DataFrame({name: part.cpu().numpy() if isinstance(part, Tensor) else part for name, part in columns.items()})


def _matrices(held: Memories) -> dict[str, Float[Tensor, "neuron d_model"]]:
    gates = {} if held.gates is None else {"gate": held.gates}
    return {"key": held.keys, **gates, "value": held.values}


def _twins(matrices: list[Float[Tensor, "neuron d_model"]]) -> tuple[Int[Tensor, " neuron"], Float[Tensor, " neuron"]]:
    """For each neuron the one that is like it in all matrices, and the least of the cosines."""
    units = [F.normalize(matrix, dim=1) for matrix in matrices]
    twins, cosines = [], []
    for rows in torch.arange(len(units[0])).split(_CHUNK):
        alike = torch.stack([unit[rows] @ unit.T for unit in units]).amin(0)
        alike[torch.arange(len(rows)), rows] = -torch.inf
        cosine, twin = alike.max(dim=1)
        twins.append(twin)
        cosines.append(cosine)
    return torch.cat(twins), torch.cat(cosines)


def _marchenko_pastur(n: int, d: int) -> Float[np.ndarray, " component"]:
    """Singular values of a Gaussian n × d matrix of Frobenius norm 1, largest first, as n and d grow."""
    few, many = min(n, d), max(n, d)
    ratio = few / many
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    grid = np.linspace(low, high, 20_001)
    middle = (grid[1:] + grid[:-1]) / 2
    density = np.sqrt((high - middle) * (middle - low)) / middle
    below = np.append(0, density.cumsum()) / density.sum()
    squares = np.interp((np.arange(few) + 0.5) / few, below, grid)[::-1]
    return np.sqrt(squares / squares.sum())
