"""SQLite: one file is broker, result store and ledger for all processes of a machine.

    location    where the file lies            connection  transactions, locks, forks, errors
    schema      tables, versions               bells       waking other processes
    packing     a message as a row             routes      exchanges, queues, bindings
    storing     writing messages and results   statements  the SQL
    queues      Transport                      consumer    Consumer
    results     ResultStore, Watch             commit      Committer         ledger  Ledger
"""

from __future__ import annotations

from typing import Any

from umbel.servers.seams import Server
from umbel.servers.sqlite.commit import SqliteCommitter
from umbel.servers.sqlite.connection import Database, Options
from umbel.servers.sqlite.ledger import SqliteLedger
from umbel.servers.sqlite.location import default_url, parse
from umbel.servers.sqlite.queues import SqliteTransport
from umbel.servers.sqlite.results import SqliteResults
from umbel.servers.sqlite.storing import Writer

__all__ = ["SqliteServer", "default_url", "open_server"]


def open_server(url: str, options: dict[str, Any]) -> Server:
    """Return the server of a file; it is opened, and made if need be, at its first use."""
    path, given = parse(url)
    return SqliteServer(Database(path, Options.read({**given, **options})))


class SqliteServer:
    """See ``seams.Server``."""

    def __init__(self, database: Database) -> None:
        writer = Writer(database)
        self.display_url = f"sqlite:///{database.path}"
        self.transport = SqliteTransport(database, writer)
        self.results = SqliteResults(database, writer)
        self.ledger = SqliteLedger(database, writer)
        self.committer = SqliteCommitter(database, writer)
        self._database = database

    def close(self) -> None:
        """Close all of it. Idempotent."""
        self._database.close()
