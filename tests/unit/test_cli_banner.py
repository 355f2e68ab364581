"""What a worker prints when it starts."""

from __future__ import annotations

import logging
import platform

import click

from umbel import Broadcast, Exchange, Queue, Umbel
from umbel.cli.banner import banner
from umbel.version import VERSION
from umbel.worker.launch import Worker, WorkerOptions


def shown(app: Umbel, level: int = logging.WARNING, **options: object) -> list[str]:
    worker = Worker(app, WorkerOptions(node="here@host", **options))  # type: ignore[arg-type]
    text = click.unstyle(banner(worker, level))
    return [line.rstrip() for line in text.splitlines()]


def application(**settings: object) -> Umbel:
    app = Umbel("shop", set_as_current=False, **{"broker": "memory://banner", **settings})  # type: ignore[arg-type]

    @app.task(name="shop.pay")
    def pay() -> None:
        """Stand for a task."""

    @app.task(name="shop.deliver")
    def deliver() -> None:
        """Stand for another."""

    return app


def test_it_says_who_it_is() -> None:
    text = "\n".join(shown(application()))
    assert f"here@host v{VERSION}" in text
    assert f"Python {platform.python_version()}" in text
    assert platform.platform() in text


def test_it_says_how_it_works() -> None:
    lines = shown(application(), concurrency=3, pool="threads")
    at = lines.index("[config]")
    assert lines[at + 1 : at + 6] == [
        "  app:           shop",
        "  transport:     memory://banner",
        "  results:       on the same server",
        "  concurrency:   3 (threads)",
        "  log level:     WARNING (-l INFO shows every task)",
    ]


def test_other_stores_are_named_and_secrets_masked() -> None:
    app = application(broker="redis://user:secret@host:1/2", backend="memory://results")
    lines = shown(app, logging.INFO)
    assert "  results:       memory://results" in lines
    assert "  log level:     INFO" in lines
    assert "redis://user:**@host:1/2" in "\n".join(lines)
    assert "secret" not in "\n".join(lines)


def test_a_broker_without_a_ledger_says_what_is_missing_or_where_it_is() -> None:
    without = shown(application(broker="amqp://localhost"))
    assert any(line.startswith("  ledger:        none: deaths are") for line in without)
    beside = application(broker="amqp://localhost", ledger_url="memory://x")
    assert "  ledger:        memory://x" in shown(beside)


def test_it_lists_queues_with_exchange_and_key() -> None:
    queues = [
        Queue("celery"),
        Queue("pictures", Exchange("media", "topic"), "picture.#"),
        Broadcast("news"),
    ]
    lines = shown(application(task_queues=queues))
    at = lines.index("[queues]")
    assert lines[at + 1 : at + 4] == [
        "  celery               exchange=celery(direct) key=celery",
        "  pictures             exchange=media(topic) key=picture.#",
        "  bcast.here@host.news exchange=news(fanout) key=",
    ]


def test_it_lists_tasks() -> None:
    lines = shown(application())
    at = lines.index("[tasks]")
    assert lines[at + 1 :] == ["  shop.deliver", "  shop.pay"]


def test_it_says_that_there_are_none() -> None:
    lines = shown(Umbel("empty", "memory://banner", set_as_current=False))
    assert "no module that was imported defines one" in "\n".join(lines)
