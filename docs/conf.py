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
