"""Calling tasks off: kept in the ledger, and so known to workers that start later, too."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable, Iterator

from umbel import ids
from umbel.control import commands
from umbel.opened import Servers
from umbel.wire.control import Command, revoke_arguments
from umbel.wire.names import tree

#: Seconds for which a revocation is remembered: longer than tasks are delayed in practice.
REMEMBERED = 30 * 86400.0
#: Ids that are written in one round trip.
PAGE = 1000


def revoke(
    servers: Servers,
    task_ids: Iterable[str],
    *,
    terminate: bool = False,
    signal: str | int | None = None,
    expires_in: float = REMEMBERED,
    by: str = "",
    roots: Iterable[str] = (),
) -> int:
    """Remember that these tasks shall not run; return how many ids were given.

    Nor shall any that are part of the workflows that began with ``roots``, sent by now or not.
    With ``terminate`` what runs already is ended, on whatever machine, within about a second: a
    coroutine is cancelled; a process gets the signal (TERM), and another takes its place.
    Celery's workers are told too, where they can hear it.
    """
    ledger = servers.ledger_for("revocations")
    name = signal_name(signal or "SIGTERM") if terminate else ""
    count = 0
    for page in _pages(map(tree, roots)):
        ledger.revoke(page, expires_in=expires_in, by=by or ids.origin(), signal=name)
    for page in _pages(task_ids):
        ledger.revoke(page, expires_in=expires_in, by=by or ids.origin(), signal=name)
        if servers.broker.bus is not None:
            arguments, exchange = revoke_arguments(page, name), servers.control_exchange
            commands.send(servers.broker.bus, Command("revoke", arguments, exchange=exchange))
        count += len(page)
    return count


def signal_name(signal: str | int) -> str:
    """Return a signal's full name; it may be given as ``TERM``, ``SIGTERM`` or 15."""
    try:
        if isinstance(signal, int) or signal.isdigit():
            return signals.Signals(int(signal)).name
        return signals.Signals[f"SIG{signal.upper().removeprefix('SIG')}"].name
    except (KeyError, ValueError):
        raise ValueError(f"expected a signal such as TERM, got {signal!r}") from None


def _pages(task_ids: Iterable[str]) -> Iterator[list[str]]:
    unique = list(dict.fromkeys(task_ids))
    return (unique[start : start + PAGE] for start in range(0, len(unique), PAGE))
