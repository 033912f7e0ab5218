"""Claims about routers' decisions: they are the model's own, sums do not depend on batches, and tables say what was planted."""

import numpy as np
import pytest
import torch
from mixture_cases import HUGGING, KINDS, PER_TOKEN, model_of, module_of, tokens_of, wrapped
from mlp_cases import batch_of
from mlp_cases import model_of as plain_model
from model_shapes import OWN
from torch.testing import assert_close

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.mlp.routing import Decisions, decided, decisions, interval, joined, load, sureness, usage
from interp.models.experts import balance_loss
from interp.models.hooked import Model
from interp.models.lens import HookedRootModule
from interp.models.transformer import TransformerConfig, transformer
from interp.text.packing import TokenBatch


def made(logits, weights, *, document=None, tokens=None):
    """Decisions of one layer, written down."""
    rows = torch.arange(len(logits))
    document = torch.zeros_like(rows) if document is None else torch.as_tensor(document)
    tokens = rows if tokens is None else torch.as_tensor(tokens)
    return Decisions({"mlp": torch.as_tensor(logits)}, {"mlp": torch.as_tensor(weights)}, tokens, document, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_its_decision_and_its_place(kind):
    tokens = tokens_of()
    found = decided(model_of(kind), tokens)
    assert torch.equal(found.tokens, tokens.flatten())
    assert found.document.tolist() == [0] * 9 + [1] * 9 + [2] * 9
    assert found.position.tolist() == [*range(9)] * 3
    for layer in found.logits:
        assert (found.chosen(layer).sum(-1) == PER_TOKEN[kind]).all()
        chosen_less_others = found.logits[layer].where(found.chosen(layer), torch.inf).amin(-1)
        assert (found.logits[layer] <= chosen_less_others[:, None]).logical_or(found.chosen(layer)).all()


@pytest.mark.parametrize("kind", HUGGING)
def test_logits_and_balance_are_those_of_hugging_face(kind):
    module, tokens = module_of(kind), tokens_of()
    with torch.no_grad():
        theirs = module(tokens, output_router_logits=True)
    found = decided(wrapped(kind, module), tokens)
    for layer, wanted in zip(found.logits, theirs.router_logits, strict=True):
        assert_close(found.logits[layer], wanted, atol=1e-5, rtol=0)
    table = load(usage([found]))
    share, probability = (table[name].to_numpy().reshape(2, 4).mean(0) for name in ("share", "probability"))
    assert 4 * (share @ probability) == pytest.approx(float(theirs.aux_loss), abs=1e-5)  # of the tokens of all layers together


def test_balance_is_the_loss_of_every_layer():
    found = decided(model_of("mixtral"), tokens_of())
    table = sureness(usage([found])).set_index("layer")
    for layer, logits in found.logits.items():
        assert table.balance[layer] == pytest.approx(float(balance_loss(logits, top_k=2)), abs=1e-5)


def test_usage_does_not_depend_on_batches_or_on_their_order():
    model, tokens = model_of("mixtral"), tokens_of(6)
    whole = usage(decisions(model, [batch_of(tokens)]))
    document = torch.arange(6)[:, None].expand(tokens.shape)
    parts = []
    for rows, columns in ((slice(3, 6), slice(0, 9)), (slice(0, 3), slice(0, 9))):
        batch = batch_of(tokens[rows, columns])
        parts.append(TokenBatch(**{**vars(batch), "document": document[rows, columns]}))
    again = usage(decisions(model, parts))
    shards = [usage(decisions(model, [part])) for part in parts]
    for other in (again, shards[1].merge(shards[0])):
        assert (other.document == whole.document).all() and (other.rows == whole.rows).all()
        for name in ("chosen", "weight", "probability", "entropy", "margin"):
            for layer, values in getattr(whole, name).items():
                np.testing.assert_allclose(getattr(other, name)[layer], values, rtol=1e-5)


def test_a_document_that_goes_on_in_another_batch_is_one_document():
    first, second = made([[1.0, 0.0]], [[1.0, 0.0]]), made([[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2)
    found = usage([first, second])
    assert found.rows.tolist() == [3] and found.chosen["mlp"].tolist() == [[1, 2]]


def test_beginnings_of_text_and_padding_are_left_out():
    tokens = tokens_of(1)
    batch = batch_of(tokens)
    is_text = torch.tensor([[False] + [True] * 6 + [False] * 2])
    masked = TokenBatch(**{**vars(batch), "is_text": is_text, "is_padding": ~is_text})
    model = model_of("top-2")
    (found,) = decisions(model, [masked])
    whole = decided(model, tokens)
    assert found.position.tolist() == [1, 2, 3, 4, 5, 6]
    for layer in whole.logits:
        assert_close(found.logits[layer], whole.logits[layer][1:7])
        assert_close(found.weights[layer], whole.weights[layer][1:7])


def test_load_says_what_was_written_down():
    weights = [[1.0, 0.0, 0.0]] * 6 + [[0.0, 0.5, 0.0]] * 2
    table = load(usage([made(torch.zeros(8, 3), weights, document=[0] * 4 + [1] * 4)]))
    assert table.share.tolist() == [0.75, 0.25, 0]
    assert table.load.tolist() == [2.25, 0.75, 0]
    np.testing.assert_array_equal(table.weight, [1, 0.5, np.nan])
    np.testing.assert_allclose(table.probability, 1 / 3)
    assert (table.share_low[0], table.share_high[0]) == (0.5, 1)  # one document has half, the other all


def test_sureness_is_the_margin_and_entropy_of_the_logits():
    logits = torch.tensor([[2.0, 0.5, 0.0, -1.0]]).expand(3, 4)
    found = made(logits, torch.tensor([[0.7, 0.3, 0, 0]]).expand(3, 4))
    row = sureness(usage([found])).iloc[0]
    assert row.margin == pytest.approx(0.5)
    p = logits[0].double().softmax(0)
    assert row.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)
    even = sureness(usage([made(torch.zeros(4, 4), torch.eye(4))])).iloc[0]
    assert (even.entropy, even.margin, even.balance) == pytest.approx((np.log(4), 0, 1))


def test_no_expert_left_out_is_no_margin():
    row = sureness(usage([decided(model_of("qwen2moe"), tokens_of())])).iloc[0]
    assert np.isnan(row.margin) and row.entropy > 0


def test_a_router_that_cannot_tell_is_surest_of_nothing():
    """Control: the same model with its router at zero."""
    model = wrapped("top-1")
    before = sureness(usage([decided(model, tokens_of())]))
    with torch.no_grad():
        for block in model.bridge.blocks:
            block.mlp.router.weight.zero_()
    after = sureness(usage([decided(model, tokens_of())]))
    np.testing.assert_allclose(after.entropy, np.log(4), rtol=1e-6)
    assert (before.entropy < 0.8 * np.log(4)).all() and (before.margin > after.margin + 0.1).all()


def test_intervals_are_those_of_a_ratio():
    rng = np.random.default_rng(0)
    rows = rng.integers(5, 50, 40).astype(float)
    above = rng.binomial(rows.astype(int), 0.3).astype(float)
    value, low, high = (float(each[0]) for each in interval(above[:, None], rows))
    wanted = stats.ratio(above, rows)
    assert value == wanted.value
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.15 * (wanted.high - wanted.low))
    one = interval(above[:1, None], rows[:1])
    assert (one[1].item(), one[2].item()) == (-np.inf, np.inf)


def test_vectors_are_routed_as_tokens_are():
    model = model_of("top-1")
    alone = Model.wrap(_Alone(model.bridge.blocks[0].mlp), name="alone")
    x = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    found = decided(alone, x)
    assert found.tokens.tolist() == [-1] * 8 and found.document.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert_close(found.logits["mlp"], model.bridge.blocks[0].mlp.router(x).flatten(0, 1).detach())


class _Alone(HookedRootModule):
    """One layer of experts as a model of its own."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.setup()

    def forward(self, x):
        return self.mlp(x)


def test_parts_join_to_the_decisions_of_the_whole():
    model, tokens = model_of("mixtral"), tokens_of(4)
    whole = decided(model, tokens)
    parts = joined(decisions(model, [batch_of(tokens[:1]), batch_of(tokens[1:])]))
    assert len(parts) == len(whole) and torch.equal(parts.tokens, whole.tokens)
    for layer in whole.logits:
        assert_close(parts.weights[layer], whole.weights[layer], atol=1e-6, rtol=0)


def test_models_that_route_nothing_or_two_texts_and_empty_streams_are_refused():
    with pytest.raises(ModelError, match=r"^gelu has no mixture of experts, so nothing is routed; give a model with experts$"):
        decided(plain_model("gelu"), tokens_of())
    config = TransformerConfig.of(OWN | {"kind": "encoder-decoder", "mlp": "experts"})
    model = Model.wrap(transformer(config, seed=0).eval(), name="two")
    wanted = r"^two is an encoder-decoder, whose stacks route different tokens; read the hooks of mixtures\(model\) instead$"
    with pytest.raises(ModelError, match=wanted):
        decided(model, tokens_of(), decoder_input=tokens_of(3, 5))
    for taker in (usage, joined):
        with pytest.raises(ConfigError, match=r"^there are no decisions to look at; give at least one batch$"):
            taker([])
