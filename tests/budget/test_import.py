"""What ``import umbel`` loads."""

from __future__ import annotations

import subprocess
import sys

#: Modules beyond those of a bare interpreter, as the design allows.
MOST_MODULES = 150
#: None of these, nor what is inside of them.
UNWANTED = (
    "asyncio",
    "click",
    "kombu",
    "pika",
    "psycopg",
    "redis",
    "rich",
    "sqlite3",
    "umbel.cli",
    "umbel.testing",
    "umbel.web",
    "umbel.worker",
)


def modules_of(statement: str) -> set[str]:
    command = [sys.executable, "-I", "-c", f"import sys; {statement}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_few_modules() -> None:
    loaded = modules_of("import umbel") - modules_of("pass")
    print(len(loaded), *sorted(loaded))
    assert len(loaded) <= MOST_MODULES


def test_import_loads_neither_drivers_nor_asyncio_nor_the_worker() -> None:
    loaded = modules_of("import umbel")
    assert [
        name
        for name in sorted(loaded)
        if any(f"{name}.".startswith(f"{each}.") for each in UNWANTED)
    ] == []


def test_importing_a_tasks_module_opens_nothing() -> None:
    loaded = modules_of(
        "import umbel; app = umbel.Umbel('t', 'redis://nowhere'); app.task(name='f')(lambda: 1)"
    )
    assert "redis" not in loaded
    assert "umbel.servers.redis" not in loaded
