"""`reports/index.html`: one row for each run that left a result.json behind, rebuilt from nothing but the run folders.

Must not know: how a page looks, how any number was made.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from interp.errors import ReportError
from interp.report import html
from interp.report.claims import VERDICTS, Verdict, overall
from interp.report.files import SCHEMA, write_text

MAX_THUMBNAIL_BYTES = 300_000


@dataclass(frozen=True)
class Run:
    """One row of the index; links are relative to the reports folder."""

    experiment: str
    title: str
    link: str
    result_link: str
    verdict: Verdict
    counts: dict[str, int]
    date: str
    seconds: float
    seed: int
    quick: bool
    thumbnail: str

    @property
    def summary(self) -> str:
        """The verdicts in words: "4 pass · 1 fail"."""
        return " · ".join(f"{self.counts[verdict]} {verdict.lower()}" for verdict in VERDICTS if verdict in self.counts) or "none"


@dataclass(frozen=True)
class Broken:
    """A result.json that could not be read, and why."""

    path: str
    reason: str


def rebuild_index(folder: str | Path) -> Path:
    """Writes index.html in the reports folder from every result.json below it, and returns its path; broken ones are listed."""
    root = Path(folder)
    if not root.is_dir():
        raise ReportError(f"there is no reports folder {root}; run an experiment first, such as `interp run E08 --quick`")
    runs, broken = [], []
    for path in sorted(root.rglob("result.json")):
        try:
            runs.append(_run(path, root))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            broken.append(Broken(path.relative_to(root).as_posix(), f"{type(error).__name__}: {error}"))
    runs.sort(key=lambda run: run.date, reverse=True)
    runs.sort(key=lambda run: run.experiment)  # by experiment, newest first in each
    write_text(root / "index.html", html.index_page(runs, broken))
    return root / "index.html"


def _run(path: Path, root: Path) -> Run:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["schema"] != SCHEMA:
        raise ReportError(f"schema {result['schema']!r}, expected {SCHEMA}")
    verdicts = [claim["verdict"] for claim in result["claims"]]
    if unknown := set(verdicts) - set(VERDICTS):
        raise ReportError(f"unknown verdict {sorted(unknown)[0]!r}")
    return Run(
        experiment=str(result["experiment"]),
        title=str(result["title"]),
        link=_link(path.with_name("report.html"), root),
        result_link=_link(path, root),
        verdict=overall(verdicts),
        counts=dict(Counter(verdicts)),
        date=_date(path),
        seconds=float(result["seconds"]),
        seed=int(result["seed"]),
        quick=bool(result["quick"]),
        thumbnail=_thumbnail(path.parent, result["figures"]),
    )


def _link(path: Path, root: Path) -> str:
    return "./" + quote(path.relative_to(root).as_posix())


def _date(path: Path) -> str:
    """When the run ended: result.json is its last file."""
    return datetime.fromtimestamp(path.stat().st_mtime, tz=timezone.utc).strftime("%Y-%m-%d %H:%M")


def _thumbnail(folder: Path, figures: list[dict[str, Any]]) -> str:
    if not figures:
        return ""
    path = (folder / figures[0]["path"]).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > MAX_THUMBNAIL_BYTES:
        return ""
    return html.data_uri(path.read_text(encoding="utf-8"), "image/svg+xml")
