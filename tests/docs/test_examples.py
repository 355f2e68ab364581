"""Run every example of README.md and docs/ as its reader would: real files, a real worker.

A page is one story, told in a folder of its own that holds nothing else. Its fenced blocks mean:

- `python` whose first line is `# name.py`: a file of that name; `# name.py, continued` adds to it.
  All files are written before the story begins, so the worker knows every task of the page. The
  same goes for `toml`; without such a line it only shows something.
- any other `python` block: a program, run in the folder to its end, which must be a good one.
- `pycon`: a session in the interpreter; what it prints is compared, as doctest does (`...` stands
  for anything). All sessions of a page are one.
- `console`: `$ umbel worker ...` starts a worker for the rest of the page; every other command is
  run to its end, and the lines after it are compared with what it prints, if there are any.

A page with a session or program but no worker of its own gets `umbel worker -A tasks`. A block that
cannot be run says why, in an HTML comment before it: `<!-- not run: needs two machines -->`.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import Server, running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("api/*.md"))]

#: Seconds one program, session or command of a page may take.
TIMEOUT = 30.0

FENCE = re.compile(
    r"(?P<excuse><!-- not run: [^>]+-->\s*\n)?"
    r"^```(?P<language>python|toml|pycon|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE_NAME = re.compile(r"# (?P<name>\w+\.(?:py|toml))(?P<continued>, continued)?\n")


class Block(NamedTuple):
    language: str
    text: str


class Folder:
    """Where a page's story happens: its files, its environment, and the worker's log."""

    def __init__(self, path: Path) -> None:
        self.path = path / "project"
        self.path.mkdir()
        (self.path / "pyproject.toml").touch()  # so that no folder above counts as the project
        programs = Path(sys.executable).parent
        self.environment = {
            "HOME": str(path),
            "XDG_STATE_HOME": str(path / "state"),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def write(self, block: Block) -> None:
        heading = FILE_NAME.match(block.text)
        assert heading is not None
        with (self.path / heading["name"]).open("a" if heading["continued"] else "w") as file:
            file.write(block.text)

    def run(self, command: list[str]) -> str:
        """Run a command to its good end; return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def worker(self, command: str) -> Generator[Server]:
        """Run a worker; if the block in it fails, show what the worker had to say."""
        log = self.path / "worker.log"
        server = Server(
            shlex.split(command),
            url=command,
            log=log,
            ready=lambda: any(line.endswith("ready.") for line in log.read_text().splitlines()),
            environment=self.environment,
            directory=self.path,
        )
        try:
            with running(server):
                yield server
        except AssertionError as error:
            error.add_note(f"the worker's log:\n{log.read_text()}")
            raise


def blocks_of(page: Path) -> Iterator[Block]:
    for fence in FENCE.finditer(page.read_text()):
        if not fence["excuse"]:
            yield Block(fence["language"], fence["text"])


def is_file(block: Block) -> bool:
    return block.language in ("python", "toml") and FILE_NAME.match(block.text) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_page(page: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    blocks = list(blocks_of(page))
    for block in filter(is_file, blocks):
        folder.write(block)
    story = [block for block in blocks if not is_file(block) and block.language != "toml"]
    with contextlib.ExitStack() as stack:
        if story and not any("$ umbel worker" in block.text for block in story):
            stack.enter_context(folder.worker("umbel worker -A tasks"))
        session = ""
        for block in story:
            match block.language:
                case "python":
                    folder.run([sys.executable, "-c", block.text])
                case "pycon":
                    session += block.text + "\n"
                case _:
                    run_console(folder, block, stack)
        run_session(folder, session)


def run_session(folder: Folder, session: str) -> None:
    if session:
        (folder.path / "session.txt").write_text(session)
        folder.run([sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "session.txt"])


def run_console(folder: Folder, block: Block, stack: contextlib.ExitStack) -> None:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        if command.startswith("umbel worker"):
            stack.enter_context(folder.worker(command))
            continue
        printed = folder.run(shlex.split(command))
        if expected.strip():
            same = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
            assert same, f"{command} printed\n{printed}\nthe page says\n{expected}"
