"""An experiment as a module, and what every report must keep to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable
from types import ModuleType
from typing import Any

from interp.experiment import discovery
from interp.report import Report


def module_of(identity: str) -> ModuleType:
    """The script of an experiment, by ID."""
    found = discovery.find(identity)
    discovery.load(found)
    return sys.modules[f"interp_experiment_{found.name}"]


def assert_claims_hold(report: Report, *, but: Container[str] = ()) -> None:
    """Every claim passes, except those of the names in `but`; and no control reaches its claim's target."""
    assert report.claims
    for claim in report.claims:
        if claim.id.partition(".")[2] not in but:
            assert claim.verdict == "PASS", claim.id
        assert claim.control is not None and claim.target is not None
        assert not claim.target.holds(*claim.control.ends), claim.id


def assert_claims_hold_on_seeds(
    module: ModuleType, sections: Callable[[Any], Iterable[Callable[[Report], None]]], **reduced: Any
) -> None:
    """Every claim of some sections passes on twenty seeds, and no control does: for what is exact or follows from a proof.

    sections: of a configuration, what writes into a report. reduced: fields of the configuration.
    """
    for seed in range(20):
        report = Report(module.ID, "closed form")
        for section in sections(module.Config(seed=seed, **reduced)):
            section(report)
        assert_claims_hold(report)
