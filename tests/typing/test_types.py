"""mypy and Pyright on what users write: accepted.py passes, marked lines of refused.py fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ACCEPTED = HERE / "accepted.py"
REFUSED = HERE / "refused.py"

#: Line -> codes.
Found = dict[int, set[str]]

#: A marked line: the code that mypy must give, then Pyright's rule.
MARK = re.compile(r"#\s*refused:\s*(\S+)\s+(\S+)\s*$")


def expected(checker: int) -> dict[int, str]:
    """Return line -> code of the marked lines; ``checker`` 1 is mypy, 2 Pyright."""
    lines = enumerate(REFUSED.read_text().splitlines(), start=1)
    return {number: mark.group(checker) for number, line in lines if (mark := MARK.search(line))}


def mypy(path: Path) -> Found:
    command = [sys.executable, "-m", "mypy", "--output", "json", str(path)]
    found: Found = {}
    for line in filter(None, run(command).splitlines()):
        error = json.loads(line)
        if error["severity"] == "error":
            found.setdefault(error["line"], set()).add(error["code"])
    return found


def pyright(path: Path, config: Path) -> Found:
    # With a file of its own, because Pyright looks at no file that the project's excludes.
    settings: dict[str, Any] = {
        "include": [os.path.relpath(path, config.parent)],
        "extraPaths": [str(ROOT / "src"), str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
        "reportUnknownMemberType": False,
        "reportUnknownVariableType": False,
        "reportUnknownArgumentType": False,
        "reportUntypedFunctionDecorator": False,
    }
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    report = json.loads(run([*command, "-p", str(config)]))
    assert report["summary"]["filesAnalyzed"] == 1
    found: Found = {}
    for error in report["generalDiagnostics"]:
        if error["severity"] == "error":
            line = error["range"]["start"]["line"] + 1
            found.setdefault(line, set()).add(error.get("rule", "syntax"))
    return found


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def judge(found: Found, wanted: dict[int, str]) -> tuple[dict[int, str], Found]:
    """Return the marked lines that were not refused with their code, and unmarked ones refused."""
    missed = {line: code for line, code in wanted.items() if code not in found.get(line, ())}
    return missed, {line: codes for line, codes in found.items() if line not in wanted}


def test_mypy_accepts_what_is_right() -> None:
    assert mypy(ACCEPTED) == {}


def test_mypy_refuses_what_is_wrong() -> None:
    assert judge(mypy(REFUSED), expected(1)) == ({}, {})


def test_pyright_accepts_what_is_right(tmp_path: Path) -> None:
    assert pyright(ACCEPTED, tmp_path / "pyrightconfig.json") == {}


def test_pyright_refuses_what_is_wrong(tmp_path: Path) -> None:
    assert judge(pyright(REFUSED, tmp_path / "pyrightconfig.json"), expected(2)) == ({}, {})
