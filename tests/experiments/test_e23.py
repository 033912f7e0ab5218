"""E23 with fewer texts, and its graph networks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, assert_claims_hold_on_seeds, module_of

from interp import stats
from interp.heads import flow
from interp.heads.messages import hops, masked
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


def test_the_graph_is_a_ring_with_chords(e23):
    ring = e23.small_world(8, 0, stats.torch_generator(0))
    assert hops(ring)[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert int(e23.small_world(8, 1, stats.torch_generator(0)).sum()) == int(ring.sum()) + 2


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
    reached = flow.influence(model, stream, edits=masked(model, path)).values[0] > 0
    assert reached.tolist() == path.tolist()


@pytest.mark.slow
def test_what_is_closed_form_holds_on_twenty_seeds(e23):
    def sections(config):
        graph = e23.small_world(config.nodes, config.chords, stats.torch_generator(config.seed, "graph"))
        return [
            lambda report, section=section: section(config, report, graph)
            for section in (e23.report_layers, e23.report_special_cases, e23.report_balls)
        ]

    assert_claims_hold_on_seeds(e23, sections, nodes=8, chords=1, depths=(1,), rows=1, length=8)
