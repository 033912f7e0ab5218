"""Reports: claims with verdicts, tables, figures and views, as one self-contained HTML page and a JSON contract.

claims.py     a claim, its target and its verdict          views.py, features.py   what a reader can browse
report.py     what an experiment says, collected           payload.py              how a view's numbers travel in the page
html.py       the page (templates/ holds HTML, CSS, JS)    ledger.py               where a claim's interval is drawn
files.py      the run folder and result.json               index.py                reports/index.html over all runs
text.py       numbers and characters as a reader sees them

Must not know: models, tensors, how any number was made.
"""

from interp.report.circuit_view import CircuitView
from interp.report.claims import Claim, Target, Value, Verdict
from interp.report.features import Example, Feature, FeatureDashboard, Rule
from interp.report.files import write
from interp.report.index import rebuild_index
from interp.report.report import Report
from interp.report.views import AttentionView, AttributionView, TokenView, View

__all__ = [
    "AttentionView",
    "AttributionView",
    "CircuitView",
    "Claim",
    "Example",
    "Feature",
    "FeatureDashboard",
    "Report",
    "Rule",
    "Target",
    "TokenView",
    "Value",
    "Verdict",
    "View",
    "rebuild_index",
    "write",
]
