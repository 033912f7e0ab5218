"""Every objective equals its formula, written with dense matrices and autograd alone, in value and in every gradient."""

import pytest
import torch
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import entries, objectives
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.objectives import GatedLasso, Jump, Lasso, Moment, Reconstruction

D, M, ROWS = 6, 20, 40
LAMBDA = 0.3


def vector(seed, size=M, scale=0.1):
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))


CASES = {
    "topk": (lambda: TopK(3), Reconstruction(), {}),
    "topk, k falling": (lambda: TopK(3), Reconstruction(k_start=7, k_until=0.5), {}),
    "multi-topk": (lambda: TopK(3), Reconstruction(wider=4), {}),
    "topk, refined": (lambda: TopK(3), Reconstruction(), {"refinement": 0.25}),
    "topk transcoder": (lambda: TopK(3), Reconstruction(), {"d_out": 5}),
    "topk skip transcoder": (lambda: TopK(3), Reconstruction(), {"d_out": 5, "skip": True}),
    "batchtopk": (lambda: BatchTopK(3), Reconstruction(), {}),
    "matryoshka": (lambda: BatchTopK(3), Reconstruction(widths=(4, 11), inner=0.5), {}),
    "matryoshka, refined": (lambda: BatchTopK(3), Reconstruction(widths=(4, 11)), {"refinement": 0.25}),
    "relu": (ReLU, Lasso(), {}),
    "relu, decoder-weighted": (ReLU, Lasso(unit_decoder=False), {}),
    "relu, with a target": (ReLU, Lasso(target_l0=2.5), {}),
    "relu skip transcoder": (ReLU, Lasso(unit_decoder=False), {"d_out": 5, "skip": True}),
    "relu crosscoder": (ReLU, Lasso(unit_decoder=False), {"parts": {"early": 2, "late": 4}}),
    "p-anneal": (ReLU, Lasso(p_end=0.2), {}),
    "gated, with a target": (lambda: Gated(vector(7), vector(8)), GatedLasso(target_l0=2.5), {}),
    "gated": (lambda: Gated(vector(7), vector(8)), GatedLasso(), {}),
    "jumprelu": (lambda: JumpReLU(vector(7).abs() + 0.1), Jump(bandwidth=0.4), {}),
    "jumprelu, to input": (lambda: JumpReLU(vector(7).abs() + 0.1), Jump(bandwidth=0.4, to_input=True), {}),
    "jumprelu, with a target": (lambda: JumpReLU(vector(7).abs() + 0.1), Jump(bandwidth=0.4, target_l0=2.5), {}),
    "jumprelu transcoder": (lambda: JumpReLU(vector(7).abs() + 0.1), Jump(bandwidth=0.4), {"d_out": 5}),
}


def made(name):
    """An autoencoder in float64 whose biases and decoder lengths are not special, its objective, inputs and targets."""
    activation, objective, shape = CASES[name]
    sae = SparseAutoencoder(D, M, activation=activation(), seed=1, **shape).double()
    with torch.no_grad():
        sae.W_enc.mul_(8).add_(torch.randn(D, M, generator=torch.Generator().manual_seed(3)).double() / 10)
        sae.W_dec.mul_(1 + vector(4)[:, None])
        sae.b_enc.copy_(vector(5))
        sae.b_dec.copy_(vector(6, sae.d_out))
        if sae.W_skip is not None:
            sae.W_skip.normal_(generator=torch.Generator().manual_seed(9))
    inputs = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(2)).double()
    targets = torch.randn(ROWS, sae.d_out, generator=torch.Generator().manual_seed(10)).double() if sae.transcodes else inputs
    return sae, objective, inputs, targets


def moment(dead=(), fraction=0.25):
    return Moment(fraction, torch.isin(torch.arange(M), torch.tensor(dead, dtype=torch.long)), LAMBDA)


def largest(pre, k):
    return torch.zeros_like(pre).scatter(-1, pre.topk(k).indices, 1.0) * pre.relu()


