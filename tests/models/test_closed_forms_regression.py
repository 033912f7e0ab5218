"""Claims about linear attention written by hand: it takes the step exactly, and training may use its short form."""

import pytest
import torch

from interp.models.closed_forms_regression import LinearHead, best_rate, descent_step, step_of
from interp.models.hooked import Edit
from interp.tasks.regression import regressions


def rows(seed, n=64):
    return regressions(n, 5, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(20))
def test_weights_written_by_hand_take_the_step(seed):
    each = rows(seed)
    torch.testing.assert_close(descent_step(4, 0.3).run(each.tokens).logits, each.after_descent(0.3), atol=1e-5, rtol=0)


def test_the_step_is_read_off_the_weights():
    torch.testing.assert_close(step_of(descent_step(4, 0.3)), 0.3 * torch.eye(4, 5))


def test_the_short_form_has_the_same_answers_and_gradients():
    module = LinearHead(4, generator=torch.Generator().manual_seed(0))
    tokens = rows(1).tokens
    grads = []
    for answers in (module(tokens), module.answers(tokens)):
        module.zero_grad()
        answers.square().sum().backward()
        grads.append([each.grad.clone() for each in module.parameters() if each.grad is not None])
    torch.testing.assert_close(module.answers(tokens), module(tokens), atol=1e-5, rtol=1e-5)
    assert len(grads[0]) == 4
    for long, short in zip(*grads, strict=True):
        torch.testing.assert_close(short, long, atol=1e-4, rtol=1e-4)


def test_biases_are_not_trained():
    module = LinearHead(3, generator=torch.Generator())
    assert [name for name, each in module.named_parameters() if each.requires_grad] == [f"attn.{part}.weight" for part in "qkvo"]


def test_the_best_rate_makes_the_loss_least():
    many = regressions(200_000, 6, 3, generator=torch.Generator().manual_seed(1))
    one = many.after_descent(1.0)
    assert best_rate(6, 3) == pytest.approx(float((one * many.answers).sum() / one.square().sum()), rel=0.01)


def test_without_its_pattern_the_head_answers_nothing():
    assert not descent_step(4, 0.3).run(rows(0).tokens, edits=[Edit("attn.mixer.hook_pattern", torch.zeros_like)]).logits.any()
