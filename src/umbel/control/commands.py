"""Commands to all workers that listen, Celery's among them, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from umbel.clock import SYSTEM_CLOCK
from umbel.ids import new_id
from umbel.servers.seams import Bus
from umbel.wire.control import Command, command_message, read_reply, reply_exchange


def send(bus: Bus, command: Command) -> None:
    """Send a command; nobody answers."""
    bus.broadcast(command_message(command))


def ask(
    bus: Bus, command: Command, *, timeout: float, limit: int | None = None
) -> list[dict[str, Any]]:
    """Send a command and return the answers, a node's name and what it said in each.

    It waits ``timeout`` seconds, or until all that are named, or ``limit``, have answered.
    """
    wanted = limit or len(command.destination) or None
    exchange, key = reply_exchange(command.exchange), new_id()
    with closing(bus.mailbox(exchange, key)) as mailbox:
        asked = replace(command, ticket=new_id(), reply_to=(exchange, key))
        deadline = SYSTEM_CLOCK.monotonic() + timeout
        bus.broadcast(command_message(asked, expires_at=SYSTEM_CLOCK.now() + timeout))
        answers: list[dict[str, Any]] = []
        while (wanted is None or len(answers) < wanted) and (left := _left(deadline)) > 0:
            answers += _read(mailbox.receive(left), asked.ticket)
    return answers


def _left(deadline: float) -> float:
    return deadline - SYSTEM_CLOCK.monotonic()


def _read(messages: Any, ticket: str) -> Iterator[dict[str, Any]]:
    return (found for each in messages if (found := read_reply(each, ticket)))
