"""Experiments: found by name, run from settings, leaving a folder that says what ran and what it found.

    if __name__ == "__main__":
        experiment.main(Config, run)

`python experiments/NAME.py` and `interp run NAME` are the same thing. While it runs, an experiment may say how far it is
(`progress`, `note`), time its parts (`stage`) and name what it read (`source`).

Must not know: any science.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.experiment.progress import note, progress
from interp.experiment.recording import source, stage

__all__ = ["main", "note", "progress", "source", "stage"]


def main(config: type, run: Callable[[Any, Any], None]) -> None:
    """Runs the script that this is called from with the flags of the command line, and exits with the code of its claims."""
    from interp import cli
    from interp.commands.run import run_experiment
    from interp.experiment import discovery

    module = sys.modules[run.__module__]

    def command() -> cli.Answer:
        parts = discovery.definition(module, config, run)
        return run_experiment(discovery.read(Path(str(module.__file__))), parts, sys.argv[1:], prog=f"python {sys.argv[0]}")

    sys.exit(cli.answered(command))
