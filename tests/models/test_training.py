"""Claims about training: the fast forward is the model's own, and a step lowers the loss."""

import pytest
import torch
from model_shapes import NATIVE

from interp.models.hooked import Model, native_module
from interp.models.training import fast_logits, fit

ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 8}


@pytest.mark.parametrize("extra", [{}, ROTARY, {"attn_only": True}, ROTARY | {"attn_only": True}])
def test_the_fast_forward_is_the_models_own(extra):
    module = native_module(NATIVE | extra, 0)
    tokens = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))
    fast = fast_logits(module, tokens).detach()
    torch.testing.assert_close(fast, Model.wrap(module).run(tokens).logits, atol=1e-5, rtol=1e-5)


def test_fitting_lowers_the_loss_and_tells_that_of_every_token():
    module = native_module(NATIVE, 0)
    tokens = torch.arange(40).view(4, 10)
    losses = list(fit(module, [tokens] * 30, learning_rate=3e-3, warmup=5, weight_decay=0.0))
    assert losses[0].shape == (4, 9) and not losses[0].requires_grad
    assert losses[-1].mean() < 0.5 * losses[0].mean()
