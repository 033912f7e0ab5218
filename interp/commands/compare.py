"""`interp compare A B`: two runs side by side, claim by claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from interp.cli import Answer
from interp.commands.ledger import find_run, measured
from interp.experiment import flags, manifest, run


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and compares."""
    return flags.call(compare, argv, prog=prog)


def compare(a: Positional[str], b: Positional[str], *, out: Path = flags.REPORTS) -> Answer:
    """The claims of two runs side by side, and the settings in which they differ.

    Args:
        a: a run folder, or an experiment (its newest run)
        b: the same
        out: the folder that holds the runs
    """
    folders = [find_run(name, out) for name in (a, b)]
    first, second = (run.read_result(folder) for folder in folders)
    heads = [f"a: {folders[0]}", f"b: {folders[1]}"]
    settings = settings_table(*(manifest.read(folder) or {} for folder in folders))
    return Answer("\n".join([*heads, "", *settings, *claims_table(first, second)]))


def claims_table(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A line for each claim of either run: verdicts and values of both, marked `≠` where the verdicts differ."""
    sides = [{claim["id"]: claim for claim in result["claims"]} for result in (a, b)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    width = max(map(len, names), default=0)
    lines = []
    for name in names:
        cells = [f"{side[name]['verdict']} {measured(side[name])}" if name in side else "absent" for side in sides]
        verdicts = {side[name]["verdict"] if name in side else "absent" for side in sides}
        lines.append(f"{' ' if len(verdicts) == 1 else '≠'} {name:<{width}}  {cells[0]}  |  {cells[1]}")
    return lines


def settings_table(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs between two manifests."""
    first, second = a.get("config", {}), b.get("config", {})
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    return [f"  {key}: {first.get(key)} | {second.get(key)}" for key in keys] + ([""] if keys else [])
