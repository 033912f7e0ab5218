"""A toy experiment, so that the runner and the command line are tested without any real one."""

import textwrap

TOY = textwrap.dedent('''
    """Does two plus two make four? (Peano 1889)

    More words.
    """

    from dataclasses import dataclass, field
    from pathlib import Path
    from typing import Literal

    from interp import experiment

    ID = "E90"


    @dataclass(frozen=True, kw_only=True)
    class Optimiser:
        learning_rate: float = 1e-3  # step size
        steps: int = 100


    @dataclass(frozen=True, kw_only=True)
    class Config:
        addend: int = 2  # what is added to two
        kind: Literal["sum", "crash", "mistake", "full"] = "sum"
        sizes: tuple[int, ...] = (1, 2)
        note: str | None = None
        place: Path | None = None
        optimiser: Optimiser = field(default_factory=Optimiser)
        seed: int = 0


    QUICK = {"sizes": (1,), "optimiser": {"steps": 3}}


    def run(config, report):
        with experiment.stage("add"):
            total = 2 + config.addend
        experiment.source("model toy", "abc123")
        if config.kind == "crash":
            raise RuntimeError("the toy broke")
        if config.kind == "mistake":
            raise experiment_errors.ModelError("no such model;\\n  use another")
        if config.kind == "full":
            raise OSError(28, "No space left on device", "somewhere")
        report.claim("sum", "two plus two", total, equals=4, source="Peano 1889", control=5.0, control_text="two plus three")
        report.not_run("product", "two times two", "nobody asked")
        report.table("sizes", [{"size": size} for size in config.sizes])


    from interp import errors as experiment_errors

    if __name__ == "__main__":
        experiment.main(Config, run)
''').lstrip()
