"""Claims about training: the fast forward is the model's own, the loop the plain one to the bit, and a course can be broken."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from model_shapes import NATIVE, OWNS, case_of
from safetensors.torch import load_file, save_file

from interp.errors import TrainingError
from interp.models.batches import answers, masked, next_token, sequence_to_sequence, taught
from interp.models.hooked import Model, native_module
from interp.models.training import Learner, constant, evenly, fast, fast_logits, fit, linear_decay, noam
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
    module, plain = native_module(NATIVE, 0), native_module(NATIVE, 0)
    course = fit(
        Learner(module, schedule=constant(3e-3, 4), weight_decay=0.1, forward=fast), [next_token(TOKENS)] * 6, checkpoints=[6]
    )
    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    losses = []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 4)
        each = F.cross_entropy(fast_logits(plain, TOKENS)[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none")
        optimizer.zero_grad()
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        losses.append(float(each.mean()))
    assert course.losses == tuple(losses)
    assert all(torch.equal(tensor, course.states[6][name]) for name, tensor in plain.state_dict().items())


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


def test_a_module_with_nothing_to_train_is_told():
    module = vaswani().requires_grad_(False)
    with pytest.raises(TrainingError, match="this EncoderDecoder has no parameter to train; let some require gradients"):
        Learner(module, schedule=constant(1e-3))
