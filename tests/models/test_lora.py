"""Claims about low-rank adapters: they act on every kind of model, merge exactly, leave nothing behind, and obey Eckart–Young."""

import pytest
import torch
from model_shapes import SHAPES, Case, build, case_of
from torch.testing import assert_close

from interp.errors import ModelError
from interp.models.hooked import Model
from interp.models.lora import Adapters, effective_rank, nearest, overlap, spectrum

STACKS = ("blocks", "encoder_blocks", "decoder_blocks")
LINEAR = ("q", "k", "v", "o", "in", "gate", "out")


def linear_parts(model):
    """The linear maps of the first block of each stack."""
    names = [name.split(".") for name, _ in model.bridge.named_modules(remove_duplicate=False)]
    return [".".join(n) for n in names if len(n) == 4 and n[0] in STACKS and n[1] == "0" and n[3] in LINEAR]


def fresh(shape):
    """A model of one's own to change, with the inputs of its kind."""
    return Case(build(shape), case_of(shape).tokens, case_of(shape).beside)


def stir(adapters):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for each in adapters.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_adapter_acts_and_all_together_merge_exactly_and_leave_nothing_behind(shape):
    case = fresh(shape)
    parts, before = linear_parts(case.model), case.run().logits
    assert len(parts) >= 4
    for name in parts:
        adapters = Adapters(case.model, [name], rank=2, alpha=4, seed=0)
        stir(adapters)
        assert not torch.allclose(case.run().logits, before), name
        adapters.detach()
    adapters = Adapters(case.model, parts, rank=2, alpha=4, seed=0)
    assert torch.equal(case.run().logits, before), "adapters start as no change"
    stir(adapters)
    adapted = case.run().logits
    adapters.merge()
    assert_close(case.run().logits, adapted, atol=1e-5, rtol=1e-5)
    adapters.attach()
    assert torch.equal(case.run().logits, adapted)
    adapters.detach()
    assert torch.equal(case.run().logits, before)


def test_the_adapted_map_is_the_map_and_a_low_rank_map_beside_it():
    case = fresh("native")
    read = ["blocks.0.ln2.hook_out", "blocks.0.mlp.hook_pre"]
    given, before = case.run(read=read).activations.values()
    adapters = Adapters(case.model, ["blocks.0.mlp.in"], rank=3, alpha=6, seed=0)
    stir(adapters)
    a, b = adapters.parameters()
    assert_close(case.run(read=read).activations[read[1]], before + 2 * (given @ a.T) @ b.T, atol=1e-5, rtol=1e-5)
    change = adapters.changes()["blocks.0.mlp.in"]
    assert_close(change, 2 * b @ a)
    assert int(torch.linalg.matrix_rank(change)) == 3


def test_a_matrix_kept_the_other_way_round_is_changed_as_a_map():
    case = fresh("gpt2")
    before = case.model.weight("blocks.0.mlp.W_out").clone()
    adapters = Adapters(case.model, ["blocks.0.mlp.out"], rank=2, alpha=2, seed=0)
    stir(adapters)
    assert_close(case.model.weight("blocks.0.mlp.W_out"), before + adapters.changes()["blocks.0.mlp.out"].T)


def test_only_the_adapters_get_a_gradient_and_detaching_gives_training_back():
    case = fresh("native")
    adapters = Adapters(case.model, ["blocks.0.attn.q", "blocks.1.mlp.out"], rank=2, alpha=2, seed=0)
    case.run(grad=True).logits.square().sum().backward()
    with_gradient = {id(each) for each in case.model.bridge.parameters() if each.grad is not None}
    assert with_gradient == {id(each) for each in adapters.parameters()}
    adapters.detach()
    assert all(each.requires_grad for each in case.model.bridge.parameters())


def test_a_merged_model_can_be_saved_and_an_attached_one_cannot(tmp_path):
    case = fresh("native")
    adapters = Adapters(case.model, ["blocks.0.attn.o"], rank=2, alpha=2, seed=0)
    stir(adapters)
    with pytest.raises(ModelError, match="has lost the weights"):
        case.model.save(tmp_path / "attached")
    adapters.merge()
    case.model.save(tmp_path / "merged")
    assert_close(Model.load(str(tmp_path / "merged")).run(case.tokens).logits, case.run().logits)


