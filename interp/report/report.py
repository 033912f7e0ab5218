"""`Report`: what an experiment says. It collects claims, text, tables, figures and views, in sections, and writes nothing.

Must not know: HTML, files, models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat

from interp.errors import ReportError
from interp.report import text as texts
from interp.report.claims import Claim, Target, Value, Verdict, check_slug, overall
from interp.report.views import View
from interp.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure

TABLE_ROWS_SHOWN = 200


@dataclass(frozen=True)
class Text:
    """Paragraphs and lists."""

    paragraphs: list[texts.Paragraph]
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table: cells to read (the first 200 rows), and all of it as CSV at `path` in the run folder."""

    name: str
    caption: str
    path: str
    columns: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    n_rows: int
    csv: str
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG at `path`, what it shows in words, and the table it was drawn from."""

    name: str
    caption: str
    alt: str
    path: str
    svg: str
    data: Table
    kind: str = "figure"


@dataclass(frozen=True)
class ViewBlock:
    """A view, its packed payload, and what it reads from beside the page: files by path."""

    view: View
    payload: str
    files: dict[str, str]
    kind: str = "view"


@dataclass(frozen=True)
class File:
    """A text for other programs, at `path` in the run folder, and what it is."""

    name: str
    caption: str
    path: str
    text: str
    kind: str = "file"


Block = Text | Table | Figure | ViewBlock | File


@dataclass
class Section:
    """A heading and what stands under it; the first section of a report has no heading."""

    title: str
    slug: str
    blocks: list[Block] = field(default_factory=list)


class Report:
    """What one run has to say.

    experiment: its id, such as "E08"; claim ids start with it.
    """

    def __init__(self, experiment: str, title: str, *, quick: bool = False, seed: int = 0) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", experiment):
            raise ReportError(f"experiment id {experiment!r} is not a plain word; use letters, digits, - and _, such as 'E08'")
        self.experiment, self.title, self.quick, self.seed = experiment, title, quick, seed
        self.claims: list[Claim] = []
        self.sections = [Section("", "")]
        self._taken: set[tuple[str, str]] = set()

    @property
    def verdict(self) -> Verdict:
        """FAIL if any claim fails, PASS if all pass, NOT RUN otherwise."""
        return overall([claim.verdict for claim in self.claims])

    def claim(
        self,
        slug: str,
        text: str,
        estimate: Estimate | SupportsFloat,
        *,
        at_least: SupportsFloat | None = None,
        at_most: SupportsFloat | None = None,
        between: tuple[SupportsFloat, SupportsFloat] | None = None,
        equals: SupportsFloat | None = None,
        tolerance: SupportsFloat | None = None,
        unit: str = "",
        source: str = "",
        control: Estimate | SupportsFloat | None = None,
        control_text: str = "",
    ) -> Claim:
        """Adds a line to the ledger and returns it with its verdict.

        Exactly one target. The whole interval must reach it: the lower end for `at_least`, the upper for `at_most`, both for
        `between` and for `equals` (within `tolerance`); a plain number stands for its own interval.
        `control` is the same quantity under the control that `control_text` names.

        Raises ReportError for a slug used twice, no target or several, and numbers that are not finite.
        """
        name = self._claim_id(slug)
        try:
            target = Target.parse(at_least=at_least, at_most=at_most, between=between, equals=equals, tolerance=tolerance)
        except ReportError as error:
            raise ReportError(f"claim {name}: {error}") from None
        measured = Value.of(estimate, what=f"claim {name}: value")
        beside = None if control is None else Value.of(control, what=f"claim {name}: control")
        words = {"text": text, "unit": unit, "source": source, "control_text": control_text}
        return self._add_claim(slug, Claim(id=name, measured=measured, target=target, control=beside, **words))

    def not_run(self, slug: str, text: str, reason: str, *, source: str = "") -> Claim:
        """Adds a claim that could not be tested here, and why."""
        if not reason.strip():
            raise ReportError(f"claim {self.experiment}.{slug} was not run, for no reason given; say why, such as 'needs a GPU'")
        return self._add_claim(slug, Claim(id=self._claim_id(slug), text=text, source=source, reason=reason))

    def section(self, title: str) -> None:
        """Starts a section: what is added from here on stands under this heading."""
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        self._take("section", slug or "section", title)
        self.sections.append(Section(title, f"section-{slug or 'section'}"))

    def text(self, text: str) -> None:
        """Adds paragraphs (parted by blank lines); `- ` lists, `code`, **strong** and *em* are understood, nothing else is."""
        self._add(Text(texts.paragraphs(text)))

    def table(self, name: str, table: pd.DataFrame | Sequence[dict[str, Any]], *, caption: str = "") -> None:
        """Adds a table; the run folder keeps all of it as data/<name>.csv."""
        self._take("table", check_slug(name, what="table"), name)
        self._add(_table(name, table, caption, f"data/{name}.csv"))

    def figure(
        self, name: str, figure: MatplotlibFigure, *, caption: str, alt: str, data: pd.DataFrame | Sequence[dict[str, Any]]
    ) -> None:
        """Adds a drawing (figures/<name>.svg), what it shows in words, and the numbers behind it (data/figure-<name>.csv).

        The figure is drawn at once; changing it later does not change the report.
        """
        from interp import figures  # imported here: matplotlib takes half a second that reports without figures need not spend

        self._take("figure", check_slug(name, what="figure"), name)
        if not alt.strip():
            raise ReportError(f"figure {name!r} has no alt text; say in a sentence what it shows")
        shown = _table(name, data, f"Data of the figure: {caption}", f"data/figure-{name}.csv")
        self._add(Figure(name, caption, alt, f"figures/{name}.svg", figures.svg(figure), shown))

    def view(self, view: View) -> None:
        """Adds a view to browse. Raises ReportError for data that do not fit together and for a view name used twice."""
        packed = view.payload()
        self._take("view", view.name, view.name)
        self._add(ViewBlock(view, packed, view.files()))

    def file(self, name: str, text: str, *, caption: str) -> None:
        """Adds a text for other programs; the run folder keeps it as data/<name>. Raises ReportError for a name no file has."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*\.[a-z]+", name):
            raise ReportError(f"file name {name!r}: use lower-case letters, digits and -, then an ending, such as 'circuit.dot'")
        self._take("file", name, name)
        self._add(File(name, caption, f"data/{name}", text))

    def blocks(self, kind: str) -> list[Any]:
        """All blocks of one kind ("table", "figure", …), in order."""
        return [block for section in self.sections for block in section.blocks if block.kind == kind]

    def _claim_id(self, slug: str) -> str:
        return f"{self.experiment}.{check_slug(slug, what='claim')}"

    def _add_claim(self, slug: str, claim: Claim) -> Claim:
        self._take("claim", slug, claim.id)
        self.claims.append(claim)
        return claim

    def _add(self, block: Block) -> None:
        self.sections[-1].blocks.append(block)

    def _take(self, kind: str, key: str, shown: str) -> None:
        if (kind, key) in self._taken:
            raise ReportError(f"{kind} {shown!r} is in the report already; give each {kind} its own name")
        self._taken.add((kind, key))


def _table(name: str, data: pd.DataFrame | Sequence[dict[str, Any]], caption: str, path: str) -> Table:
    import pandas as pd

    frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame(list(data))
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    if frame.shape[1] == 0:
        raise ReportError(f"table {name!r} has no columns; give a DataFrame or a list of dicts with the same keys")
    head = frame.head(TABLE_ROWS_SHOWN)
    cells = [texts.column(head.iloc[:, place].tolist()) for place in range(head.shape[1])]
    rows = [list(row) for row in zip(*cells, strict=True)]
    numeric = [pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes]
    csv = frame.to_csv(index=False, lineterminator="\n")
    return Table(name, caption, path, [str(column) for column in frame.columns], numeric, rows, len(frame), csv)
