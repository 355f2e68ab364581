"""Gathering what is known about a task: from queues, results, ledger and nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from umbel import states
from umbel.bridge import ResultBridge
from umbel.clock import SYSTEM_CLOCK
from umbel.control.letters import Wanted, find_letters
from umbel.control.nodes import living_nodes
from umbel.control.why import Facts
from umbel.opened import Servers
from umbel.routing import Router
from umbel.servers.seams import DeadLetter, Ledger, Place, Revocation
from umbel.wire.names import tree_of
from umbel.wire.result import result_of
from umbel.wire.times import from_iso


class LookedAt(Protocol):
    """What this needs of an application."""

    @property
    def bridge(self) -> ResultBridge:
        """What reads results."""
        ...

    @property
    def router(self) -> Router:
        """Where its calls go."""
        ...

    def servers(self) -> Servers:
        """Return the opened servers."""
        ...


#: How far a message is on its way; what moves while one looks moves towards the end.
_PROGRESS = ("delayed", "ready", "held")


def gather(app: LookedAt, task_id: str, *, task: str = "") -> Facts:
    """Return the facts about a task; ``task`` is its name, if the caller knows it."""
    servers = app.servers()
    transport, ledger = servers.broker.transport, servers.ledger
    queues = tuple(dict.fromkeys((*app.router.consumed, *transport.queues())))
    # In the order of a task's life, so that nothing is missed that goes on meanwhile.
    places = _far_first(transport.find(task_id, queues))
    depths = transport.depth([each.queue for each in places] or app.router.consumed)
    nodes = None if ledger is None else living_nodes(ledger)
    meta = _meta(app.bridge, task_id)
    return Facts(
        task_id,
        SYSTEM_CLOCK.now(),
        servers.broker.display_url,
        transport.capabilities.finds,
        task=task or _task_of(places),
        places=places,
        depths=depths,
        nodes=nodes,
        revocation=_revocation(ledger, task_id, places),
        letter=_letter(servers, task_id),
        state=meta["status"],
        error=_error(meta),
        done_at=_done_at(meta),
    )


def _revocation(ledger: Ledger | None, task_id: str, places: Sequence[Place]) -> Revocation | None:
    """Return how a task is revoked, itself or with its workflow."""
    names = [task_id, *(tree_of(each.message.headers) for each in places)]
    found = {} if ledger is None else ledger.revoked(names)
    return next((found[each] for each in names if each in found), None)


def _far_first(places: Sequence[Place]) -> tuple[Place, ...]:
    return tuple(sorted(places, key=lambda each: -_PROGRESS.index(each.state)))


def _task_of(places: Sequence[Place]) -> str:
    names = [each.message.headers.get("task") for each in places]
    return next((name for name in names if isinstance(name, str)), "")


def _letter(servers: Servers, task_id: str) -> DeadLetter | None:
    if servers.ledger is None:
        return None
    return next(find_letters(servers, Wanted(frozenset({task_id}))), None)


def _meta(bridge: ResultBridge, task_id: str) -> Mapping[str, Any]:
    stored = bridge.store.get((task_id,)).get(task_id)
    return {"status": states.PENDING} if stored is None else bridge.decode(stored)


def _error(meta: Mapping[str, Any]) -> str:
    value = result_of(dict(meta)) if meta["status"] in states.EXCEPTION_STATES else None
    return "" if value is None else repr(value)


def _done_at(meta: Mapping[str, Any]) -> float | None:
    text = meta.get("date_done")
    return from_iso(text) if isinstance(text, str) else None
