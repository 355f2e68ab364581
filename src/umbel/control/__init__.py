"""Looking at what goes on, and stepping in: what the command line shows and does, for programs.

nodes      who works: the records that nodes keep in the ledger
queues     what waits, and who consumes it
why        why a task does not run: facts, and the answer to them
revoking   calling tasks off
letters    dead letters, found by task, reason, time and queue
commands   asking workers over the broker, Celery's among them

Most of this talks to no worker: it is read from, or left in, the queues and the ledger, so it holds
for workers that start later and needs none that answers. Commands reach who listens at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from umbel.control import commands
from umbel.control.revoking import REMEMBERED, revoke
from umbel.exceptions import ImproperlyConfigured
from umbel.opened import Servers
from umbel.servers.seams import Bus
from umbel.wire.control import Command

__all__ = ["Control"]


class Control:
    """``app.control``."""

    def __init__(self, servers: Callable[[], Servers]) -> None:
        self._servers = servers

    def revoke(
        self,
        task_id: str | Iterable[str],
        *,
        terminate: bool = False,
        signal: str | int | None = None,
        expires: float = REMEMBERED,
    ) -> None:
        """Call tasks off, one or many: a worker that receives one stores REVOKED instead.

        It is kept in the ledger for ``expires`` seconds, so it survives restarts and holds for
        workers that start later. With ``terminate`` what runs is ended by the signal (TERM): a
        coroutine is cancelled, for any other task its process ends and another takes its place; in
        the pools "threads" and "solo" only coroutines can be ended.
        """
        ids = [task_id] if isinstance(task_id, str) else task_id
        revoke(self._servers(), ids, terminate=terminate, signal=signal, expires_in=expires)

    def terminate(self, task_id: str | Iterable[str], signal: str | int | None = None) -> None:
        """Call tasks off, and end them where they run."""
        self.revoke(task_id, terminate=True, signal=signal)

    def ping(
        self,
        destination: Sequence[str] | str | None = None,
        timeout: float = 1.0,
        *,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Ask workers, or those named, whether they are there; Celery's answer too.

        Returns ``[{"umbel@host": {"ok": "pong"}}, …]`` after ``timeout`` seconds, or as soon as
        ``limit`` or all that are named have answered.
        """
        return self.broadcast(
            "ping", destination=destination, reply=True, timeout=timeout, limit=limit
        )

    def broadcast(  # noqa: PLR0913 -- Celery's signature
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | str | None = None,
        reply: bool = False,  # noqa: FBT001, FBT002 -- Celery's signature
        timeout: float = 1.0,
        limit: int | None = None,
        *,
        pattern: str = "",
        matcher: str = "",
    ) -> list[dict[str, Any]]:
        """Send a command to workers, Celery's among them; return the answers, if asked for."""
        named = [destination] if isinstance(destination, str) else destination or ()
        exchange = self._servers().control_exchange
        sent = Command(
            command, dict(arguments or {}), tuple(named), pattern, matcher, exchange=exchange
        )
        if reply:
            return commands.ask(self._bus(), sent, timeout=timeout, limit=limit)
        commands.send(self._bus(), sent)
        return []

    def _bus(self) -> Bus:
        broker = self._servers().broker
        if broker.bus is None:
            raise ImproperlyConfigured(
                f"{broker.display_url} carries no remote control: Redis and RabbitMQ do"
            )
        return broker.bus
