"""Claims about before and after: nothing differs from itself, what was planted is found, and what is put in carries exactly what
it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_shapes import build, case_of
from torch.testing import assert_close

from interp.comparison import Rows, Units, carried, drawn, grafted, looked, observed, strongest, unexplained
from interp.errors import ConfigError, HookError, ModelError
from interp.models.changes import graft, matrices, noised
from interp.models.hooked import Model
from interp.models.lora import Adapters, effective_rank
from interp.tasks.contrast import Contrast

HEADS, NEURONS, LATER = (f"blocks.{place}" for place in ("0.attn.hook_z", "0.mlp.hook_post", "1.mlp.hook_post"))
PATTERNS = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]


class Halves:
    """A coder whose codes are the positive and the negative parts: exact, and by hand."""

    def encode(self, x):
        return torch.cat([x.relu(), (-x).relu()], 1)

    def decode(self, codes):
        width = codes.shape[1] // 2
        return codes[:, :width] - codes[:, width:]


class Deaf(Halves):
    """A coder that reconstructs nothing."""

    def decode(self, codes):
        return 0 * super().decode(codes)


class Dice(Halves):
    """A coder that says something else every time."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, x):
        return torch.randn(len(x), 500, generator=self.generator)


def rows(n: int = 12, **how) -> list[Rows]:
    tokens = torch.randint(3, 50, (n, 7), generator=torch.Generator().manual_seed(2))
    return [Rows(tokens[:5], **how), Rows(tokens[5:], **how)]


def asked(n: int = 6) -> Contrast:
    tokens = torch.randint(3, 50, (n, 7), generator=torch.Generator().manual_seed(3))
    return Contrast(clean=tokens, corrupt=tokens, answers=tokens[:, 0], wrong=tokens[:, 0] - 1)


def changed(*parts: str, shape: str = "native") -> Model:
    """The model of a shape with large adapters merged into some parts."""
    model = build(shape)
    adapters = Adapters(model, parts, rank=3, alpha=6, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for each in adapters.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))
    adapters.merge()
    return model


@pytest.fixture(scope="module")
def before() -> Model:
    return case_of("native").model


@pytest.fixture(scope="module")
def after() -> Model:
    return changed("blocks.0.mlp.in", "blocks.0.mlp.out")


def test_a_model_held_against_itself_differs_nowhere(before: Model) -> None:
    units = [Units(HEADS), Units(NEURONS), Units(LATER), Units("blocks.0.hook_resid_post", coder=Halves())]
    found = observed(before, before, rows(), units)
    assert set(found.kind) == {"head", "neuron", "feature"}
    assert (found[["change", "share"]] == 0).all(axis=None) and (found.q == 1).all()
    assert found.correlation.dropna().to_numpy() == pytest.approx(1)
    assert (found.before == found.after).all()
    assert all((each.values == 0).all() for each in looked(before, before, rows(), PATTERNS).values())
    same = carried(before, before, asked(), {"heads": [units[0]], "features": [units[3]]})
    assert (same.effects.values == 0).all() and (same.whole.values == 0).all()
    weights = matrices(before, before)
    assert (weights.change == 0).all() and (weights["effective rank"] == 0).all()
    with pytest.raises(ConfigError, match=r"^the metric is the same in both models, so there is no change to share out"):
        same.share("heads")


def test_numbers_of_units_are_those_of_the_formulas(before: Model, after: Model) -> None:
    tokens = torch.cat([each.tokens for each in rows()])
    for hook in (HEADS, LATER):
        a, b = (model.run(tokens, read=[hook]).activations[hook].double() for model in (before, after))
        found = observed(before, after, rows(), [Units(hook)]).set_index("unit").sort_index()
        a, b = (x if x.ndim == 4 else x[..., None] for x in (a, b))
        moved = (b - a).square().sum((0, 1, 3))
        assert_close(torch.tensor(found.change.to_numpy()), moved / a.square().sum((0, 1, 3)))
        assert_close(torch.tensor(found.share.to_numpy()), moved / moved.sum().clamp(min=1e-300))
        level = b.norm(dim=-1) if hook == HEADS else b[..., 0]
        assert_close(torch.tensor(found.after.to_numpy()), level.mean((0, 1)))
    wanted = [float(torch.corrcoef(torch.stack([a[..., i, 0].flatten(), b[..., i, 0].flatten()]))[0, 1]) for i in range(40)]
    assert found.correlation.to_numpy() == pytest.approx(np.array(wanted))
    assert found["fires after"].to_numpy() == pytest.approx((b[..., 0] > 0).double().mean((0, 1)).numpy())


