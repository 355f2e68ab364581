"""``python -m umbel``: the command line, with this interpreter."""

from __future__ import annotations

from umbel.cli.main import main

main()
