"""Estimates of edge effects: right to first order on every kind of model, summing to nodes, exact where the model is linear,
complete along a path; and the edges of a circuit that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from edge_cases import contrast_of, shaken
from model_shapes import NATIVE, SHAPES
from near_twins import near
from sklearn.metrics import roc_auc_score
from transformer_lens.tools.analysis import attribution_patching as lens

from interp.errors import ConfigError, ModelError
from interp.heads import edge_attribution, gradients, paths
from interp.heads.edge_attribution import eap, eap_ig
from interp.models.blind_spots import BLIND_SPOTS
from interp.models.compiled import induction
from interp.models.hooked import Model
from interp.models.rasp_circuits import compiled_task
from interp.tasks.contrast import Contrast


@pytest.mark.parametrize("shape", ["native", "gated", "neox", "mixtral", "bert", pytest.param("bart", marks=pytest.mark.slow)])
def test_estimates_are_right_to_first_order(shape: str) -> None:
    off = []
    for finer in (1, 2):
        model, contrast = near(shape, finer=finer)
        exact = paths.effects(model, contrast, Contrast.logit_difference)
        found = eap(model, contrast)
        assert list(found.coords["edge"]) == list(exact.coords["edge"])
        off.append(np.abs(found.values - exact.values).max())
    assert off[1] < 0.05 * np.abs(exact.values).max()
    assert 3 < off[0] / off[1] < 5, "the error falls with the square of the corruption"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_edges_out_of_a_node_sum_to_it(shape: str) -> None:
    model, contrast = shaken(shape), contrast_of(shape)
    edges, nodes = eap(model, contrast), gradients.attribution(model, contrast)
    for row, node in enumerate(nodes.coords["node"]):
        leaving = [at for at, edge in enumerate(edges.coords["edge"]) if edge.startswith(f"{node}->")]
        total = edges.values[leaving].sum(0)
        np.testing.assert_allclose(total, nodes.values[row], atol=1e-3 * np.abs(edges.values).sum(0).max())


def test_edges_that_do_not_add_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, contrast = shaken("native"), contrast_of("native")
    monkeypatch.setattr(edge_attribution, "_back", lambda model, parts, at, gradient: gradient)
    with pytest.raises(ModelError, match="the edges out of blocks.0.hook_resid_pre do not add up to its effect on native"):
        eap(model, contrast)


@pytest.mark.parametrize("shape", ["gpt2", "bart"])
def test_positions_sum_to_edges_and_batches_and_pieces_make_no_difference(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, contrast = shaken(shape), contrast_of(shape)
    whole = eap(model, contrast)
    monkeypatch.setattr(edge_attribution, "_HELD", 1)
    parted = eap(model, contrast, by_position=True)
    assert parted.dims == ("edge", "example", "pos") and parted.values.shape[-1] == contrast.clean.shape[1]
    scale = np.abs(whole.values).max()
    np.testing.assert_allclose(parted.values.sum(-1), whole.values, atol=1e-5 * scale)
    np.testing.assert_allclose(eap(model, contrast, batch=1).values, whole.values, atol=1e-5 * scale)


def test_estimates_are_exact_where_the_model_is_linear() -> None:
    model = Model.native(NATIVE | {"attn_only": True, "normalization_type": None}, seed=0)
    with torch.no_grad():
        for layer in range(2):
            for name in ("W_Q", "b_Q"):
                model.weight(f"blocks.{layer}.attn.{name}").zero_()
    contrast = contrast_of("native")
    exact = paths.effects(model, contrast, Contrast.logit_difference).values
    for how in (eap, eap_ig):
        np.testing.assert_allclose(how(model, contrast).values, exact, atol=1e-4 * np.abs(exact).max())


def test_edges_equal_those_of_transformerlens() -> None:
    """It takes one scalar of one example's logits, denoises, keeps positions apart and averages over examples."""
    model, contrast = shaken("gpt2"), contrast_of("gpt2")
    contrast = Contrast(clean=contrast.clean, corrupt=contrast.corrupt, answers=torch.tensor([7, 7]), wrong=torch.tensor([9, 9]))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, 7] - logits[0, -1, 9]

    config = lens.EdgeAttributionConfig(granularity="edge")
    theirs = lens.attribution_patch(model.bridge, contrast.clean, contrast.corrupt, metric, config)
    summed: dict[str, float] = {}
    for (source, target), score in theirs.edge_scores.items():
        name = f"{_name(source)}->{_name(target)}"
        summed[name] = summed.get(name, 0.0) + score
    ours = eap(model, contrast.swapped()).mean("example")
    assert set(summed) == set(ours.coords["edge"])
    expected = [summed[name] for name in ours.coords["edge"]]
    np.testing.assert_allclose(ours.values, expected, atol=1e-5 * np.abs(expected).max())


