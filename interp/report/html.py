"""The page: a report, the index or one view as a single HTML file that needs nothing else and runs nothing from its data.

Every value passes autoescaping after its invisible characters were made visible; scripts build the page through textContent only;
the content policy allows this page's own style and script, by hash, and images inside the file. Where a view has files beside the
page, it allows what that script itself loads.

Must not know: files on disk other than the templates, how any number was made.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from interp.errors import ReportError
from interp.report import ledger, payload
from interp.report.claims import VERDICTS
from interp.report.report import File, Report, Table
from interp.report.text import number, visible
from interp.report.views import View

_SCRIPTS = {"report": ("core", "tables", "tokens", "features", "attention", "circuit"), "index": ("tables",)}
_STYLES = {"report": ("base", "views", "circuit"), "index": ("base",)}
MAX_LINK_BYTES = 1_000_000
FRAME_HEIGHT = 720


def report_page(report: Report, *, seconds: float, provenance: Mapping[str, Any]) -> str:
    """The whole of report.html. `provenance` are the rows of the foot of the page: command, commit, versions …."""
    counts = {verdict: sum(claim.verdict == verdict for claim in report.claims) for verdict in VERDICTS}
    rows = {key: str(value) for key, value in provenance.items()}
    loads = any(view.files for view in report.blocks("view"))
    return _render("report.html", "report", loads=loads, report=report, counts=counts, seconds=seconds, provenance=rows)


def index_page(runs: Sequence[Any], broken: Sequence[Any]) -> str:
    """reports/index.html over the runs that index.py has read, and the ones it could not read."""
    return _render("index.html", "index", runs=runs, broken=broken)


def view_page(view: View) -> str:
    """A page with one view and nothing else. Raises ReportError for a view that reads files from beside its page."""
    if view.files():
        raise ReportError(f"the view {view.name!r} is too large for one page; show fewer of its parts, or write it with a report")
    return _render("view.html", "report", view=view, payload=view.payload())


def frame(view: View) -> str:
    """An element for notebooks: the view's page in a sandboxed frame that can run its script and reach nothing."""
    title, page = escape(visible(view.title)), escape(view_page(view))
    size = f'width="100%" height="{FRAME_HEIGHT}" style="border:0"'
    return f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" {size} srcdoc="{page}"></iframe>'


def data_uri(text: str, mime: str) -> str:
    """The text as a data: URI, in base64."""
    return f"data:{mime};base64,{base64.b64encode(text.encode()).decode('ascii')}"


def csv_link(table: Table) -> str:
    """Where a table's CSV is: in the page itself, or in the run folder when it is over 1 MB, which browsers may not follow."""
    return _link(table.csv, "text/csv", table.path)


def file_link(file: File) -> str:
    """Where a file is, in the same way."""
    return _link(file.text, "text/plain;charset=utf-8", file.path)


def _link(text: str, mime: str, path: str) -> str:
    return data_uri(text, mime) if len(text) <= MAX_LINK_BYTES else path


def _render(template: str, assets: str, *, loads: bool = False, **values: Any) -> str:
    style = "\n".join(_asset(f"{name}.css") for name in _STYLES[assets])
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS[assets]) + "\n})();"
    loading = " 'strict-dynamic'" if loads else ""
    own = f"script-src '{_hash(script)}'{loading}; style-src '{_hash(style)}'"
    policy = f"default-src 'none'; {own}; img-src data:; base-uri 'none'; form-action 'none'"
    page = _environment().get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=policy, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interp.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "data_uri": data_uri, "csv_link": csv_link, "bar": ledger.bar, "duration": duration}
    environment.filters["file_link"] = file_link
    environment.filters["script_json"] = lambda value: Markup(payload.script_json(value))
    return environment


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def duration(seconds: float) -> str:
    """Seconds to read: "0.4 s", "12 s", "3 min 20 s", "1 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


@functools.cache
def _asset(name: str) -> str:
    return jinja2.PackageLoader("interp.report").get_source(_environment(), name)[0].strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
