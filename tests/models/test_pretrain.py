"""The script that trained the shipped model does what its docstring says; one tiny run writes everything that ships."""

import json
import math

import pytest
import torch

from interp.models import pretrain
from interp.models.lens import native_module
from interp.models.training import fast_logits

TINY = pretrain.ARCHITECTURE | {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 2, "d_mlp": 64, "rotary_dim": 8}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"positional_embedding_type": "standard", "rotary_dim": None},
        {"attn_only": True, "normalization_type": None, "positional_embedding_type": "standard", "rotary_dim": None},
    ],
    ids=["rotary", "learned positions", "attention only"],
)
def test_the_fast_forward_is_the_native_forward(change):
    module = native_module(TINY | change, 0).eval()
    tokens = torch.randint(0, 2048, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast_logits(module, tokens), module(tokens), atol=1e-5, rtol=1e-5)


def test_in_a_random_row_exactly_the_copies_count_and_each_was_seen_before():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(1, 2048, (40, 256), generator=generator)
    rows[:, 0] = 0
    targets = pretrain.repeats(rows, [True] * 40, generator)
    counted = targets != pretrain.IGNORED
    assert counted.any(1).all()
    assert torch.equal(targets[counted], rows[counted])
    for row, counts in zip(rows, counted, strict=True):
        for place in counts.nonzero().flatten().tolist():
            pair = row[place - 1 : place + 1]
            assert (row[: place - 1].unfold(0, 2, 1) == pair).all(1).any(), (
                "a counted token must follow the token it followed before"
            )


def test_in_a_row_of_real_text_only_the_jumps_into_and_out_of_copies_are_ignored():
    generator = torch.Generator().manual_seed(4)
    rows = torch.randint(1, 2048, (40, 256), generator=generator)
    targets = pretrain.repeats(rows, [False] * 40, generator)
    assert ((targets == pretrain.IGNORED).sum(1) < 60).all()
    assert torch.equal(targets[targets != pretrain.IGNORED], rows[targets != pretrain.IGNORED])


def test_a_batch_depends_on_the_seed_and_the_step_alone_and_starts_with_bos():
    stream = torch.randint(1, 2048, (5000,), generator=torch.Generator().manual_seed(0))
    recipe = pretrain.Recipe()
    rows, targets = pretrain.batch(stream, recipe, 7)
    again, _ = pretrain.batch(stream, recipe, 7)
    other, _ = pretrain.batch(stream, recipe, 8)
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    assert (rows[:, 0] == 0).all()
    assert rows.shape == targets.shape == (recipe.batch, 256)


def test_the_bigram_baseline_is_a_distribution_and_agrees_with_counting_by_hand():
    train = torch.tensor([5, 6, 5, 6, 5, 7, 9])
    rows = torch.tensor([[0, 5, 6], [0, 5, 7]])
    unigram, bigram = pretrain.bigram_loss(train, rows)
    p = {token: ((train == token).sum().item() + 1) / (7 + 2048) for token in (5, 6, 7)}
    after_bos = p[5]  # nothing is known after BOS: back to the unigram
    after_5 = [(2 + 2 * p[6]) / (3 + 2), (1 + 2 * p[7]) / (3 + 2)]
    assert unigram == pytest.approx(-(2 * math.log(p[5]) + math.log(p[6]) + math.log(p[7])) / 4)
    assert bigram == pytest.approx(-(2 * math.log(after_bos) + sum(map(math.log, after_5))) / 4)


def test_the_learning_rate_warms_up_to_its_peak_and_decays_to_nothing():
    recipe = pretrain.Recipe(steps=100, warmup=10)
    rates = [pretrain.learning_rate(step, recipe) for step in range(101)]
    assert max(rates) == rates[9] == rates[10] == recipe.learning_rate
    assert rates[100] == 0
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_a_tiny_run_learns_and_writes_everything_that_ships(tmp_path, monkeypatch):
    stream = torch.arange(1, 65).repeat(40)
    monkeypatch.setattr(pretrain, "corpus", lambda out: (stream, stream[:600], {"sha256": "-"}))
    module = native_module(TINY, 0)
    lines = []
    pretrain.train(module, pretrain.Recipe(steps=40, batch=4, warmup=5), tmp_path, note=lines.append)
    card = json.loads((tmp_path / "shipped" / "card.json").read_text())
    assert [point["step"] for point in card["curve"]][:: len(card["curve"]) - 1] == [0, 40]
    assert len(lines) == len(card["curve"]) == len(list((tmp_path / "checkpoints").iterdir()))
    assert card["curve"][-1]["heldout"] < card["curve"][0]["heldout"] - 0.5
    assert (tmp_path / "shipped" / "weights.safetensors").stat().st_size < 300_000
