"""Claims about `Model.run`: what is read, what edits do, and what is left behind."""

import gc
from typing import Any

import pytest
import torch
from model_shapes import SHAPES, case_of

from interp.errors import HookError, ModelError
from interp.models.hooked import Edit, Model

MIDDLE = "blocks.0.hook_resid_post"


def disturb(value):
    """Another value of the same kind."""
    if not value.is_floating_point():
        turned = value.flip(-1)
        return turned if not torch.equal(turned, value) else (value == 0).to(value.dtype)
    return value * 1.5 + torch.linspace(-1, 1, value.numel()).view_as(value)


def one_name_each(model):
    """The hooks of a model without their aliases."""
    return list({id(model.bridge.hook_dict[name]): name for name in model.hooks}.values())


def hooks_on(model):
    """Every hook of every kind on the whole model, ours or not."""
    points = {id(point): point for point in model.bridge.hook_dict.values()}.values()
    return [(len(point._forward_hooks), len(point._backward_hooks), len(point.fwd_hooks)) for point in points]


def test_every_edit_changes_the_output_or_is_refused(case):
    before = case.run().logits
    acted, hooks = 0, one_name_each(case.model)
    for hook in hooks:
        try:
            after = case.run(edits=[Edit(hook, disturb)]).logits
        except HookError as error:
            assert "inert" in str(error)
        else:
            assert not torch.equal(before, after), hook
            acted += 1
    assert acted >= 0.85 * len(hooks)


def test_every_activation_of_a_stopped_run_is_that_of_a_full_run(case):
    full = case.run(read=case.model.hooks, logits=True)
    assert torch.equal(full.logits, case.run().logits)
    for hook in one_name_each(case.model):
        stopped = case.run(read=[hook]).activations
        assert list(stopped) == [hook]
        assert torch.equal(stopped[hook], full.activations[hook]), hook


def test_a_run_stops_at_its_last_read(gpt2):
    reached = []
    handle = gpt2.model.bridge.blocks[1].register_forward_pre_hook(lambda *_: reached.append(1))
    try:
        run = gpt2.run(read=["hook_embed", MIDDLE])
        assert not reached
        gpt2.run(read=[MIDDLE], logits=True)
        assert reached
    finally:
        handle.remove()
    with pytest.raises(ModelError, match=r"stopped after its last read.*run\(…, logits=True\)"):
        run.logits  # noqa: B018


