"""The pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

SHOP = """
from umbel import Umbel

app = Umbel("shop", "redis://production", backend="redis://production", timezone="Europe/Paris")

@app.task
def mail(to, retries=0):
    return f"to {to}"
"""

OWN_APP = """
[pytest]
umbel_app = shop:app
"""


def passes(pytester: pytest.Pytester, *options: str, **outcomes: int) -> pytest.RunResult:
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "error", "--strict-markers", *options
    )
    result.assert_outcomes(**outcomes or {"passed": 1})
    return result


def test_a_new_application_for_each_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from umbel import current_app, shared_task
        from umbel.testing import assert_enqueued, run_until_idle

        apps = []

        @shared_task
        def double(x):
            return 2 * x

        def test_one(umbel_app):
            apps.append(umbel_app)
            assert current_app() is umbel_app
            double.delay(1)
            assert_enqueued(umbel_app, double, args=(1,))
            assert [run.value for run in run_until_idle(umbel_app)] == [2]
            double.delay(2)

        def test_other(umbel_app):
            assert umbel_app not in apps
            assert run_until_idle(umbel_app) == []

        def test_own_tasks(umbel_app):
            @umbel_app.task(name="own")
            def own():
                return 1
            own.delay()
            assert [run.task for run in run_until_idle(umbel_app)] == ["own"]
        """)
    passes(pytester, passed=3)


def test_the_programs_own_application(pytester: pytest.Pytester) -> None:
    pytester.makeini(OWN_APP)
    pytester.makepyfile(shop=SHOP)
    pytester.makepyfile("""
        import pytest, shop
        from umbel.testing import assert_enqueued, run_for, run_until_idle

        def test_broker(umbel_app):
            assert umbel_app is shop.app
            assert umbel_app.conf.timezone == "Europe/Paris"
            shop.mail.apply_async(("ada",), countdown=60)
            assert run_until_idle(umbel_app) == []
            assert run_until_idle(umbel_app, advance=True)[0].value == "to ada"
            umbel_app.conf.task_always_eager = True

        def test_worker(umbel_app, umbel_worker, umbel_clock):
            assert shop.mail.delay("bob").get(timeout=60) == "to bob"
            later = shop.mail.apply_async(("eve",), countdown=3600)
            umbel_clock.advance(3600)
            assert later.get(timeout=1) == "to eve"

        def test_nothing_is_left():
            assert shop.app.conf.broker_url == "redis://production"
            assert not shop.app.conf.task_always_eager
        """)
    passes(pytester, "-p", "no:randomly", passed=3)


def test_a_wrong_application_is_told(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\numbel_app = shop")
    pytester.makepyfile(shop=SHOP)
    pytester.makepyfile("def test_app(umbel_app): pass")
    result = passes(pytester, errors=1)
    result.stdout.fnmatch_lines(["*umbel_app = shop: expected 'module:attribute', an Umbel there*"])


def test_settings(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(more="from umbel import shared_task\n@shared_task\ndef job(): ...")
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def umbel_config():
            return {"timezone": "Asia/Tokyo", "task_default_queue": "q"}

        @pytest.fixture(scope="session")
        def umbel_parameters():
            return {"main": "shop", "strict_typing": False}

        @pytest.fixture(scope="session")
        def umbel_includes():
            return ["more"]

        @pytest.fixture(scope="session")
        def umbel_worker_pool():
            return "threads"

        @pytest.fixture(scope="session")
        def umbel_worker_parameters():
            return {"queues": ["a", "b"], "concurrency": 2}
        """)
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.umbel(timezone="UTC", task_default_priority=1)

        @pytest.mark.umbel(task_default_priority=2)
        def test_app(umbel_app):
            conf = umbel_app.conf
            assert umbel_app.main == "shop"
            assert "more.job" in umbel_app.tasks
            assert (conf.timezone, conf.task_default_queue) == ("UTC", "q")
            assert conf.task_default_priority == 2

        def test_worker(umbel_worker):
            assert umbel_worker.queues == ["a", "b"]
            assert umbel_worker.app.conf.task_default_priority == 1
        """)
    passes(pytester, passed=2)


def test_a_misspelt_setting_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.umbel(timezon="UTC")
        def test_app(umbel_app): pass
        """)
    result = passes(pytester, errors=1)
    result.stdout.fnmatch_lines(["*no setting 'timezon'*did you mean 'timezone'*"])


def test_one_worker_for_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from umbel import shared_task

        seen = []

        @shared_task
        def double(x):
            return 2 * x

        def test_one(umbel_session_worker, umbel_session_app):
            seen.append(umbel_session_worker)
            assert double.delay(2).get(timeout=60) == 4

        def test_two(umbel_session_worker):
            assert seen == [umbel_session_worker]
            assert double.apply_async((3,), countdown=0.01).get(timeout=60) == 6
        """)
    passes(pytester, passed=2)


def test_coroutines(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import asyncio
        from umbel import shared_task

        @shared_task
        async def double(x):
            await asyncio.sleep(0)
            return 2 * x

        def test_await(umbel_worker):
            async def ask():
                results = [await double.adelay(n) for n in range(3)]
                return [await each.aget(timeout=60) for each in results]
            assert asyncio.run(ask()) == [0, 2, 4]
        """)
    passes(pytester)


def test_failures_point_at_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from umbel.testing import assert_enqueued

        def test_it(umbel_app):
            assert_enqueued(umbel_app, "job", args=(1,))
        """)
    result = passes(pytester, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*assert_enqueued(umbel_app*",
            "E*expected a call of job with args=(1,), found none; nothing waits",
            "test_failures_point_at_the_test.py:4: AssertionError",
        ]
    )


def test_a_suite_that_moves_keeps_celerys_names(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest

        pytest_plugins = ("umbel.testing.celery_names",)

        @pytest.fixture(scope="session")
        def celery_config():
            return {"timezone": "Asia/Tokyo"}

        @pytest.fixture(scope="session")
        def celery_parameters():
            return {"main": "moved"}
        """)
    pytester.makepyfile("""
        import pytest
        from umbel import shared_task

        pytestmark = pytest.mark.celery(task_default_queue="far")

        @shared_task
        def double(x):
            return 2 * x

        @pytest.mark.celery(task_default_queue="near")
        def test_app(celery_app, umbel_app):
            assert celery_app is umbel_app
            assert (celery_app.main, celery_app.conf.timezone) == ("moved", "Asia/Tokyo")
            assert celery_app.conf.task_default_queue == "near"

        def test_worker(celery_app, celery_worker):
            assert celery_worker.queues == ["far"]
            assert double.delay(2).get(timeout=60) == 4

        def test_session(celery_session_app, celery_session_worker):
            assert celery_session_app.conf.timezone == "Asia/Tokyo"
            assert double.delay(2).get(timeout=60) == 4
        """)
    passes(pytester, passed=3)


def test_celerys_own_plugin_is_not_disturbed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import celery, umbel

        def test_both(celery_app, umbel_app):
            assert isinstance(celery_app, celery.Celery)
            assert isinstance(umbel_app, umbel.Umbel)
        """)
    passes(pytester, "-p", "celery.contrib.pytest")


def test_a_run_without_umbel_pays_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it():
            assert "pytest_umbel" in sys.modules
            assert [name for name in sys.modules if name.split(".")[0] == "umbel"] == []
        """)
    passes(pytester)


def test_the_plugin_imports_nothing_that_pytest_has_not() -> None:
    script = (
        "import sys, pytest; had = set(sys.modules); import pytest_umbel;"
        "print(*set(sys.modules) - had)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["pytest_umbel"]