def test_rows_may_come_in_any_batches_and_positions_that_do_not_count_tell_nothing(before: Model, after: Model) -> None:
    whole = rows()
    tokens = torch.cat([each.tokens for each in whole])
    units = [Units(HEADS), Units(LATER)]
    numbers = ["share", "change", "correlation", "before", "after", "q"]
    first, second = (observed(before, after, each, units)[numbers] for each in (whole, [Rows(tokens)]))
    assert first.to_numpy() == pytest.approx(second.to_numpy(), nan_ok=True)
    where = torch.arange(7).expand(12, 7) < 4
    other = tokens.clone()
    other[:, 4:] = 3  # a causal model's earlier positions do not see them
    marked, short = (observed(before, after, [Rows(each, where)], units)[numbers] for each in (tokens, other))
    assert marked.to_numpy() == pytest.approx(short.to_numpy(), nan_ok=True, abs=1e-5)
    assert not np.allclose(marked.change, first.change)


def test_nothing_changes_before_the_place_that_was_trained(before: Model, after: Model) -> None:
    found = observed(before, after, rows(), [Units(HEADS), Units(NEURONS), Units(LATER)]).groupby("hook").change
    assert found.max()[HEADS] == 0 and found.min()[NEURONS] > 0 and found.max()[LATER] > 0
    moved = looked(before, after, rows(), PATTERNS)
    assert (moved["total variation"].values[0] == 0).all() and (moved["total variation"].values[1] > 0).all()
    assert moved["total variation"].dims == ("attention", "head", "example")


def test_patterns_that_share_no_key_are_as_far_apart_as_can_be(before: Model) -> None:
    def turned(sign: float) -> Model:
        state = {name: torch.zeros_like(each) for name, each in before.state().items()}
        width = before.d_model
        state["pos.weight"][:, 0] = torch.linspace(0, 1, before.n_ctx)
        state["pos.weight"][:, 1] = 1 - torch.linspace(0, 1, before.n_ctx)
        for layer in range(2):
            state[f"layers.{layer}.ln1.weight"] = torch.ones(width)
            state[f"layers.{layer}.attn.q.bias"] = torch.ones(width) * 1e3
            state[f"layers.{layer}.attn.k.weight"][:, 0] = sign
            state[f"layers.{layer}.attn.k.weight"][:, 1] = -sign
        return before.with_weights(state, name="turned")

    last = torch.arange(7).expand(12, 7) == 6  # that query looks at the last key, or at the first
    moved = looked(turned(1.0), turned(-1.0), [Rows(torch.cat([each.tokens for each in rows()]), last)], PATTERNS[:1])
    assert moved["total variation"].values == pytest.approx(1, abs=1e-4)
    assert moved["divergence"].values == pytest.approx(np.log(2), abs=1e-3)


def test_what_was_trained_carries_everything_and_what_comes_before_it_nothing(before: Model, after: Model) -> None:
    parts = {
        "trained": [Units("blocks.0.hook_mlp_out")],
        "before it": [Units(HEADS)],
        "stream": [Units("blocks.0.hook_resid_post")],
    }
    for into, source in ((before, after), (after, before)):
        found = carried(into, source, asked(), parts, batch=4)
        assert found.effects.sel(part="trained").values == pytest.approx(found.whole.values, abs=1e-5)
        assert found.effects.sel(part="stream").values == pytest.approx(found.whole.values, abs=1e-5)
        assert found.effects.sel(part="before it").values == pytest.approx(0, abs=1e-5)
        assert found.share("trained").value == pytest.approx(1, abs=1e-4)
        assert found.table().part.tolist() == list(parts)


def test_all_features_of_an_exact_coder_carry_what_the_activation_does_and_single_ones_their_direction(
    before: Model, after: Model
) -> None:
    hook = "blocks.0.hook_resid_post"
    coder = Halves()
    every = carried(before, after, asked(), {"f": [Units(hook, coder=coder)], "x": [Units(hook)]})
    assert every.effects.values[0] == pytest.approx(every.effects.values[1], abs=1e-4)
    into, source = torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    put = Units(hook, (2, 18), coder).put(into, source)  # both signs of coordinate 2
    assert_close(put[..., 2], source[..., 2])
    assert_close(put[..., [0, 1, *range(3, 16)]], into[..., [0, 1, *range(3, 16)]])