def test_hidden_states_are_hugging_faces_own(gpt2):
    from model_shapes import hf_module

    with torch.no_grad():
        expected = hf_module("gpt2")(gpt2.tokens, output_hidden_states=True)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in (0, 1)]
    run = gpt2.run(read=names, logits=True)
    for name, states in zip(names, expected.hidden_states, strict=False):
        torch.testing.assert_close(run.activations[name], states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_reads_share_no_memory_with_the_model_or_the_input(case):
    hooks = case.model.hooks
    first = case.run(read=hooks, logits=True).activations
    for tensor in first.values():
        tensor.zero_()
    assert case.tokens.any()
    assert case.run(read=hooks, logits=True).activations[hooks[-1]].any()


def test_edits_apply_in_order_and_reads_see_them(gpt2):
    edits = [Edit(MIDDLE, lambda x: x + 1), Edit("blocks.0.hook_out", lambda x: x * 2)]
    plain = gpt2.run(read=[MIDDLE]).activations[MIDDLE]
    edited = gpt2.run(read=[MIDDLE, "blocks.1.hook_resid_pre"], edits=edits).activations
    torch.testing.assert_close(edited[MIDDLE], (plain + 1) * 2)
    assert torch.equal(edited["blocks.1.hook_resid_pre"], edited[MIDDLE])


def test_an_edit_in_place_acts_like_a_pure_one(gpt2):
    pure = gpt2.run(edits=[Edit(MIDDLE, lambda x: x * 0)]).logits
    in_place = gpt2.run(edits=[Edit(MIDDLE, lambda x: x.mul_(0))]).logits
    assert torch.equal(pure, in_place)
    assert not torch.equal(pure, gpt2.run().logits)


def test_an_edit_that_returns_nothing_is_refused(gpt2):
    def forgetful(x) -> Any:
        x.mul_(0)

    with pytest.raises(HookError, match="returned None; return the new activation, also when editing in place"):
        gpt2.run(edits=[Edit(MIDDLE, forgetful)])


@pytest.mark.parametrize(
    "apply, told",
    [(lambda x: x[:1], r"returned float32\[1, 7, 16\] in place of float32\[2, 7, 16\]"), (lambda x: x.double(), "float64")],
)
def test_an_edit_must_keep_shape_and_dtype(gpt2, apply, told):
    with pytest.raises(HookError, match=told + ".*keep the shape and the dtype"):
        gpt2.run(edits=[Edit(MIDDLE, apply)])


def test_an_edit_after_the_last_read_is_refused(gpt2):
    with pytest.raises(HookError, match="comes after everything that is read; read a later hook or pass logits=True"):
        gpt2.run(read=[MIDDLE], edits=[Edit("blocks.1.hook_resid_post", torch.zeros_like)])


def test_nothing_to_compute_is_refused(gpt2):
    with pytest.raises(ModelError, match="nothing to compute"):
        gpt2.run(logits=False)


def test_faults_in_names_are_all_told_at_once_before_anything_runs(gpt2):
    ran = []
    handle = gpt2.model.bridge.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    gpt2.model.resolve([MIDDLE])  # the survey is made
    ran.clear()
    try:
        with pytest.raises(HookError) as caught:
            gpt2.run(read=["blocks.0.hook_resid_prr", "blocks.0.attn.hook_result"])
    finally:
        handle.remove()
    assert "no hook 'blocks.0.hook_resid_prr' on this model (did you mean blocks.0.hook_resid_pre" in str(caught.value)
    told = "blocks.0.attn.hook_result never fires on this model; switch it on with bridge.set_use_attn_result(True)"
    assert told in str(caught.value)
    assert not ran


def test_one_name_instead_of_several_is_told(gpt2):
    with pytest.raises(HookError, match=rf"expected a sequence of hook names, got the string '{MIDDLE}'"):
        gpt2.run(read=MIDDLE)


def test_hooks_never_outlive_a_run_not_even_a_failing_one(case):
    before = hooks_on(case.model)
    hook = case.model.hooks[len(case.model.hooks) // 2]

    def fail(x):
        raise RuntimeError("in the edit")

    case.run(read=[hook])
    case.run(read=[hook], edits=[Edit(case.model.hooks[5], disturb)], logits=True)
    with pytest.raises(RuntimeError, match="in the edit"):
        case.run(edits=[Edit("hook_unembed" if "hook_unembed" in case.model.hooks else hook, fail)])
    assert hooks_on(case.model) == before


def test_other_peoples_hooks_stay_and_see_only_real_runs():
    from model_shapes import build

    model, seen = build("gpt2"), []
    point = model.bridge.hook_dict[MIDDLE]
    point.add_hook(lambda value, hook: seen.append(value.shape))
    tokens = torch.ones(3, 5, dtype=torch.long)
    model.run(tokens, edits=[Edit("blocks.0.hook_resid_pre", disturb)])  # surveys the model first
    assert seen == [(3, 5, 16)]
    assert len(point.fwd_hooks) == len(point._forward_hooks) == 1


def test_no_gradient_unless_asked(case):
    hook = next(hook for hook in case.model.hooks if hook.endswith("hook_resid_post"))
    with torch.enable_grad():
        plain = case.run(read=[hook], logits=True)
    assert not plain.logits.requires_grad and not plain.activations[hook].requires_grad
    with torch.no_grad():
        graph = case.run(read=[hook], logits=True, grad=True)
    (slope,) = torch.autograd.grad(graph.logits.square().sum(), graph.activations[hook])
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("hook", ["blocks.0.attn.hook_z", "blocks.0.attn.hook_q", "blocks.0.attn.hook_pattern"])
def test_gradients_reach_activations_that_are_reshaped_for_their_hook(decoder, hook):
    graph = decoder.run(read=[hook], logits=True, grad=True)
    (slope,) = torch.autograd.grad(graph.logits.square().sum(), graph.activations[hook])
    assert slope.shape == graph.activations[hook].shape and slope.abs().sum() > 0


def test_runs_are_in_evaluation_mode_and_each_module_gets_its_own_mode_back():
    from model_shapes import build

    model = build("gpt2")  # GPT-2 has dropout of 0.1
    tokens = torch.ones(2, 6, dtype=torch.long)
    expected = model.run(tokens).logits
    model.bridge.train()
    model.bridge.blocks[1].training = False
    assert torch.equal(model.run(tokens).logits, expected)
    assert model.bridge.training and model.bridge.blocks[0].training and not model.bridge.blocks[1].training


def test_a_run_can_start_at_any_block(decoder):
    model = decoder.model
    for layer in range(model.n_layers):
        hooks = [f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.attn.hook_pattern", f"blocks.{layer}.hook_resid_post"]
        full = decoder.run(read=hooks, logits=True)
        resumed = model.run_from(layer, full.activations[hooks[0]], read=hooks, logits=True)
        assert torch.equal(resumed.logits, full.logits)
        assert all(torch.equal(resumed.activations[hook], full.activations[hook]) for hook in hooks)
    edits = [Edit("blocks.1.attn.hook_z", torch.zeros_like)]
    edited = model.run_from(1, full.activations["blocks.1.hook_resid_pre"], edits=edits)
    assert torch.equal(edited.logits, decoder.run(edits=edits).logits)


def test_a_run_from_a_block_knows_no_earlier_hooks(gpt2):
    residual = torch.zeros(1, 4, 16)
    with pytest.raises(HookError, match="blocks.0.hook_resid_post comes before block 1, where this run starts"):
        gpt2.model.run_from(1, residual, read=[MIDDLE])
    with pytest.raises(ModelError, match="no block 2 to start at; blocks are 0 to 1"):
        gpt2.model.run_from(2, residual)
    assert gpt2.run().logits.isfinite().all()


def test_the_hooks_of_a_model_are_told_in_the_order_in_which_they_fire(gpt2):
    hooks = gpt2.model.hooks
    order = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_pattern", MIDDLE, "unembed.hook_out"]
    assert sorted(order, key=hooks.index) == order


def test_a_model_is_freed_with_its_last_reference():
    import weakref

    from model_shapes import build

    model = build("attention-only")
    model.run(torch.ones(1, 4, dtype=torch.long), read=["blocks.0.hook_resid_post"])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_any_hooked_module_can_be_wrapped():
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule

    class Toy(HookedRootModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(4) + 0.1)
            self.hook_hidden, self.hook_unused = HookPoint(), HookPoint()
            self.hook_dead_end = HookPoint()
            self.setup()

        def forward(self, x):
            hidden = self.hook_hidden(x @ self.weight)
            self.hook_dead_end(hidden)
            return hidden.relu() @ self.weight.T

    model, x = Model.wrap(Toy(), name="toy"), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    run = model.run(x, read=["hook_hidden"])
    assert torch.equal(run.activations["hook_hidden"], (x @ model.bridge.weight).detach())
    assert not model.run(x, edits=[Edit("hook_hidden", torch.zeros_like)]).logits.any()
    with pytest.raises(HookError, match="hook_unused never fires"):
        model.run(x, read=["hook_unused"])
    with pytest.raises(HookError, match="hook_dead_end is inert on this model"):
        model.run(x, edits=[Edit("hook_dead_end", torch.zeros_like)])
    with pytest.raises(ModelError, match="toy has no n_layers"):
        model.n_layers  # noqa: B018


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_alone_computes_what_it_computes_inside_the_model(shape):
    case = case_of(shape)
    prefix = next(name.removesuffix(".hook_q") for name in case.model.hooks if name.endswith("attn.hook_q"))
    seen = case.run(read=[f"{prefix}.q.hook_in", f"{prefix}.hook_q"]).activations
    alone = case.model.apply(f"{prefix}.q", seen[f"{prefix}.q.hook_in"])
    assert torch.equal(alone.reshape(seen[f"{prefix}.hook_q"].shape), seen[f"{prefix}.hook_q"])


def test_a_part_that_does_not_exist_is_refused_with_near_names():
    with pytest.raises(ModelError, match=r"no part 'blocks\.0\.lnx' \(did you mean blocks\.0\.ln[12]"):
        case_of("gpt2").model.apply("blocks.0.lnx", torch.zeros(1, 1, 16))
