"""The shipped language model is what its card says, on every machine."""

import json

import pytest
import torch
from torch.nn import functional as F

from interp.heads import patterns
from interp.models.hooked import SHIPPED, Model
from interp.tasks.repeated import repeated_random
from interp.text import pack, resolve, stdlib

FOLDER = SHIPPED["stdlib-4l"]
CARD = json.loads((FOLDER / "card.json").read_text())


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load("stdlib-4l")


def test_it_reproduces_its_stated_loss_on_the_held_out_modules(model):
    total, count = 0.0, 0
    for batch in pack(stdlib.shipped_held_out(), model.tokenizer, context=model.n_ctx, batch=32, drop_last=True):
        logits = model.run(batch.tokens).logits[:, :-1]
        counts = batch.is_text[:, 1:]
        total += float(F.cross_entropy(logits[counts], batch.tokens[:, 1:][counts], reduction="sum"))
        count += int(counts.sum())
    assert total / count == pytest.approx(CARD["loss"]["heldout"], abs=1e-3)


def test_its_stated_loss_is_far_below_a_bigram_model_of_the_same_tokens():
    loss = CARD["loss"]
    assert loss["heldout"] < loss["bigram"] - 1.4
    assert loss["bigram"] < loss["unigram"]


def test_one_of_its_heads_matches_prefixes_of_random_tokens(model):
    task = repeated_random(16, 160, model.d_vocab, generator=torch.Generator().manual_seed(5))
    scores = patterns.induction_scores(model, task.tokens).mean("example")
    assert scores.values.max() >= 0.4
    untrained = patterns.induction_scores(model.untrained(0), task.tokens).mean("example")
    assert untrained.values.max() < 0.05


def test_the_card_says_how_it_was_made_and_the_held_out_text_is_the_one_it_means():
    assert stdlib.corpus_hash(list(stdlib.shipped_held_out())) == CARD["corpus"]["sha256_heldout"]
    assert {"steps", "seed", "learning_rate", "repeat_share"} <= set(CARD["recipe"])
    assert len(CARD["corpus"]["sha256"]) == 64
    steps = [point["step"] for point in CARD["curve"]]
    assert steps[0] == 0
    assert steps[-1] == CARD["recipe"]["steps"]
    assert all(len(point["prefix"]) == 4 and len(point["prefix"][0]) == 6 for point in CARD["curve"])


def test_the_weights_ship_in_at_most_six_megabytes():
    assert (FOLDER / "weights.safetensors").stat().st_size <= 6_000_000


def test_held_out_documents_are_not_in_the_training_corpus():
    held_out = {document.name for document in stdlib.shipped_held_out()}
    assert all(stdlib.is_held_out(name) for name in held_out)
    assert not held_out & {document.name for document in resolve("stdlib").documents()}
