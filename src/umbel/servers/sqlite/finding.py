"""Where a message is, by the task's id.

There is no index of ids: it would cost every message. The table is read through, beside everybody
who writes.
"""

from __future__ import annotations

from umbel.serializers import json_text
from umbel.servers.seams import Place
from umbel.servers.sqlite import statements as sql
from umbel.servers.sqlite.packing import unpack
from umbel.servers.sqlite.routes import read_routes
from umbel.servers.sqlite.schema import Executing


def find(connection: Executing, task_id: str, now: float) -> list[Place]:
    """Return all places of a message. Inside a transaction of the caller's."""
    routes = read_routes(connection)
    beginning = json_text([task_id])[:-1]  # of the rows' JSON: see packing
    places = []
    for number, data, body in connection.execute(sql.FIND, (beginning,)).fetchall():
        message, _ = unpack(data, body)
        where = connection.execute(sql.PLACE, (number,)).fetchone()
        if where is None or where[1] not in routes.by_id:
            continue  # its queue was deleted
        state, queue, rank, due_at, consumer = where
        ahead = None
        if state == "ready" or (state == "delayed" and due_at <= now):
            state, due_at = "ready", None
            (ahead,) = connection.execute(sql.AHEAD, (queue, rank, number, now)).fetchone()
        name = routes.by_id[queue].name
        places.append(Place(state, name, message, ahead, due_at, consumer or ""))
    return places
