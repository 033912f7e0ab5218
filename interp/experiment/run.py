"""One run of one experiment, from its settings to a finished folder.

A run is written beside its place, in a folder that ends in `.unfinished`, and moved there whole: a crash never costs the finished
run that was there before, and a folder with a manifest is complete.

Must not know: any science, the command line.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from interp.errors import ReportError
from interp.experiment import manifest, settings
from interp.experiment.discovery import Definition, Experiment
from interp.experiment.flags import Request
from interp.experiment.recording import recording

UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Outcome:
    """A finished run: its folder, its `result.json`, and whether it was there already."""

    folder: Path
    result: dict[str, Any]
    kept: bool = False

    @property
    def code(self) -> int:
        """The exit code that follows the claims: 1 when one fails, else 0."""
        return int(any(claim["verdict"] == "FAIL" for claim in self.result["claims"]))


def run_name(config: Any, *, quick: bool) -> str:
    """The folder of a run: the same settings give the same name, different ones another."""
    seed = f"seed{config.seed}-" if hasattr(config, "seed") else ""
    return f"{'quick' if quick else 'full'}-{seed}{settings.config_hash(config)[:10]}"


def execute(experiment: Experiment, definition: Definition, request: Request, *, command: Sequence[str]) -> Outcome:
    """Runs the experiment and leaves its folder, `<out>/<experiment>/<run>/`, complete; brings the index up to date.

    command: the command line, for the manifest.

    With `resume`, a finished run with the same settings and script is kept as it is; an unfinished or outdated one
    starts again. Raises ReportError when the folder cannot be written; what the experiment raises passes through and leaves
    the unfinished folder without a manifest.
    """
    folder = request.options.out / experiment.name / run_name(request.config, quick=request.options.quick)
    if request.options.resume and (result := _finished(folder, experiment, request)) is not None:
        return Outcome(folder, result, kept=True)
    unfinished = folder.with_name(folder.name + UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / "config.yaml").write_text(_config_yaml(experiment, request), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write a run to {unfinished}: {error.strerror}; choose another folder with --out") from None
    lines = {"command": shlex.join(command), "rerun": shlex.join(["interp", "rerun", str(folder)])}
    _run(experiment, definition, request, unfinished, lines)
    _move(unfinished, folder)
    update_index(request.options.out)
    return Outcome(folder, read_result(folder))


def update_index(out: Path) -> Path:
    """Builds `<out>/index.html` anew from the runs below it."""
    from interp.report import rebuild_index

    return rebuild_index(out)


def finished_runs(out: Path, name: str = "*") -> list[Path]:
    """Folders of the finished runs below `out`, of one experiment or of all, oldest first."""
    folders = [path.parent for path in out.glob(f"{name}/*/{manifest.NAME}") if not path.parent.name.endswith(UNFINISHED)]
    return sorted(folders, key=lambda folder: (folder / manifest.NAME).stat().st_mtime_ns)


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json` of a run. Raises ReportError where there is none, or a broken one."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder} holds no result of a run: {error}") from None


def _run(experiment: Experiment, definition: Definition, request: Request, folder: Path, lines: dict[str, str]) -> None:
    """Runs and writes everything; the manifest last."""
    from interp import report as reports

    started, clock = datetime.now(timezone.utc), time.perf_counter()
    seed, quick = getattr(request.config, "seed", 0), request.options.quick
    report = reports.Report(experiment.id, experiment.title, quick=quick, seed=seed)
    with recording() as notes:
        definition.run(request.config, report)
    seconds = time.perf_counter() - clock
    record = {
        "schema": manifest.SCHEMA,
        "experiment": experiment.id,
        "name": experiment.name,
        "title": experiment.title,
        "script": str(experiment.path),
        "script_sha256": experiment.sha256,
        **lines,
        "config": settings.plain(request.config),
        "config_hash": settings.config_hash(request.config),
        "quick": quick,
        "seed": seed,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "stages": notes.stages,
        "sources": notes.sources,
        "peak_memory_bytes": manifest.peak_memory_bytes(),
        "machine": manifest.machine(request.device),
        "packages": manifest.packages(),
        "git": manifest.git(experiment.path),
    }
    reports.write(report, folder, manifest.rows(record), seconds=seconds)
    manifest.write(folder, {**record, "files": manifest.file_hashes(folder)})


def _finished(folder: Path, experiment: Experiment, request: Request) -> dict[str, Any] | None:
    """The result of the run in `folder`, if it is complete and was made by this script with these settings."""
    record = manifest.read(folder)
    wanted = {"config_hash": settings.config_hash(request.config), "script_sha256": experiment.sha256}
    if record is None or any(record.get(key) != value for key, value in wanted.items()):
        return None
    return read_result(folder)


def _config_yaml(experiment: Experiment, request: Request) -> str:
    import yaml

    head = f"# Settings of {experiment.id}: {experiment.title}\n"
    return head + yaml.safe_dump(settings.plain(request.config), sort_keys=False, allow_unicode=True)


def _move(unfinished: Path, folder: Path) -> None:
    """Puts the finished run in its place; the one that was there goes only once the new one stands."""
    old = folder.with_name(f"{folder.name}.old{UNFINISHED}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
