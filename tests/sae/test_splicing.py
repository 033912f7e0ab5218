"""What is spliced in is what the autoencoder says, at the positions asked for; an edit that cannot act is refused."""

import pytest
import torch
from spliced_cases import made, most_of, tiny_model, tiny_tokens

from interp.errors import ConfigError, HookError
from interp.sae import splicing
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.splicing import Site

HOOK, LATER, HEADS = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
MLP_IN, MLP_OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def model():
    return tiny_model(4.0)


@pytest.fixture(scope="module")
def tokens():
    return tiny_tokens()


@pytest.fixture(scope="module")
def where(tokens):
    return most_of(tokens)


@pytest.fixture
def site():
    return Site(made(), HOOK)


def seen(model, tokens, edits, hook):
    return model.run(tokens, edits=edits, read=[hook]).activations[hook]


def test_the_reconstruction_stands_in_at_marked_positions_and_nowhere_else(model, tokens, where, site):
    before, after = (seen(model, tokens, edits, HOOK) for edits in ([], splicing.splice(site, where=where)))
    torch.testing.assert_close(after[where], site.sae(before[where]))
    assert torch.equal(after[~where], before[~where])
    everywhere = seen(model, tokens, splicing.splice(site, where=None), HOOK)
    torch.testing.assert_close(everywhere, site.sae(before))


def test_with_the_error_term_only_the_change_is_felt(model, tokens, where, site):
    before = seen(model, tokens, [], HOOK)
    codes = site.sae.encode(before[where])
    latent = int((codes > 0).sum(0).argmax())
    after = seen(model, tokens, splicing.ablate(site, [latent], where=where), HOOK)
    removed = codes[:, latent, None] * site.sae.W_dec[latent]
    torch.testing.assert_close(after[where], before[where] - removed)
    bare = seen(model, tokens, splicing.ablate(site, [latent], where=where, error=False), HOOK)
    torch.testing.assert_close(bare[where], site.sae(before[where]) - removed)
    silent = int((codes == 0).all(0).nonzero()[0])
    same = seen(model, tokens, splicing.ablate(site, [silent], where=where), HOOK)
    torch.testing.assert_close(same, before, msg="a feature that does not fire has nothing to take away")


def test_a_clamped_feature_has_that_code_and_steering_adds_its_direction(model, tokens, where, site):
    before = seen(model, tokens, [], HOOK)
    codes = site.sae.encode(before[where])
    after = seen(model, tokens, splicing.clamp(site, {3: 1.5, 7: 0.0}, where=where), HOOK)
    wanted = codes.clone()
    wanted[:, 3], wanted[:, 7] = 1.5, 0.0
    torch.testing.assert_close(after[where] - before[where], (wanted - codes) @ site.sae.W_dec)
    pushed = seen(model, tokens, splicing.steer(site, 3, -2.0, where=where), HOOK)
    torch.testing.assert_close(pushed[where] - before[where], (-2 * site.sae.W_dec[3]).expand(int(where.sum()), -1))
    assert torch.equal(pushed[~where], before[~where])


def test_edits_compose_and_can_be_used_again(model, tokens, where, site):
    edits = [*splicing.ablate(site, [1], where=where), *splicing.steer(site, 2, 1.0, where=where)]
    assert torch.equal(seen(model, tokens, edits, LATER), seen(model, tokens, edits, LATER))


def test_a_transcoder_reads_one_hook_and_writes_another(model, tokens, where):
    site = Site(made(d_out=16, skip=True), MLP_IN, MLP_OUT)
    with torch.no_grad():
        site.sae.get_parameter("W_skip").normal_(generator=torch.Generator().manual_seed(3))
    read, before = (seen(model, tokens, [], hook)[where] for hook in (site.hook, MLP_OUT))
    after = seen(model, tokens, splicing.splice(site, where=where), MLP_OUT)[where]
    torch.testing.assert_close(after, site.sae(read))
    codes = site.sae.encode(read)
    latent = int((codes > 0).sum(0).argmax())
    ablated = seen(model, tokens, splicing.ablate(site, [latent], where=where), MLP_OUT)[where]
    torch.testing.assert_close(ablated, before - codes[:, latent, None] * site.sae.W_dec[latent])


def test_scales_per_dimension_are_in_the_directions(model, tokens):
    sae = made()
    sae.scale = sae.scale_out = torch.linspace(0.5, 2, 16)
    site = Site(sae, HOOK)
    before, after = (seen(model, tokens, edits, HOOK) for edits in ([], splicing.clamp(site, {5: 3.0}, where=None)))
    codes = sae.encode(before)
    wanted = codes.clone()
    wanted[..., 5] = 3.0
    torch.testing.assert_close(after - before, sae.decode(wanted) - sae.decode(codes), rtol=1e-4, atol=1e-5)


def test_heads_lie_side_by_side(model, tokens, where):
    site = Site(made(), HEADS)
    before, after = (seen(model, tokens, edits, HEADS) for edits in ([], splicing.splice(site, where=where)))
    assert before.shape == (3, 10, 2, 8)
    torch.testing.assert_close(after[where], site.sae(before[where].flatten(1)).reshape(-1, 2, 8))


def test_an_edit_that_cannot_act_is_refused(model, tokens, where, site):
    with pytest.raises(HookError, match="with the error term and no change of the codes nothing is changed"):
        splicing.splice(site, where=where, error=True)
    with pytest.raises(HookError, match="a strength of 0 changes nothing"):
        splicing.steer(site, 3, 0.0, where=where)
    with pytest.raises(ConfigError, match=r"latents \[\] are not among the 40 of this autoencoder; give some from 0 to 39"):
        splicing.ablate(site, [], where=where)
    for wrong in (40, -1):
        with pytest.raises(ConfigError, match=rf"latents \[{wrong}\] are not among the 40"):
            splicing.clamp(site, {wrong: 1.0}, where=where)
    with pytest.raises(HookError, match="no position is marked, so the edit at blocks.0.hook_resid_post cannot act"):
        model.run(tokens, edits=splicing.splice(site, where=torch.zeros_like(where)))
    with pytest.raises(HookError, match=r"where marks positions of shape \(3, 4\), and blocks.0.hook_resid_post has \(3, 10\)"):
        model.run(tokens, edits=splicing.splice(site, where=where[:, :4]))
    with pytest.raises(HookError, match="comes after everything that is read"):
        model.run(tokens, edits=splicing.splice(Site(site.sae, LATER), where=where), read=[HOOK])


def test_an_autoencoder_of_another_size_is_refused(model, tokens):
    small = SparseAutoencoder(8, 16, activation=TopK(2))
    for edits in (splicing.splice(Site(small, HOOK), where=None), splicing.steer(Site(small, HOOK), 1, 1.0, where=None)):
        with pytest.raises(HookError, match=r"hook_resid_post has activations of size 16, and the autoencoder has d_(in|out)=8"):
            model.run(tokens, edits=edits)


def test_a_transcoder_knows_two_hooks_and_their_order(model, tokens):
    sae = made(d_out=16)
    with pytest.raises(HookError, match="a transcoder writes another hook than the one it reads .*; pass hook_out="):
        Site(sae, HOOK)
    with pytest.raises(HookError, match="an autoencoder writes the hook it reads .* leave hook_out out"):
        Site(made(), HOOK, LATER)
    with pytest.raises(HookError, match="fires before .*, so what is read comes too late; swap hook and hook_out"):
        model.run(tokens, edits=splicing.splice(Site(sae, LATER, HOOK), where=None))