def reference(sae, objective, x, y, now):
    """The loss, spelt out."""
    pre = (x if sae.transcodes else x - sae.b_dec) @ sae.W_enc + sae.b_enc
    y = y - sae.b_dec - (0 if sae.W_skip is None else x @ sae.W_skip)

    def weight(codes):
        return LAMBDA * ((codes != 0).sum() / ROWS / objective.target_l0 if objective.target_l0 else 1)

    def loss_of(codes, decoder=sae.W_dec, wanted=y):
        return (wanted - codes @ decoder).square().sum(1).mean()

    match objective:
        case Reconstruction():
            k = sae.activation.k
            if objective.k_start is not None:
                k = objective.k_start + (k - objective.k_start) * min(now.fraction / objective.k_until, 1)

            def chosen(pre, k=k):
                return (
                    largest(pre, round(k))
                    if isinstance(sae.activation, TopK)
                    else largest(pre.flatten(), k * ROWS).view(pre.shape)
                )

            if sae.refinement:
                pre = pre + sae.refinement * (y - chosen(pre) @ sae.W_dec) @ sae.W_enc
            codes = chosen(pre)
            loss = loss_of(codes)
            if objective.wider > 1:
                loss = loss + loss_of(chosen(pre, k * objective.wider)) / 8
            inside, before = 0, 0
            for width in objective.widths:
                ring = codes[:, before:width] @ sae.W_dec[before:width]
                loss = loss + objective.inner * (y - inside - ring).square().sum(1).mean()
                inside, before = (inside + ring).detach(), width
        case Lasso():
            codes = pre.relu()
            if not objective.unit_decoder:
                lengths = sum(part.norm(dim=1) for part in sae.W_dec.split(list(sae.parts.values()), 1))
            p = 1 - (1 - objective.p_end) * now.fraction
            weighed = codes if objective.unit_decoder else codes * lengths
            powers = ((weighed + objectives.SOFTENING) ** p - objectives.SOFTENING**p).sum()
            loss = loss_of(codes) + weight(codes) * (powers * (weighed.sum() / powers).detach()) / ROWS
        case GatedLasso():
            gain, shift = sae.activation.log_gain.exp(), sae.activation.shift
            codes = (pre > 0) * (gain * pre + shift).relu()
            held = y + sae.b_dec - sae.b_dec.detach()
            loss = loss_of(codes) + weight(codes) * pre.relu().sum(1).mean() + loss_of(pre.relu(), sae.W_dec.detach(), held)
        case Jump():
            threshold = sae.activation.log_threshold.exp()
            on = (pre > threshold).double()
            slope = ((pre - threshold).abs() < objective.bandwidth / 2).double().detach() / objective.bandwidth
            moved = threshold - threshold.detach() - (pre - pre.detach() if objective.to_input else 0)
            straight = on - moved * slope
            codes = pre * on + threshold.detach() * (straight - on)
            loss = loss_of(codes) + weight(codes) * straight.sum(1).mean() + objectives.AUX_WEIGHT * threshold[now.dead].sum()
    if now.dead.any():
        error = (y - codes @ sae.W_dec).detach()
        dead = (x if sae.transcodes else x - sae.b_dec.detach()) @ sae.W_enc[:, now.dead] + sae.b_enc[now.dead]
        kept = F.leaky_relu(dead, objectives.LEAK)
        kept = kept * (kept >= kept.topk(min(D // 2, kept.shape[1])).values[:, -1:])
        loss = loss + objectives.AUX_WEIGHT * (error - kept @ sae.W_dec[now.dead]).square().sum() / error.square().sum()
    return loss, codes


@pytest.fixture(params=[0.0, 1.0], ids=["dense", "sparse"])
def path(request, monkeypatch):
    """Both ways of computing what is chosen by a threshold."""
    monkeypatch.setattr(entries, "CROSSOVER", request.param)


@pytest.mark.parametrize("dead", [(), (0, 3, 4, 9, 15)], ids=["all alive", "some dead"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_the_dense_reference(name, dead, path):
    sae, objective, x, y = made(name)
    outcome = objective(sae, x, y, moment(dead))
    loss, codes = reference(sae, objective, x, y, moment(dead))
    assert outcome.loss.item() == pytest.approx(loss.item(), rel=1e-10)
    assert torch.equal(outcome.fired, (codes != 0).sum(0)) and 0 < outcome.fired.sum() < codes.numel()
    names, parameters = zip(*sae.named_parameters(), strict=True)
    ours = torch.autograd.grad(outcome.loss, parameters)
    theirs = torch.autograd.grad(loss, parameters)
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Reconstruction(), r"a Reconstruction cannot train Other\(\); build the autoencoder with TopK\(k\) or BatchTopK\(k\)"),
        (Lasso(), r"a Lasso cannot train Other\(\); build the autoencoder with ReLU\(\)"),
        (GatedLasso(), r"a GatedLasso cannot train Other\(\); build the autoencoder with Gated"),
        (Jump(), r"a Jump cannot train Other\(\); build the autoencoder with JumpReLU\(threshold\)"),
    ],
)
def test_an_objective_refuses_an_activation_it_was_not_made_for(objective, message):
    class Other(torch.nn.Module):
        pass

    sae = SparseAutoencoder(D, M, activation=Other())
    with pytest.raises(TrainingError, match=message):
        objective(sae, torch.zeros(ROWS, D), torch.zeros(ROWS, D), moment())


def test_the_straight_through_slope_is_that_of_the_loss_smoothed_over_the_window():
    """Pre-activations are spread evenly, so that the derivative of the mean loss exists, and finite differences give it."""
    pre = torch.linspace(0, 2, 100_001, dtype=torch.float64)[:, None]
    wanted = pre + 0.3

    def loss(threshold):
        codes, active = objectives._Jump.apply(pre, threshold, 0.01, False)
        return ((wanted - codes).square() + 0.2 * active).mean()

    threshold = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(threshold), [threshold])
    with torch.no_grad():
        expected = (loss(threshold + 0.05) - loss(threshold - 0.05)) / 0.1
    assert float(slope) == pytest.approx(float(expected), rel=5e-3)


def test_k_falls_to_that_of_the_activation_and_stays_there():
    sae, objective, x, y = made("topk, k falling")
    fired = [int(objective(sae, x, y, moment(fraction=at)).fired.sum()) for at in (0.0, 0.25, 0.5, 0.9)]
    assert fired[0] > fired[1] > fired[2] == fired[3]


def test_an_inner_loss_trains_its_own_ring_alone():
    sae, _, x, y = made("matryoshka")
    plain, nested = Reconstruction(), Reconstruction(widths=(4, 11), inner=100.0)
    gradients = [torch.autograd.grad(objective(sae, x, y, moment()).loss, [sae.W_dec])[0] for objective in (plain, nested)]
    changed = (gradients[0] - gradients[1]).abs().amax(1) > 1e-9
    assert changed[:11].any() and not changed[11:].any()


def test_the_running_threshold_of_batchtopk_is_the_smallest_value_kept():
    sae, objective, x, y = made("batchtopk")
    codes = reference(sae, objective, x, y, moment())[1].detach()
    smallest = codes[codes > 0].min()
    objective(sae, x, y, moment())
    assert float(sae.state_dict()["activation.threshold"]) == pytest.approx(float(smallest))
    assert torch.equal(sae.encode(x) > 0, codes > smallest)


def test_a_batch_whose_sampled_rows_mislead_still_keeps_its_largest_entries():
    sae, objective, x, y = made("batchtopk")
    rows = x.repeat(64, 1) / 100
    rows[:: len(rows) // entries.PROBE] *= 1000  # the very rows that are looked at first
    chosen = entries.largest_of_batch(sae, rows, 2.0)
    every = ((rows - sae.b_dec) @ sae.W_enc + sae.b_enc).flatten()
    assert len(chosen.pre) == 2 * len(rows)
    torch.testing.assert_close(chosen.pre.sort().values, every.topk(2 * len(rows)).values.sort().values)


def test_p_annealing_lowers_small_codes_more_than_large_ones_as_training_goes_on():
    sae, objective, x, y = made("p-anneal")
    slopes = {}
    for at in (0.0, 1.0):
        codes = torch.tensor([0.05, 1.0], requires_grad=True)
        (slopes[at],) = torch.autograd.grad(objectives._power(codes, 1 - (1 - objective.p_end) * at), [codes])
    assert slopes[0.0].tolist() == [1.0, 1.0] and slopes[1.0][0] > 5 * slopes[1.0][1]


def test_the_weight_of_sparsity_follows_a_batch_only_so_far():
    codes = torch.ones(10, 50)
    assert float(objectives._weight(0.5, moment(), codes, 10)) == pytest.approx(LAMBDA * objectives.SWING)
    assert float(objectives._weight(100.0, moment(), codes, 10)) == pytest.approx(LAMBDA / 2)
    assert objectives._weight(None, moment(), codes, 10) == LAMBDA
