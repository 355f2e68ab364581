"""Sphinx configuration: `make docs` builds docs/_build/html with warnings as errors."""

from importlib.metadata import version as version_of

project = "umbel"
author = "The umbel authors"
copyright = "2025, The umbel authors"
release = version_of("umbel")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"umbel {release}"
