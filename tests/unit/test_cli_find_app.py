"""From ``-A NAME`` to an application."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from umbel.cli.find_app import AppBroken, AppNotFound, find_app
from umbel.context import current_app_or_none, set_current_app

MAKE = "from umbel import Umbel\n{} = Umbel({!r}, set_as_current=False)\n"

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file into the current folder, from which modules are imported in this test."""
    before = set(sys.modules)
    app = current_app_or_none()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]
    set_current_app(app)


def made(name: str, main: str) -> str:
    return MAKE.format(name, main)


def test_an_attribute_is_named(write: Write) -> None:
    write("proj.py", made("one", "1") + made("two", "2"))
    assert find_app("proj:two").main == "2"


def test_an_attribute_may_lie_deeper(write: Write) -> None:
    write("proj.py", made("inner", "1") + "class Settings:\n    app = inner\n")
    assert find_app("proj:Settings.app").main == "1"


@pytest.mark.parametrize("name", ["app", "celery", "umbel", "celery_app"])
def test_a_module_has_it_under_a_usual_name(write: Write, name: str) -> None:
    write("proj.py", made("other", "no") + made(name, "yes"))
    assert find_app("proj").main == "yes"


def test_a_module_has_a_single_one_under_any_name(write: Write) -> None:
    write("proj.py", made("queue", "it") + "again = queue\n")
    assert find_app("proj").main == "it"


@pytest.mark.parametrize("name", ["celery", "umbel"])
def test_a_package_has_it_in_a_module(write: Write, name: str) -> None:
    write("proj/__init__.py", "")
    write(f"proj/{name}.py", made("app", "inside"))
    assert find_app("proj").main == "inside"


def test_a_package_that_imports_its_module_of_the_usual_name(write: Write) -> None:
    write("proj/__init__.py", "from . import celery\n")
    write("proj/celery.py", made("app", "inside"))
    assert find_app("proj").main == "inside"
    assert find_app("proj.celery").main == "inside"
    assert find_app("proj.celery:app").main == "inside"


def test_a_dotted_name_may_end_with_an_attribute(write: Write) -> None:
    write("proj/__init__.py", made("queue", "it"))
    assert find_app("proj.queue").main == "it"


def test_an_attribute_that_is_a_module(write: Write) -> None:
    write("proj/__init__.py", "from . import tasks\n")
    write("proj/tasks.py", made("app", "inside"))
    assert find_app("proj:tasks").main == "inside"


def refused(name: str) -> str:
    with pytest.raises(AppNotFound) as caught:
        find_app(name)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def test_no_such_module(write: Write) -> None:
    write("tasks.py", "")
    assert "no module 'taks' in" in refused("taks")
    assert refused("taks").endswith("did you mean 'tasks'?")
    assert "no module 'tasks.celery'" in refused("tasks.celery")


def test_no_such_attribute(write: Write) -> None:
    write("tasks.py", made("app", "1"))
    assert refused("tasks:ap").endswith("'tasks' has no attribute 'ap'; did you mean 'app'?")


def test_a_file_is_no_module() -> None:
    assert refused("proj/tasks.py").endswith(
        "expected a module's name, not a file's: -A proj.tasks"
    )
    assert refused("tasks.py").endswith("-A tasks")


@pytest.mark.parametrize("name", ["", ":app", "my-project", "a..b", "tasks:"])
def test_no_name(write: Write, name: str) -> None:
    write("tasks.py", made("app", "1"))
    assert "expected module or module:attribute" in refused(name)


def test_several_applications(write: Write) -> None:
    write("proj.py", made("one", "1") + made("two", "2"))
    assert refused("proj").endswith("say which: -A proj:one, -A proj:two")


def test_no_application(write: Write) -> None:
    write("proj.py", "x = 1\n")
    assert "there is no Umbel application in" in refused("proj")
    assert refused("proj:x").endswith("expected an Umbel application, got an object of class int")


def test_an_application_of_another_library(write: Write) -> None:
    write("proj.py", "class Flask: ...\napp = Flask()\n")
    assert refused("proj").endswith("proj.app is an object of class proj.Flask")


def broken(name: str) -> str:
    with pytest.raises(AppBroken) as caught:
        find_app(name)
    assert caught.value.exit_code == 1
    return caught.value.format_message()


def test_a_module_that_cannot_be_imported_says_where(write: Write, tmp_path: Path) -> None:
    write("proj.py", "x = 1\nimport not_there\n")
    where = f"({tmp_path}/proj.py, line 2)"
    found = broken("proj")
    assert found == (
        f"cannot import 'proj': ModuleNotFoundError: No module named 'not_there' {where}"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("def (:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_fails(write: Write, tmp_path: Path, text: str, error: str) -> None:
    write("proj/__init__.py", "")
    write("proj/celery.py", f"{text}\n")
    assert broken("proj") == (
        f"cannot import 'proj.celery': {error} ({tmp_path}/proj/celery.py, line 1)"
    )


def test_the_line_of_the_project_is_named_not_the_librarys(write: Write, tmp_path: Path) -> None:
    write("proj.py", "import json\n\njson.loads('{')\n")
    assert broken("proj").endswith(f"({tmp_path}/proj.py, line 3)")
    write("misspelt.py", "from umbel import Umbel\napp = Umbel(brokr_url='memory://')\n")
    assert broken("misspelt") == (
        "cannot import 'misspelt': ImproperlyConfigured: there is no setting 'brokr_url'; "
        f"did you mean 'broker_url'? (from the program) ({tmp_path}/misspelt.py, line 2)"
    )
