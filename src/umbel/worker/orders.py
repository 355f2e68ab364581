"""Remote control, as nodes obey it: what Celery's clients, and ours, broadcast to all workers.

A thread of the node listens and answers; what shall last goes into the ledger, as if our own client
had put it there, and the node looks at once. Commands of other names are left to Celery's workers,
which may well be who is meant. Nothing that anybody sends ends the thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from umbel import backoff
from umbel.control.revoking import REMEMBERED, signal_name
from umbel.exceptions import ImproperlyConfigured, TransportError, UmbelError
from umbel.message import Message
from umbel.servers.seams import Bus, Ledger, Listener
from umbel.wire import control
from umbel.wire.control import Command

logger = logging.getLogger("umbel.worker")

#: Longest wait for a command in seconds.
LONGEST_WAIT = 60.0
#: Seconds between attempts to reach a server that is gone: first and longest.
RECONNECT, RECONNECT_MOST = 0.1, 5.0


class Orders:
    """Obeys remote control for a node. Its thread owns it; the node starts and stops it."""

    def __init__(
        self, node: str, *, bus: Bus, ledger: Ledger | None, look: Callable[[], None]
    ) -> None:
        self._node = node
        self._bus = bus
        self._ledger = ledger
        self._look = look
        self._listener: Listener | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-orders", daemon=True)
        self._commands: dict[str, Callable[[Command], Any]] = {
            "ping": lambda _command: {"ok": "pong"},
            "revoke": self._revoke,
            "terminate": self._terminate,
        }

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.wake()
        self._thread.join(RECONNECT_MOST)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._listener = self._listener or self._bus.listen(control.EXCHANGE)
                for message in self._listener.receive(LONGEST_WAIT):
                    self._obey(message)
                failures = 0
            except TransportError as error:
                failures += 1  # the node itself says that there is an outage
                logger.debug("Remote control is not heard: %s", error)
                pause = backoff.exponential(failures, RECONNECT, maximum=RECONNECT_MOST)
                self._stopping.wait(pause)
        if self._listener is not None:
            self._listener.close()

    def _obey(self, message: Message) -> None:
        command = control.read_command(message)
        if command is None or not command.concerns(self._node):
            return
        perform = self._commands.get(command.method)
        if perform is None:
            logger.debug("The command %.100r is not known here", command.method)
            return
        answer = self._performed(perform, command)
        if command.reply_to[0]:
            self._bus.post(control.reply_message(command, self._node, answer))

    def _performed(self, perform: Callable[[Command], Any], command: Command) -> Any:
        try:
            return perform(command)
        except (UmbelError, ValueError) as error:
            logger.warning("The command %.100r failed: %s", command.method, error)
            return {"error": repr(error)}

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
