"""The run folder: figures and data first, then the page, then `result.json`, which says that the rest is there.

Must not know: how a page looks, how any number was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import ReportError
from interp.report import html
from interp.report.report import Report

SCHEMA = 1


def write(report: Report, folder: str | Path, provenance: Mapping[str, Any], *, seconds: float) -> Path:
    """Writes report.html, result.json, figures/*.svg, data/* and shards/*.js under `folder`; returns the path of report.html.

    provenance: rows for the foot of the page, e.g. {"command": …, "commit": …}; values are shown as text.
    Every file appears whole or not at all, and result.json last. Raises ReportError when a file cannot be written.
    """
    root = Path(folder)
    contents = {block.path: block.csv for block in report.blocks("table")}
    for figure in report.blocks("figure"):
        contents |= {figure.path: figure.svg, figure.data.path: figure.data.csv}
    for view in report.blocks("view"):
        contents |= view.files
    contents |= {file.path: file.text for file in report.blocks("file")}
    contents["report.html"] = html.report_page(report, seconds=seconds, provenance=provenance)
    contents["result.json"] = json.dumps(result(report, seconds=seconds), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    for path, text in contents.items():
        write_text(root / path, text)
    return root / "report.html"


def result(report: Report, *, seconds: float) -> dict[str, Any]:
    """The contract other programs read, schema 1; every number in it is finite, an absent one is None."""
    return {
        "schema": SCHEMA,
        "experiment": report.experiment,
        "title": report.title,
        "quick": report.quick,
        "seed": report.seed,
        "seconds": round(seconds, 3),
        "claims": [claim.record() for claim in report.claims],
        "tables": [_entry(table, table.path) for table in report.blocks("table")],
        "figures": [_entry(figure, figure.data.path) for figure in report.blocks("figure")],
    }


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all. Raises ReportError with the cause when it cannot be written."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(text.encode("utf-8", errors="replace"))  # a lone surrogate has no UTF-8
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error


def _entry(block: Any, data: str) -> dict[str, str]:
    return {"name": block.name, "caption": block.caption, "path": block.path, "data": data}
