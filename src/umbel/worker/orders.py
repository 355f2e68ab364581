"""Remote control, as nodes obey it: what Celery's clients, and ours, broadcast to all workers.

A thread of the node listens and answers; what shall last goes into the ledger, as if our own client
had put it there, and the node looks at once. Commands of other names are left to Celery's workers,
which may well be who is meant. Nothing that anybody sends ends the thread.

    Obeying    performs the commands that it is given: beat's are fewer
    Orders     those of a worker's node
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from umbel.control.revoking import REMEMBERED, signal_name
from umbel.exceptions import ImproperlyConfigured, UmbelError
from umbel.message import Message
from umbel.servers.seams import Bus, Ledger
from umbel.wire import control
from umbel.wire.control import Command
from umbel.worker.listening import Listening

logger = logging.getLogger("umbel.worker")


#: Performs a command; what it returns is the answer, None = none is given.
Performs = Callable[[Command], Any]


class Obeying:
    """Obeys some commands in a node's name, from ``start`` to ``stop``."""

    def __init__(
        self, node: str, bus: Bus, commands: Mapping[str, Performs], *, exchange: str
    ) -> None:
        self._node = node
        self._bus = bus
        self._commands = commands
        listening = Listening(bus, exchange, self._hear)
        self.start, self.stop = listening.start, listening.stop

    def _hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        command = control.read_command(message)
        if command is None or not command.concerns(self._node):
            return
        perform = self._commands.get(command.method)
        if perform is None:
            logger.debug("The command %.100r is not known here", command.method)
            return
        answer = self._performed(perform, command)
        if answer is not None and command.reply_to[0]:
            self._bus.post(control.reply_message(command, self._node, answer))

    def _performed(self, perform: Callable[[Command], Any], command: Command) -> Any:
        try:
            return perform(command)
        except (UmbelError, ValueError) as error:
            logger.warning("The command %.100r failed: %s", command.method, error)
            return {"error": repr(error)}


class Orders:
    """Obeys remote control for a worker's node, which starts and stops it."""

    def __init__(
        self,
        node: str,
        *,
        bus: Bus,
        exchange: str,
        ledger: Ledger | None,
        look: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._look = look
        commands: Mapping[str, Performs] = {
            "ping": pong,
            "revoke": self._revoke,
            "terminate": self._terminate,
        }
        obeying = Obeying(node, bus, commands, exchange=exchange)
        self.start, self.stop = obeying.start, obeying.stop

    def _revoke(self, command: Command) -> Any:
        arguments = command.arguments
        return self._called_off(command, terminate=bool(arguments.get("terminate")))

    def _terminate(self, command: Command) -> Any:
        return self._called_off(command, terminate=True)

    def _called_off(self, command: Command, *, terminate: bool) -> Any:
        task_ids = control.revoked_ids(command.arguments)
        if not command.ours:
            signal = signal_name(command.arguments.get("signal") or "TERM") if terminate else ""
            self._remember(task_ids, signal)
        self._look()
        return control.revoke_answer(task_ids, terminate=terminate)

    def _remember(self, task_ids: list[str], signal: str) -> None:
        if self._ledger is None:
            raise ImproperlyConfigured("revocations need a ledger, and this worker has none")
        self._ledger.revoke(task_ids, expires_in=REMEMBERED, by="remote control", signal=signal)


def pong(_command: Command) -> Any:
    """Answer as Celery's workers do."""
    return {"ok": "pong"}
