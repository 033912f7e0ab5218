"""Claims as lines of text: how `run`, `show`, `compare` and `report` print what a run found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import ConfigError
from interp.experiment import discovery, run


def ledger(result: Mapping[str, Any]) -> str:
    """A line for each claim: verdict, ID, value with its interval, target; then what it says."""
    width = max((len(claim["id"]) for claim in result["claims"]), default=0)
    form = "quick" if result["quick"] else "full"
    lines = [f"{result['experiment']}  {result['title']}", f"{form}, {result['seconds']:.1f} s", ""]
    for claim in result["claims"]:
        lines.append(f"  {claim['verdict']:<7}  {claim['id']:<{width}}  {measured(claim)}{_target(claim)}")
        lines.append(f"  {'':<7}  {'':<{width}}  {claim['text']}" + (f" ({claim['note']})" if claim.get("note") else ""))
    return "\n".join([*lines, "", f"{counts(result)}"])


def measured(claim: Mapping[str, Any]) -> str:
    """The value of a claim with its interval and unit; a dash for one that was not run."""
    if claim["value"] is None:
        return "—"
    interval = "" if claim["low"] is None or claim["high"] is None else f" [{claim['low']:.4g}, {claim['high']:.4g}]"
    unit = f" {claim['unit']}" if claim["unit"] else ""
    return f"{claim['value']:.4g}{interval}{unit}"


def counts(result: Mapping[str, Any]) -> str:
    """How many claims there are of each verdict: `7 PASS, 1 FAIL`."""
    tally = Counter(claim["verdict"] for claim in result["claims"])
    return ", ".join(f"{tally[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "NOT RUN") if tally[verdict]) or "no claims"


def find_run(name: str, out: Path) -> Path:
    """The run folder at this path, else the newest finished run of the experiment with this name below `out`."""
    if (Path(name) / "result.json").is_file():
        return Path(name)
    if Path(name).is_dir():
        raise ConfigError(f"{name} holds no finished run (no result.json); name a folder such as reports/<experiment>/<run>")
    experiment = discovery.find(name)
    runs = run.finished_runs(out, experiment.name)
    if not runs:
        raise ConfigError(
            f"{experiment.id} has no finished run in {out}; start `interp run {experiment.id} --quick` or name another --out"
        )
    return runs[-1]


def _target(claim: Mapping[str, Any]) -> str:
    return f"  target {claim['target']}" if claim["target"] else ""
