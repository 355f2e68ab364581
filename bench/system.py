"""What is said of a system that is measured."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

#: Stand in ``worker`` for the number of worker processes, for the folder of the environment's
#: scripts, and for the server's URL.
PROCESSES, SCRIPTS, URL = "{processes}", "{scripts}", "{url}"


@dataclass(frozen=True, slots=True)
class System:
    """One row of the tables."""

    name: str
    #: Module in apps/, or wherever what `Calls` says is found.
    module: str
    #: What its worker is started with, after ``python``.
    worker: tuple[str, ...]
    #: Trivial tasks that two workers run in a second, roughly: sizes its share of the work.
    pace: float
    #: When a task is acknowledged, and what is on the disk when ``delay()`` returns.
    promise: str
    #: Its distribution, imported under the same name; the bare loop has none.
    package: str = ""
    #: The version that gets an environment of its own; nothing = it runs in the project's.
    version: str = ""
    #: Extras that it is installed with.
    extras: str = ""
    #: What pip installs, unless it is that.
    requires: str = ""
    #: Whether each of its sessions gets a Redis of its own.
    on_redis: bool = False
    #: Whether it gets a RabbitMQ; its results are then on the Redis, if it gets that too.
    on_rabbitmq: bool = False
    environment: dict[str, str] = field(default_factory=dict[str, str])
    stop: signal.Signals = signal.SIGTERM
    #: Whether it has a call that sends many in one transaction.
    sends_many: bool = True
    #: Whether it runs tasks; the barest loop only moves bytes.
    runs: bool = True

    @property
    def requirement(self) -> str:
        """What pip installs; nothing for the project's own environment."""
        extras = f"[{self.extras}]" if self.extras else ""
        return self.requires or (self.version and f"{self.package}{extras}=={self.version}")