def test_heads_put_in_one_by_one_are_those_named(before: Model) -> None:
    into, source = torch.randn(2, 3, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    put = Units(HEADS, (1,)).put(into, source)
    assert torch.equal(put[:, :, 1], source[:, :, 1]) and torch.equal(put[:, :, 0], into[:, :, 0])


def test_activations_are_put_in_only_where_asked(before: Model, after: Model) -> None:
    contrast, parts = asked(), {"trained": [Units("blocks.0.hook_mlp_out")]}
    nowhere, everywhere, first = (
        carried(before, after, contrast, parts, where=where.expand(6, 7)).effects.values
        for where in (torch.zeros(7, dtype=torch.bool), torch.ones(7, dtype=torch.bool), torch.arange(7) == 0)
    )
    assert (nowhere == 0).all()
    assert everywhere == pytest.approx(carried(before, after, contrast, parts).effects.values)
    assert np.abs(first).max() > 0 and not np.allclose(first, everywhere)


def test_all_changed_weights_make_the_model_after_and_a_layers_first_matrix_acts_as_its_neurons(
    before: Model, after: Model
) -> None:
    names = ["layers.0.mlp.fc_in.weight", "layers.0.mlp.fc_out.weight"]
    assert matrices(before, after).query("change > 0").matrix.tolist() in (names, names[::-1])
    contrast = asked()
    assert torch.equal(graft(before, after, names).run(contrast.clean).logits, after.run(contrast.clean).logits)
    assert torch.equal(graft(before, after, []).run(contrast.clean).logits, before.run(contrast.clean).logits)
    by_weights = grafted(before, after, contrast, {"all": names, "in": names[:1]}, batch=4)
    assert by_weights.share("all").value == pytest.approx(1)
    by_neurons = carried(before, after, contrast, {"in": [Units(NEURONS)]})
    assert by_weights.effects.sel(part="in").values == pytest.approx(by_neurons.effects.values[0], abs=1e-5)


def test_the_change_of_a_matrix_is_measured_by_its_singular_values(before: Model, after: Model) -> None:
    found = matrices(before, after, rank=3).set_index("matrix").loc["layers.0.mlp.fc_in.weight"]
    own, theirs = (model.state()["layers.0.mlp.fc_in.weight"] for model in (before, after))
    assert found.change == pytest.approx(float((theirs - own).norm() / own.norm()), rel=1e-5)
    assert found["effective rank"] == pytest.approx(effective_rank(theirs - own), rel=1e-3)
    assert found["effective rank"] < 3.01 and found.top == pytest.approx(1, abs=1e-5)
    assert found.chance == pytest.approx(3 / 40)


def test_noise_is_as_large_as_the_change_and_has_no_direction(before: Model, after: Model) -> None:
    control = noised(before, after, seed=0)
    own, theirs, noise = (model.state() for model in (before, after, control))
    sizes = [torch.stack([(each[name] - own[name]).square().sum() for name in own]).sum() for each in (theirs, noise)]
    assert float(sizes[1] / sizes[0]) == pytest.approx(1, abs=0.15)
    same = [name for name in own if torch.equal(own[name], theirs[name])]
    assert all(torch.equal(own[name], noise[name]) for name in same) and len(same) == len(own) - 2
    table = matrices(before, control, rank=3).query("change > 0")
    assert (table["effective rank"] > 0.7 * table["rank at most"]).all() and (table.top < 0.6).all()
    assert torch.equal(noised(before, after, seed=0).state()["layers.0.mlp.fc_in.weight"], noise["layers.0.mlp.fc_in.weight"])


def test_planted_units_are_found_and_noise_points_at_none(before: Model) -> None:
    state = {name: each.clone() for name, each in before.state().items()}
    planted = [3, 17, 30]
    state["layers.0.mlp.fc_in.weight"][planted] *= -2
    after, units = before.with_weights(state, name="planted"), Units(NEURONS)
    found = observed(before, after, rows(), [units])
    assert sorted(strongest(found, units, 3).chosen or ()) == planted
    assert found.share[:3].sum() == pytest.approx(1) and (found.change[3:] == 0).all()
    assert (found.q[3:] == 1).all()
    most = carried(before, after, asked(), {"found": [strongest(found, units, 3)], "drawn": [Units(NEURONS, (4, 5, 6))]})
    assert most.share("found").value == pytest.approx(1, abs=1e-4) and (most.effects.values[1] == 0).all()
    noise = observed(before, noised(before, after, seed=0), rows(), [units])
    assert noise.share[:3].sum() < 0.5


def test_means_that_differ_by_chance_alone_are_not_called_different_and_others_are(before: Model) -> None:
    hook = "blocks.0.hook_resid_post"
    chance = observed(before, before, rows(), [Units(hook, coder=Dice())])
    assert (chance.change > 0).all() and (chance.q > 0.05).all()
    assert (observed(before, before.untrained(5), rows(), [Units(LATER)]).q < 0.05).any()


def test_drawn_units_fire_and_are_a_function_of_the_seed(before: Model, after: Model) -> None:
    units = Units("blocks.0.hook_resid_post", coder=Halves())
    found = observed(before, after, rows(), [units])
    first, again, other = (drawn(found, units, 5, seed=seed) for seed in (0, 0, 1))
    assert first.chosen == again.chosen != other.chosen and len(set(first.chosen or ())) == 5
    assert first.chosen != drawn(found, units, 5, seed=0, number=1).chosen
    with pytest.raises(ConfigError, match=r"^n=99 units cannot be drawn from \d+ that fire at blocks.0.hook_resid_post; draw"):
        drawn(found, units, 99, seed=0)


def test_a_coder_that_reconstructs_leaves_nothing_and_a_deaf_one_everything(before: Model) -> None:
    hook = "blocks.0.hook_resid_post"
    assert unexplained(before, rows(), Units(hook, coder=Halves())) == pytest.approx(0, abs=1e-10)
    assert unexplained(before, rows(), Units(hook, coder=Deaf())) >= 1
    with pytest.raises(
        ConfigError, match=r"^there is no coder at blocks.0.hook_resid_post, so nothing is reconstructed; give Units"
    ):
        unexplained(before, rows(), Units(hook))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: Units(PATTERNS[0]), HookError, "holds patterns, which are no units; compare them with looked"),
        (lambda m: looked(m, m, rows(), [HEADS]), HookError, "holds no attention pattern; give hooks that end in hook_pattern"),
        (lambda m: looked(m, m, rows(), []), HookError, "nothing holds no attention pattern"),
        (
            lambda m: observed(m, m, rows(), [Units(HEADS, (2,))]),
            ConfigError,
            "no unit 2 at blocks.0.attn.hook_z; choose among 0 to 1",
        ),
        (lambda m: carried(m, m, asked(), {"a": [Units(NEURONS, (-1,))]}), ConfigError, "no unit -1 at .*; choose among 0 to 39"),
        (lambda m: observed(m, m, rows(1)[:1], [Units(HEADS)]), ConfigError, "fewer than two rows have a position that counts"),
        (
            lambda m: observed(m, m, [Rows(asked().clean, torch.ones(6, 5, dtype=torch.bool))], [Units(HEADS)]),
            ConfigError,
            r"where has shape \[6, 5\], the activations \[6, 7\]; mark every position",
        ),
        (lambda m: observed(m, m, rows(), []), ConfigError, "there are no units to compare; give one at least"),
        (lambda m: carried(m, m, asked(), {}), ConfigError, "there are no parts to put in; name one at least"),
        (
            lambda m: carried(m, m, asked(), {"a": [Units(HEADS)]}, metric=lambda contrast, logits: logits.sum()),
            ConfigError,
            r"the metric gave \[\] for 6 examples; give one finite number per example",
        ),
        (lambda m: graft(m, m, ["layers.9.w"]), ModelError, "native has no weight 'layers.9.w'; it has tok_embed.weight, "),
        (lambda m: noised(m, m, seed=0), ModelError, "have the same weights, so there is no change to be as large as"),
        (
            lambda m: matrices(m, build("gated")),
            ModelError,
            "native and gated differ in shape at .*; give two states of one model",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(before: Model, call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(before)
