"""Claims about training: the fast forward is the model's own, the loop the plain one to the bit, and a course can be broken."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from model_shapes import NATIVE, OWNS, case_of
from safetensors.torch import load_file, save_file

from interp.errors import TrainingError
from interp.models.batches import Batch, answers, masked, next_token, sequence_to_sequence, taught
from interp.models.evaluations import accuracy
from interp.models.generation import continued
from interp.models.hooked import Model
from interp.models.lens import native_module
from interp.models.training import Learner, constant, evenly, fast, fast_logits, fit, last_logits, linear_decay, noam, plain
from interp.models.transformer import TransformerConfig, transformer
from interp.tasks.modular import additions
from interp.tasks.sequences import reversal

ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 8}
TOKENS = torch.arange(40).view(4, 10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vaswani(**change):
    return transformer(TransformerConfig(**OWNS["vaswani"] | change), 0)


def reversals(steps, seed=0):
    drawn = generator(seed)
    return [sequence_to_sequence(reversal(8, (3, 5), 9, generator=drawn)) for _ in range(steps)]


@pytest.mark.parametrize("extra", [{}, ROTARY, {"attn_only": True}, ROTARY | {"attn_only": True}])
def test_the_fast_forward_is_the_models_own(extra):
    module = native_module(NATIVE | extra, 0)
    tokens = torch.randint(0, 50, (3, 20), generator=generator())
    logits = fast_logits(module, tokens).detach()
    torch.testing.assert_close(logits, Model.wrap(module).run(tokens).logits, atol=1e-5, rtol=1e-5)


def test_the_loop_is_the_plain_one_to_the_bit():
    module, other = native_module(NATIVE, 0), native_module(NATIVE, 0)
    course = fit(
        Learner(module, schedule=constant(3e-3, 4), weight_decay=0.1, forward=fast), [next_token(TOKENS)] * 6, checkpoints=[6]
    )
    optimizer = torch.optim.AdamW(other.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    losses = []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 4)
        each = F.cross_entropy(fast_logits(other, TOKENS)[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none")
        optimizer.zero_grad()
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        losses.append(float(each.mean().detach()))
    assert course.losses == tuple(losses)
    assert all(torch.equal(tensor, course.states[6][name]) for name, tensor in other.state_dict().items())


def test_a_step_tells_the_loss_of_every_target_before_it():
    learner = Learner(native_module(NATIVE, 0), schedule=constant(3e-3, 5), forward=fast)
    losses = [learner.step(next_token(TOKENS)) for _ in range(30)]
    assert losses[0].shape == (4, 9) and not losses[0].requires_grad
    assert losses[-1].mean() < 0.5 * losses[0].mean() and learner.steps == 30


def test_noam_peaks_at_the_end_of_warmup():
    schedule = noam(64, 100)
    rates = [schedule(step) for step in range(1, 400)]
    assert max(rates) == rates[99] == pytest.approx((64 * 100) ** -0.5, rel=1e-12)
    assert rates[49] == pytest.approx(rates[99] / 2) and rates[398] == pytest.approx(64**-0.5 * 399**-0.5)


def test_other_schedules_warm_up_and_stay_or_fall():
    assert [constant(2.0, 4)(step) for step in (1, 2, 4, 9)] == [0.5, 1.0, 2.0, 2.0]
    falling = [linear_decay(1.0, 2, 6)(step) for step in range(1, 8)]
    assert falling == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_padding_and_what_is_not_asked_change_nothing():
    """The gradient of a step is that of the targets that count."""
    batch = reversals(1)[0]
    assert batch.counted is not None and not batch.counted.all()
    other = type(batch)(
        tokens=batch.tokens, targets=batch.targets.masked_fill(~batch.counted, 7), counted=batch.counted, beside=batch.beside
    )
    learners = [Learner(vaswani(dropout=0.0), schedule=constant(1e-3)) for _ in range(2)]
    for learner, each in zip(learners, (batch, other), strict=True):
        learner.step(each)
    for mine, its in zip(*(learner.module.state_dict().values() for learner in learners), strict=True):
        assert torch.equal(mine, its)


def test_label_smoothing_gives_every_other_token_its_share():
    learner = Learner(native_module(NATIVE, 0), schedule=constant(1e-3), label_smoothing=0.2, forward=fast)
    log_p = fast_logits(learner.module, TOKENS)[:, :-1].log_softmax(-1)
    wanted = torch.full_like(log_p, 0.2 / 50).scatter_add(2, TOKENS[:, 1:, None], torch.full((4, 9, 1), 0.8))
    torch.testing.assert_close(learner.step(next_token(TOKENS)), -(wanted * log_p).sum(-1).detach())


def test_a_clipped_gradient_has_its_direction_still():
    grads = []
    for clip in (None, 1e-2):
        learner = Learner(native_module(NATIVE, 0), schedule=constant(1e-3), clip=clip, forward=fast)
        learner.step(next_token(TOKENS))
        grads.append(torch.cat([each.grad.flatten() for each in learner.parameters.values() if each.grad is not None]))
    torch.testing.assert_close(grads[1], grads[0] * 1e-2 / grads[0].norm(), rtol=1e-3, atol=1e-8)


def test_the_gradient_is_clipped_to_its_largest_norm():
    for clip, expected in ((1e-3, 1e-3), (None, None)):
        learner = Learner(native_module(NATIVE, 0), schedule=constant(1e-3), clip=clip, forward=fast)
        learner.step(next_token(TOKENS))
        norm = torch.stack([each.grad.norm() for each in learner.parameters.values() if each.grad is not None]).norm()
        assert norm == pytest.approx(expected, rel=1e-3) if expected else norm > 0.1


def test_a_course_is_a_function_of_its_seeds_and_leaves_torchs_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = (
        fit(Learner(vaswani(dropout=0.3), schedule=constant(1e-3), seed=seed), reversals(4)).losses for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_course_goes_on_after_a_break_as_if_there_had_been_none(tmp_path):
    batches, schedule = reversals(6), noam(16, 3)
    whole = Learner(vaswani(dropout=0.3), schedule=schedule)
    expected = fit(whole, batches).losses
    broken = Learner(vaswani(dropout=0.3), schedule=schedule)
    start = fit(broken, batches[:3]).losses
    save_file(broken.state(), tmp_path / "state.safetensors")
    resumed = Learner(vaswani(dropout=0.3), schedule=schedule, seed=9)
    resumed.restore(load_file(tmp_path / "state.safetensors"))
    assert start + fit(resumed, batches[3:]).losses == expected and resumed.steps == 6
    for mine, its in zip(whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def test_curves_and_checkpoints_are_taken_when_they_should_be():
    module, seen, modes = vaswani(dropout=0.3), [], []

    def weight():
        modes.append((module.training, torch.is_grad_enabled()))
        return float(cast(Any, module).embed.weight.sum())

    course = fit(
        Learner(module, schedule=constant(1e-3)),
        reversals(5),
        checkpoints=evenly(5, 3),
        evaluations={"weight": weight},
        every=2,
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert list(course.evaluations["weight"]) == [0, 2, 4, 5] and sorted(course.states) == [0, 2, 5]
    for step, state in course.states.items():
        assert course.evaluations["weight"].get(step, 0) in (0, pytest.approx(float(state["embed.weight"].sum())))
    assert seen == list(enumerate(course.losses, start=1))
    assert set(modes) == {(False, False)} and not module.training
    assert evenly(10, 1) == [0]


def test_hidden_tokens_are_asked_for_where_they_stood():
    tokens = torch.randint(4, 50, (200, 12), generator=generator())
    tokens[:, 0], tokens[::2, 9:] = 1, 0
    batch = masked(tokens, mask_id=3, share=0.15, generator=generator(), special=(0, 1))
    hidden = batch.tokens == 3
    assert batch.counted is not None and torch.equal(hidden, batch.counted)
    assert torch.equal(batch.tokens[~hidden], tokens[~hidden])
    assert torch.equal(batch.targets, tokens) and not hidden[(tokens == 0) | (tokens == 1)].any()
    assert hidden.any(1).all() and 0.15 < hidden.sum() / (tokens > 3).sum() < 0.2
    with pytest.raises(TrainingError, match="row 1 has nothing but special tokens"):
        masked(torch.tensor([[1, 5], [1, 0]]), mask_id=3, share=0.15, generator=generator(), special=(0, 1))


def test_an_encoder_learns_hidden_tokens_and_answers():
    config = TransformerConfig(**OWNS["encoder"])
    tokens = (torch.arange(6) + 4 + torch.randint(0, 20, (64, 1), generator=generator())).clamp(max=40)
    drawn = generator()
    learner = Learner(transformer(config, 0), schedule=constant(5e-3, 10))
    course = fit(learner, (masked(tokens, mask_id=3, share=0.2, generator=drawn) for _ in range(80)))
    assert course.losses[-1] < 0.4 * course.losses[0]
    sums = fit(Learner(transformer(config, 0), schedule=constant(5e-3, 10)), [answers(additions(5))] * 80)
    assert sums.losses[-1] < 0.2 * sums.losses[0]


def test_a_student_learns_what_its_teacher_would_say():
    teacher = case_of("decoder").model
    tokens = torch.randint(3, 50, (8, 7), generator=generator())
    batch = taught(teacher, tokens)
    torch.testing.assert_close(batch.targets.sum(-1), torch.ones(8, 7))
    least = -(batch.targets * batch.targets.log()).sum(-1).mean()
    student = transformer(TransformerConfig(**OWNS["decoder"]), 5)
    losses = fit(Learner(student, schedule=constant(5e-3, 10)), [batch] * 60).losses
    assert least < losses[-1] < least + 0.3 * (losses[0] - least)
    assert fit(Learner(transformer(TransformerConfig(**OWNS["decoder"]), 0), schedule=constant(0.0)), [batch]).losses[
        0
    ] == pytest.approx(float(least), abs=1e-5)


def test_answers_along_training_are_those_of_evaluation():
    learner = Learner(vaswani(dropout=0.3), schedule=constant(1e-3))
    held = reversals(1)[0]
    learner.step(held)
    first, again = learner.logits(held), learner.logits(held)
    assert torch.equal(first, again) and not first.requires_grad
    found = Model.wrap(learner.module).run(held.tokens, **dict[str, Any](held.beside)).logits
    torch.testing.assert_close(first, found)
    assert not torch.equal(plain(learner.module.train(), held), first)


def test_a_model_is_tuned_on_rows_that_were_chosen_and_forgets_none_of_its_weights_otherwise():
    """Curated data: the same loop on a trained module, here with all but the unembedding frozen."""
    course = fit(
        Learner(native_module(NATIVE, 0), schedule=constant(3e-3, 5), forward=fast), [next_token(TOKENS)] * 30, checkpoints=[30]
    )
    module = native_module(NATIVE, 1)
    module.load_state_dict(course.states[30])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    chosen = next_token(TOKENS.flip(1))
    losses = fit(Learner(module, schedule=constant(3e-2), forward=fast), [chosen] * 30).losses
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, course.states[30][name])}
    assert changed and all(name.startswith("head") for name in changed)


def test_a_student_learns_from_rows_that_a_teacher_wrote():
    """The teacher follows one row of tokens; a student trained on what it writes does too."""
    teacher = native_module(NATIVE, 0)
    fit(Learner(teacher, schedule=constant(1e-2, 5), forward=fast), [next_token(TOKENS)] * 60)
    written = continued(Model.wrap(teacher), TOKENS[:, :2].repeat(4, 1), 8, generator=generator())
    assert (written.view(4, 4, 10) == TOKENS).float().mean() > 0.9
    student = Learner(native_module(NATIVE, 5), schedule=constant(1e-2, 5), forward=fast)
    fit(student, [next_token(written)] * 60)
    assert accuracy(student.logits(next_token(TOKENS)), next_token(TOKENS)) > 0.9
    fresh = Learner(native_module(NATIVE, 5), schedule=constant(1e-2, 5), forward=fast)
    assert accuracy(fresh.logits(next_token(TOKENS)), next_token(TOKENS)) < 0.2


@pytest.mark.parametrize("p", [5, 7])
def test_logits_of_the_last_position_are_those_of_the_hooked_model(p):
    one_layer = NATIVE | {"n_layers": 1, "n_ctx": 3, "d_vocab": p + 1, "normalization_type": None, "act_fn": "relu"}
    module, tokens = native_module(one_layer, 0), additions(p).tokens
    with torch.no_grad():
        found = last_logits(module, tokens)
    torch.testing.assert_close(found[:, 0], Model.wrap(module.eval()).run(tokens).logits[:, 2])


BAD: dict[str, Callable[[], object]] = {
    "warmup=0: steps are counted from 1; use 1 for none": lambda: noam(64, 0),
    "warmup=-1: steps are counted from 1; use 1 for none": lambda: constant(1e-3, -1),
    "warmup=9 of steps=4 leaves none to train at the rate; warm up for fewer": lambda: linear_decay(1e-3, 9, 4),
    "label_smoothing=1.1 is a share of each label; use a number from 0 to 1": lambda: Learner(
        vaswani(), schedule=constant(1e-3), label_smoothing=1.1
    ),
    r"\[4, 10\] targets for \[4, 9\] tokens; give as many rows of both, and no more targets than tokens": lambda: Batch(
        tokens=TOKENS[:, 1:], targets=TOKENS
    ),
    r"\[3, 10\] targets for \[4, 10\] tokens; give as many rows of both, and no more targets than tokens": lambda: Batch(
        tokens=TOKENS, targets=TOKENS[1:]
    ),
    r"counted has shape \[4, 9\], the targets \[4, 10\]; mark every target": lambda: Batch(
        tokens=TOKENS, targets=TOKENS, counted=TOKENS[:, 1:] > 0
    ),
    r"counted marks none of the \[4, 10\] targets, so there is no mean loss; mark one at least": lambda: Batch(
        tokens=TOKENS, targets=TOKENS, counted=TOKENS < 0
    ),
    "the state is of another module: embed.weight is .50, 16. there and .50, 8. here; build the same module": lambda: Learner(
        vaswani(d_model=8), schedule=constant(1e-3)
    ).restore(Learner(vaswani(), schedule=constant(1e-3)).state()),
    "the loss of step 2 is nan; lower the learning rate, or clip the gradient": lambda: fit(
        Learner(native_module(NATIVE, 0), schedule=constant(1e30), clip=None, forward=fast), [next_token(TOKENS)] * 3
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_trained_is_told(message):
    with pytest.raises(TrainingError, match=message):
        BAD[message]()


def test_a_module_with_nothing_to_train_is_told():
    module = vaswani().requires_grad_(False)
    with pytest.raises(TrainingError, match="this EncoderDecoder has no parameter to train; let some require gradients"):
        Learner(module, schedule=constant(1e-3))


@pytest.mark.slow
def test_the_recipe_of_the_docs_runs_and_prints_what_it_says(capsys):
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, re.S)[:2]
    exec(code, {})
    found = [[float(number) for number in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert found == [pytest.approx([float(number) for number in line.split()], abs=0.02) for line in printed.splitlines()]
