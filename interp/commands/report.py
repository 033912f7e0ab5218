"""`interp report`: all experiments one after the other, each in a process of its own, then the index of their reports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.cli import Answer
from interp.commands.ledger import counts
from interp.experiment import discovery, flags, run
from interp.experiment.discovery import Experiment
from interp.experiment.progress import note


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and runs all."""
    return flags.call(report, argv, prog=prog)


@dataclass(frozen=True)
class Ended:
    """How one experiment ended: what to say of it, and whether it left a report."""

    experiment: Experiment
    text: str
    seconds: float
    finished: bool


def report(*, quick: bool = True, out: Path = flags.REPORTS, resume: bool = False) -> Answer:
    """Runs every experiment and builds the index. Goes on after one that fails.

    The exit code is 1 when an experiment did not finish. A claim that fails is a finding: it is shown, and the exit code of
    `interp run` follows it, but the reports are all there.

    Args:
        quick: the quick form of each
        out: the folder that holds the runs
        resume: keep runs that are finished already
    """
    experiments = discovery.discover()
    started, ended = time.monotonic(), []
    for number, experiment in enumerate(experiments, 1):
        note(f"[{number}/{len(experiments)}] {experiment.id}  {experiment.title}")
        ended.append(_run_apart(experiment, quick=quick, out=out, resume=resume))
        note(f"[{number}/{len(experiments)}] {experiment.id}  {ended[-1].text}, {ended[-1].seconds:.0f} s")
    width = max((len(each.experiment.name) for each in ended), default=0)
    lines = [f"{each.experiment.id:<5} {each.experiment.name:<{width}}  {each.seconds:6.0f} s  {each.text}" for each in ended]
    out.mkdir(parents=True, exist_ok=True)
    index = run.update_index(out).resolve()
    total = f"{sum(each.finished for each in ended)} of {len(ended)} experiments finished in {time.monotonic() - started:.0f} s"
    return Answer("\n".join([*lines, "", total, f"index: {index}"]), int(not all(each.finished for each in ended)))


def _run_apart(experiment: Experiment, *, quick: bool, out: Path, resume: bool) -> Ended:
    """One experiment in a process of its own: what kills it leaves the others alone, and its peak memory is its own."""
    options = [*(["--quick"] if quick else []), *(["--resume"] if resume else []), "--out", str(out)]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "interp", "run", experiment.id, *options], stdout=subprocess.PIPE, check=False)
    seconds = time.monotonic() - started
    if done.returncode not in (0, 1):
        return Ended(experiment, f"DID NOT FINISH (exit code {done.returncode}; its error stands above)", seconds, False)
    return Ended(experiment, counts(run.read_result(run.finished_runs(out, experiment.name)[-1])), seconds, True)
