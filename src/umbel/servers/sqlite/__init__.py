"""SQLite: one file is broker, result store and ledger for all processes of a machine.

location    where the file lies              options     how it is opened
connection  transactions, forks, locks       turn        waiting for one's turn, errors
schema      tables and their versions        bells       waking other processes
statements  the SQL                          packing     a message as a row
routes      where a message goes             declaring   exchanges, queues, bindings
storing     writing messages and results     limits      of queues: length, age
holds       who holds what                   upkeep      deleting what has expired
queues      Transport                        consumer    Consumer
results     ResultStore, Watch               ledger      Ledger
joins       Joins                            commit      Committer
timetable   Timetable
"""

from __future__ import annotations

from typing import Any

from umbel.servers.seams import Server
from umbel.servers.sqlite.commit import SqliteCommitter
from umbel.servers.sqlite.connection import Database
from umbel.servers.sqlite.joins import SqliteJoins
from umbel.servers.sqlite.ledger import SqliteLedger
from umbel.servers.sqlite.location import parse
from umbel.servers.sqlite.options import Options
from umbel.servers.sqlite.queues import SqliteTransport
from umbel.servers.sqlite.results import SqliteResults
from umbel.servers.sqlite.storing import Store
from umbel.servers.sqlite.timetable import SqliteTimetable

__all__ = ["SqliteServer", "open_server"]


def open_server(url: str, options: dict[str, Any]) -> Server:
    """Return the server of a file; it is opened, and made if need be, at its first use."""
    path, given = parse(url)
    return SqliteServer(Database(path, Options.read({**given, **options})))


class SqliteServer(Server):
    """See ``seams.Server``."""

    def __init__(self, database: Database) -> None:
        store = Store(database)
        self.display_url = f"sqlite:///{database.path}"
        self.transport = SqliteTransport(store)
        self.results = SqliteResults(store)
        self.ledger = SqliteLedger(store)
        self.bus = None
        self.joins = SqliteJoins(store)
        self.timetable = SqliteTimetable(store)
        self.committer = SqliteCommitter(store)
        self.database = database

    def close(self) -> None:
        """Close all of it. Idempotent."""
        self.database.close()
