"""E23 with fewer texts, and its graph networks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.heads import flow
from interp.report import Report


@pytest.fixture(scope="module")
def e23():
    return module_of("E23")


@pytest.fixture(scope="module")
def report(e23) -> Report:
    report = Report("E23", "message passing")
    e23.run(e23.Config(**e23.QUICK), report)
    return report


def test_every_claim_holds_and_its_control_does_not(report):
    assert_claims_hold(report)


def test_rollout_tells_more_of_the_untrained_model_than_of_the_trained_one(report):
    agreement = next(table for table in report.blocks("table") if table.name == "agreement")
    rho = {(row[0], row[1]): float(row[2].replace("−", "-")) for row in agreement.rows}
    assert rho["untrained", "rollout"] > rho["trained", "rollout"] > rho["trained", "rollout in another text"]


def test_a_ring_with_a_chord_has_the_hops_it_should(e23):
    ring = e23.small_world(8, 0, torch.Generator().manual_seed(0))
    assert e23.hops(ring)[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    ring[0, 4] = ring[4, 0] = True
    assert e23.hops(ring)[0].tolist() == [0, 1, 2, 2, 1, 2, 2, 1]


def test_a_graph_in_two_pieces_is_refused(e23):
    with pytest.raises(ValueError, match="the graph falls apart"):
        e23.hops(torch.eye(3) > 0)


def test_the_edits_on_a_complete_graph_change_nothing(e23):
    model = e23.random_model(2, 0)
    stream = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    complete = torch.ones(5, 5) > 0
    assert torch.allclose(e23.final(model, stream, e23.masked(model, complete)), e23.final(model, stream, []), atol=1e-12)


def test_convolution_is_the_normalised_matrix(e23):
    adjacency = e23.small_world(6, 1, torch.Generator().manual_seed(1))
    degree = adjacency.sum(1).double()
    matrix = adjacency.double() / degree[:, None].sqrt() / degree.sqrt()
    sent = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(e23.convolution(sent, adjacency), matrix @ sent)


def test_no_rank_correlation_is_counted_where_there_are_fewer_than_three_earlier_tokens(e23):
    truth = np.tril(np.random.default_rng(0).random((2, 5, 5)))
    assert e23.agreement(truth, truth) == pytest.approx(1.0)
    spoilt = truth.copy()
    spoilt[:, :3] = 0.0
    assert e23.agreement(spoilt, truth) == pytest.approx(1.0)


def test_one_layer_on_a_path_reaches_its_neighbours_alone(e23):
    model = e23.random_model(1, 0)
    path = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]) > 0
    stream = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reached = flow.influence(model, stream, edits=e23.masked(model, path)).values[0] > 0
    assert reached.tolist() == path.tolist()
