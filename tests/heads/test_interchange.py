"""Interchange interventions equal TransformerLens's, and find the variable where it was put."""

from dataclasses import replace

import pytest
import torch
from model_shapes import case_of
from transformer_lens.tools.analysis import interchange as reference

from interp.errors import ConfigError, HookError, ModelError
from interp.heads import interchange
from interp.heads.ablation import Place
from interp.models import compiled
from interp.tasks.contrast import Contrast

HOOK = "blocks.0.hook_resid_post"


@pytest.mark.parametrize("rank", [None, 1, 5])
def test_the_intervention_equals_transformer_lens_s(rank):
    case = case_of("native")
    contrast = Contrast(clean=case.tokens, corrupt=case.tokens.flip(1), answers=torch.tensor([3, 4]))
    basis = None if rank is None else interchange.random_basis(16, rank, torch.Generator().manual_seed(0))
    ours = interchange.interchanged(case.model, contrast, Place(HOOK, pos=2), basis=basis)
    bridge, places = case.model.bridge, torch.tensor([2, 2])
    was = bridge.training
    bridge.eval()
    try:
        kept = reference.collect_activations(bridge, HOOK, contrast.corrupt, bridge, positions=places)
        step = reference.SubspaceInterchange(torch.eye(16) if basis is None else basis)
        theirs = reference.intervened_logits(bridge, HOOK, step, contrast.clean, kept, bridge, positions=places)
    finally:
        bridge.train(was)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, case.run().logits, atol=1e-3)


@pytest.fixture(scope="module")
def built():
    return compiled.induction()


@pytest.fixture(scope="module")
def asked(built):
    """Base and source, and what a program with the previous tokens of the source and all else of the base would say."""
    base = built.contrast(64, seed=0)
    source = built.contrast(64, seed=1).clean
    match = source[:, :-1] == base.clean[:, -1:]
    after = torch.where(match, base.clean[:, 1:], 0).sum(1)  # a token stands once before the last, or never: 0 is BOS
    return replace(base, corrupt=source, answers=after)


def span(built, name):
    return torch.eye(len(built.labels))[:, [label.startswith(f"{name}=") for label in built.labels]]


def test_previous_tokens_taken_from_the_source_change_the_answer_as_the_program_says(built, asked):
    place = Place(HOOK)
    assert interchange.accuracy(built.model, asked, place, basis=span(built, "prev")).values.mean() == 1.0
    controls = [span(built, "null"), interchange.random_basis(len(built.labels), 17, torch.Generator().manual_seed(0))]
    for control in controls:
        assert interchange.accuracy(built.model, asked, place, basis=control).values.mean() < 0.3


def test_one_head_carries_them(built, asked):
    accuracies = [interchange.accuracy(built.model, asked, Place("blocks.0.attn.hook_z", head)).values.mean() for head in (0, 1)]
    assert accuracies[0] == 1.0 and accuracies[1] < 0.3


@pytest.mark.parametrize(
    ("basis", "fault"),
    [
        (torch.eye(5), "a basis of 5 rows does not fit blocks.0.hook_resid_post, which is 80 wide"),
        (torch.ones(80, 2), "the columns of the basis are not orthonormal"),
    ],
)
def test_a_basis_that_is_none_is_refused(basis, fault, built, asked):
    with pytest.raises(ConfigError, match=fault):
        interchange.interchanged(built.model, asked, Place(HOOK), basis=basis)


def test_places_that_do_not_exist_are_refused(built, asked):
    with pytest.raises(HookError, match="hook_resid_posd"):
        interchange.interchanged(built.model, asked, Place("blocks.0.hook_resid_posd"))
    with pytest.raises(ModelError, match="no head 4"):
        interchange.interchanged(built.model, asked, Place("blocks.0.attn.hook_z", 4))
