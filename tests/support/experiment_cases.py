"""An experiment as a module, and what every report must keep to."""

from __future__ import annotations

import sys
from collections.abc import Container
from types import ModuleType

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
