"""The table that a benchmark prints: measurements, their targets, and whether they are met."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table. `target` is "" for lines that are there to compare with."""

    name: str
    value: float
    unit: str
    target: str = ""
    passed: bool | None = None


def show(rows: Sequence[Row], kept: Path | None) -> int:
    """Prints the rows, and writes them to `kept`, one JSON object per line. The exit code: 1 when a target is missed."""
    for row in rows:
        verdict = {None: "", True: "PASS", False: "FAIL"}[row.passed]
        print(f"{row.name:58} {row.value:10.3f} {row.unit:22} {row.target:10} {verdict}")
    if kept is not None:
        kept.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return int(any(row.passed is False for row in rows))
