"""What callers can do with rpc results, and what is left of those that nobody takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.system.projects import eventually
from umbel import Umbel
from umbel.exceptions import TimeoutError
from umbel.testing import running_worker

CALLERS = """
import sys
from umbel import Umbel

app = Umbel("caller", broker=sys.argv[1])
results = [app.send_task("add", (n, n)) for n in range(100)]
if sys.argv[2] == "waits":
    assert [each.get(timeout=60) for each in results] == [2 * n for n in range(100)]
app.close()
"""


@pytest.fixture
def app(rabbitmq_url: str) -> Iterator[Umbel]:
    with Umbel("tasks", broker=rabbitmq_url, set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        yield app


def test_a_result_may_be_had_again_but_by_its_caller_alone(app: Umbel, rabbitmq_url: str) -> None:
    with running_worker(app), Umbel("other", broker=rabbitmq_url, set_as_current=False) as other:
        result = app.send_task("add", (1, 2))
        assert [result.get(timeout=60) for _ in range(2)] == [3, 3]
        assert app.AsyncResult(result.id).get(timeout=60) == 3
        with pytest.raises(TimeoutError, match="rpc:// come to the process that sent the task"):
            other.AsyncResult(result.id).get(timeout=0.2)


@pytest.mark.parametrize("caller", ["waits", "leaves"])
def test_nothing_is_left_of_callers_that_are_gone(
    app: Umbel, rabbitmq_url: str, rabbitmqctl: Callable[..., str], caller: str
) -> None:
    with running_worker(app):
        words = [sys.executable, "-c", CALLERS, rabbitmq_url, caller]
        subprocess.run(words, check=True, timeout=50)
        assert app.send_task("add", (1, 2)).get(timeout=60) == 3
    app.close()
    vhost = urlsplit(rabbitmq_url).path[1:]
    orders = ("list_queues", "-p", vhost, "name", "messages", "--no-table-headers")
    eventually(lambda: rabbitmqctl(*orders).split(), lambda left: left == ["celery", "0"])