@pytest.mark.parametrize("shape", ["gpt2", "neox"])
def test_what_changes_in_a_part_of_a_joint_matrix_is_saved_with_it(shape, tmp_path):
    case = fresh(shape)
    before, parts = case.run().logits, ["blocks.0.attn.q", "blocks.1.attn.k", "blocks.1.attn.v"]
    adapters = Adapters(case.model, parts, rank=2, alpha=4, seed=0)
    stir(adapters)
    adapted = case.run().logits
    assert not torch.allclose(adapted, before)
    with pytest.raises(ModelError, match="has lost the weights"):
        case.model.save(tmp_path)
    with pytest.raises(ModelError, match=r"^blocks.1.attn.q shares its matrix with a part that has an adapter already; detach"):
        Adapters(case.model, ["blocks.1.attn.q"], rank=2, alpha=4, seed=0)
    for state, wanted in ((adapters.merge, adapted), (adapters.detach, before)):
        state()
        case.model.save(tmp_path)
        assert_close(Model.load(str(tmp_path)).run(case.tokens).logits, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(case.run().logits, before)


@pytest.mark.parametrize("shape", ["native", "gpt2"])
def test_an_adapter_filled_with_a_change_is_the_nearest_of_its_rank(shape):
    model = build(shape)
    adapters = Adapters(model, ["blocks.0.mlp.in"], rank=3, alpha=6, seed=0)
    d_out, d_in = adapters.changes()["blocks.0.mlp.in"].shape
    wanted = torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(1))
    adapters.fill({"blocks.0.mlp.in": wanted})
    assert_close(adapters.changes()["blocks.0.mlp.in"], nearest(wanted, 3), atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError) as caught:
        adapters.fill({"blocks.1.mlp.in": wanted, "blocks.0.mlp.in": wanted.T})
    assert str(caught.value) == (
        "there is no adapter on blocks.1.mlp.in; "
        f"the change of blocks.0.mlp.in is [{d_in}, {d_out}], its matrix [{d_out}, {d_in}]"
    )


def test_the_start_is_a_function_of_seed_and_part():
    parts = ["blocks.0.attn.q", "blocks.0.attn.k"]
    first, again, other = (Adapters(build("native"), parts, rank=2, alpha=2, seed=seed).parameters() for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize("seed", range(20))
def test_what_the_nearest_matrix_of_a_rank_leaves_is_the_tail_of_the_spectrum(seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    for rank in range(1, 6):
        best = nearest(matrix, rank)
        left = (matrix - best).square().sum()
        assert int(torch.linalg.matrix_rank(best)) == rank
        assert_close(left, spectrum(matrix)[rank:].square().sum(), atol=1e-12, rtol=1e-9)
        basis = torch.linalg.qr(torch.randn(7, rank, generator=generator, dtype=torch.float64))[0]
        assert (matrix - basis @ basis.T @ matrix).square().sum() >= left


def test_directions_overlap_wholly_with_themselves_not_at_all_with_others_and_by_chance_as_rank_to_size():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 30, generator=generator))[0]
    first, second = basis[:, :6] * torch.arange(1.0, 7), basis[:, 6:12] * torch.arange(1.0, 7)
    assert overlap(first, -2 * first, 4) == pytest.approx(1, abs=1e-5)
    assert overlap(first, second, 4) == pytest.approx(0, abs=1e-5)
    assert overlap(first, basis[:, [5, 4, 20, 21]], 4) == pytest.approx(0.5, abs=1e-5)
    drawn = [overlap(torch.randn(30, 20, generator=generator), torch.randn(30, 20, generator=generator), 4) for _ in range(200)]
    assert sum(drawn) / 200 == pytest.approx(4 / 30, rel=0.1)
    with pytest.raises(ModelError, match=r"^rank=7 directions cannot be compared in matrices of rank 6 at most; use 1 to 6$"):
        overlap(first, second, 7)


def test_the_effective_rank_of_r_equal_singular_values_is_r():
    for rank in (1, 3, 5):
        values = torch.zeros(5).index_fill_(0, torch.arange(rank), 2.0)
        turned = torch.linalg.qr(torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)))[0]
        assert effective_rank(turned[0] @ values.diag() @ turned[1]) == pytest.approx(rank, abs=1e-4)
    assert 1 < effective_rank(torch.diag(torch.tensor([1.0, 0.1]))) < 2


def test_what_cannot_be_adapted_is_refused_with_all_faults():
    model = build("native")
    with pytest.raises(ModelError) as caught:
        Adapters(model, ["blocks.0.attn.q", "blocks.0.ln1", "blocks.0.mlp.in"], rank=17, alpha=1, seed=0)
    assert str(caught.value) == (
        "rank=17 does not fit blocks.0.attn.q, which is 16 by 16; use 1 to 16; blocks.0.ln1 is a LayerNorm, not a linear map; "
        "rank=17 does not fit blocks.0.mlp.in, which is 40 by 16; use 1 to 16"
    )
    with pytest.raises(ModelError, match=r"rank=0 does not fit blocks.0.attn.q, which is 16 by 16; use 1 to 16"):
        Adapters(model, ["blocks.0.attn.q"], rank=0, alpha=1, seed=0)
    with pytest.raises(ModelError, match=r"this model has no part 'blocks.0.attn.qq' \(did you mean"):
        Adapters(model, ["blocks.0.attn.qq"], rank=1, alpha=1, seed=0)
    with pytest.raises(ModelError, match=r"^the effective rank of no change is not defined"):
        effective_rank(torch.zeros(3, 2))


def test_a_second_adapter_on_one_part_is_refused():
    model = build("native")
    adapters = Adapters(model, ["blocks.0.attn.q"], rank=1, alpha=1, seed=0)
    with pytest.raises(ModelError, match=r"^blocks.0.attn.q has an adapter already; detach it first$"):
        Adapters(model, ["blocks.0.attn.q"], rank=1, alpha=1, seed=1)
    adapters.detach()
    Adapters(model, ["blocks.0.attn.q"], rank=1, alpha=1, seed=1)
