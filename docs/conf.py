"""Sphinx configuration: MyST Markdown, the furo theme, API pages from docstrings."""

project = "interp"
author = "the interp authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "interp"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
autodoc_typehints = "description"
suppress_warnings = ["myst.xref_missing"]


def _bars_as_they_are(app, what, name, obj, options, lines):
    """Docstrings write |x| for sizes, which reStructuredText would take for a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _bars_as_they_are)
