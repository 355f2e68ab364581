"""Sphinx configuration: `make docs` builds docs/_build/html with warnings as errors."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

project = "umbel"
author = "The umbel authors"
copyright = "2025, The umbel authors"
release = version_of("umbel")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True
# Signatures stand with their parameters alone: the types are for type checkers and editors.
autodoc_typehints = "none"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"umbel {release}"


def _drop_essays(
    _app: Any, what: str, _name: str, _what: Any, _options: Any, lines: list[str]
) -> None:
    # The essay of a module is for readers of its code, often with a drawing in plain text.
    if what == "module":
        lines.clear()


def setup(app: Any) -> None:
    """Connect what is ours."""
    app.connect("autodoc-process-docstring", _drop_essays)