def _name(node: lens.Node) -> str:
    if node.kind in ("q_input", "k_input", "v_input"):
        return f"a{node.layer}.h{node.head}<{node.kind[0]}>"
    fixed = {"embed": "input", "logits": "logits", "attn_head_out": f"a{node.layer}.h{node.head}"}
    return fixed.get(node.kind, f"m{node.layer}")


@pytest.mark.parametrize(
    ("shape", "path"),
    [("native", "inputs"), ("native", "activations"), ("bert", "inputs"), ("bert", "activations"), ("vaswani", "inputs")],
)
def test_integrated_edges_add_up_as_steps_grow(shape: str, path: str) -> None:
    model, contrast = shaken(shape), contrast_of(shape)
    few, many = (eap_ig(model, contrast, path=path, steps=steps) for steps in (3, 24))
    off = [np.abs(gradients.completeness(model, contrast, each).values).max() for each in (few, many)]
    assert off[1] < off[0] / 3


def test_a_path_in_one_step_is_the_gradient_half_way() -> None:
    model, contrast = shaken("native"), contrast_of("native")
    one, plain = eap_ig(model, contrast, steps=1), eap(model, contrast)
    assert np.abs(one.values - plain.values).max() > 0.01
    small, twins = near("native")
    np.testing.assert_allclose(eap_ig(small, twins, steps=1).values, eap(small, twins).values, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_integrated_gradients_find_every_edge_of_the_induction_circuit_and_plain_ones_do_not(seed: int) -> None:
    compiled = induction(noise=0.01, seed=seed)
    contrast = compiled.contrast(16, seed=seed)
    plain, integrated = eap(compiled.model, contrast), eap_ig(compiled.model, contrast, steps=5)
    true = [edge in compiled.circuits["corrupt"] for edge in plain.coords["edge"]]
    found = [roc_auc_score(true, np.abs(each.values.mean(1))) for each in (plain, integrated)]
    assert found[1] == 1.0
    assert found[0] < 0.95


# ---- what is refused ----


def refused(**changes: Any) -> Contrast:
    fields: dict[str, Any] = {
        "clean": torch.tensor([[3, 4, 5]]),
        "corrupt": torch.tensor([[3, 6, 5]]),
        "answers": torch.tensor([7]),
        "wrong": torch.tensor([8]),
    }
    return Contrast(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": torch.tensor([77])}, "answers holds the id 77, but the model's vocabulary is 0 to 49"),
        ({"wrong": torch.tensor([-1])}, "wrong holds the id -1, but the model's vocabulary is 0 to 49"),
        ({"positions": 3}, "positions holds 3, but the logits have 3 positions; use -3 to 2"),
        ({"corrupt": torch.tensor([[3, 4, 5]])}, "clean and corrupted inputs are the same in every example"),
        ({"reference": torch.zeros(1, 9)}, r"reference has shape \[1, 9\], expected \[1, 50\]"),
    ],
)
def test_contrasts_that_do_not_fit_the_model_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        eap(shaken("native"), refused(**changes))


def test_inputs_beside_the_tokens_must_match_too() -> None:
    decoder = torch.tensor([[3, 4]])
    longer = refused(beside={"decoder_input": decoder}, beside_corrupt={"decoder_input": torch.tensor([[3, 4, 5]])})
    with pytest.raises(
        ModelError, match=r"decoder_input has shape \[1, 2\] beside the clean tokens and \[1, 3\] beside the corrup"
    ):
        eap(shaken("bart"), longer)
    other = refused(beside={"decoder_input": decoder}, beside_corrupt={"attention_mask": torch.ones(1, 3)})
    with pytest.raises(
        ModelError, match="there is decoder_input beside the clean tokens and attention_mask beside the corrupted"
    ):
        eap(shaken("bart"), other)


def test_a_metric_that_does_not_depend_on_the_activations_gives_no_table_of_zeros() -> None:
    model, contrast = shaken("native"), contrast_of("native")
    for how in (eap, eap_ig):
        with pytest.raises(ModelError, match="every effect is exactly 0"):
            how(model, contrast, lambda part, logits: 0 * logits[:, 0, 0])


@pytest.mark.parametrize(
    ("how", "message"),
    [({"steps": 0}, "steps=0 make no path; use at least 1"), ({"path": "weights"}, "no path 'weights'; move the 'inputs' or")],
)
def test_paths_that_do_not_exist_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eap_ig(shaken("native"), contrast_of("native"), **how)


@pytest.mark.parametrize("name", ["rotated basis", "sort"])
def test_effects_smaller_than_the_rounding_of_the_metric_are_no_reason_to_refuse(name: str) -> None:
    known = BLIND_SPOTS[name]().known if name in BLIND_SPOTS else compiled_task(name).compiled
    found = eap_ig(known.model, known.contrast(16, seed=1), path="activations", steps=2)
    assert np.isfinite(found.values).all() and np.abs(found.values).max() > 1
