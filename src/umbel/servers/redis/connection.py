"""Connections to one Redis server: a ``Link`` is one, ``Connections`` hands idle ones out.

redis-py makes the connection (TCP, TLS, Unix sockets, authentication, database, protocol 3); from
then on we speak over its socket ourselves, with hiredis reading and packing. That halves the Python
of a round trip, and it lets a thread wait for the socket and for ``wake`` at once, which redis-py's
API does not offer.

A ``Link`` belongs to one thread at a time. ``Connections`` belongs to the server's parts and is
used by any thread: taking from and putting into its deque are atomic. After a fork the child finds
another process id and forgets the parent's links without shutting their sockets down.

A link that failed is closed and never used again, because a reply may still be on its way; with it
go the idle ones. An idle one is looked at before use: if its peer has closed it (a restart), a new
one takes its place and the caller notices nothing. Nothing is repeated here: whether a command that
failed took place is not known, so repeating is for callers that know it is harmless.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, TypeAlias, cast

import hiredis
from redis import exceptions as driver
from redis.connection import AbstractConnection, Connection

from umbel import telemetry
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    StorageError,
    TimeoutError,
    TransportError,
)
from umbel.servers.redis.keys import READABLE_FROM, SCHEMA, Keys
from umbel.servers.redis.options import Options
from umbel.servers.redis.places import Places

#: What the scripts need (RPOP with a count, ZRANGE BYSCORE, ZMSCORE).
MINIMUM_VERSION = (6, 2)
#: Bytes read from a socket at once.
READ_SIZE = 1 << 16
#: Idle links kept; above it they are closed after use.
MOST_IDLE = 32

#: A word of a command, or an argument of a script.
Word: TypeAlias = str | bytes | float

_pack_words = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)
_INCOMPLETE = object()

#: First word of an error reply -> what it means for the caller. These took no effect, and another
#: attempt on a new connection may succeed, so they count as a lost one.
_AGAIN = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"})
_NO_ROOM = frozenset({"OOM", "MISCONF", "NOREPLICAS", "WRONGTYPE"})


class ReplyError(Exception):
    """An error reply, its text as the server wrote it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script that the server keeps under its digest."""

    text: str
    digest: str

    @classmethod
    def of(cls, *parts: str) -> Script:
        """Make one of pieces of Lua."""
        text = "\n".join(parts)
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Link:
    """One connection. Used by one thread at a time."""

    __slots__ = (
        "_buffer",
        "_clock",
        "_connection",
        "_encrypted",
        "_poll",
        "_reader",
        "_socket",
        "_timeout",
        "generation",
        "pushes",
    )

    def __init__(self, connection: AbstractConnection, options: Options) -> None:
        self._connection = connection  # keeps the socket open
        self._clock = options.clock
        self._timeout = options.socket_timeout
        self._socket: socket.socket = cast("Any", connection)._sock  # noqa: SLF001 -- has no public name
        #: Has bytes that it decrypted and nobody read, which poll() does not know of.
        self._encrypted = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        # Its stub forgets that it reads a bytearray.
        self._reader: Any = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._buffer = bytearray(READ_SIZE)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        #: What the server sent unasked, oldest first.
        self.pushes: list[Any] = []
        #: Which opening of the pool it belongs to.
        self.generation = 0

    def call(self, *words: Word, deadline: float | None = None) -> Any:
        """Send one command and return its reply."""
        (reply,) = self.exchange(pack(*words), 1, deadline=deadline)
        if isinstance(reply, ReplyError):
            raise self._meaning(reply)
        return reply

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        calls: Sequence[Sequence[Word]],
        *,
        deadline: float | None = None,
        before: bytes = b"",
    ) -> list[Any]:
        """Run a script once for each list of arguments, in one round trip; return the replies.

        ``before`` is a packed command that goes before a single one, to prepare it.
        """
        start: tuple[Word, ...] = ("EVALSHA", script.digest, len(keys), *keys)
        data = b"".join([pack(*start, *arguments) for arguments in calls])
        if before:
            replies = self.exchange(before + data, 2, deadline=deadline)[1:]
        else:
            replies = self.exchange(data, len(calls), deadline=deadline)
        for number, reply in enumerate(replies):
            if isinstance(reply, ReplyError):
                if reply.code != "NOSCRIPT":
                    raise self._meaning(reply)
                # The server was restarted or is new: it knows the script from now on.
                if before:
                    self.exchange(before, 1, deadline=deadline)
                whole = ("EVAL", script.text, len(keys), *keys, *calls[number])
                replies[number] = self.call(*whole, deadline=deadline)
        return replies

    def exchange(self, data: bytes, count: int, *, deadline: float | None) -> list[Any]:
        """Send packed commands and return so many replies, errors among them."""
        self.send(data, deadline=deadline)
        return [self._next_reply(deadline) for _ in range(count)]

    def send(self, data: bytes, *, deadline: float | None = None) -> None:
        """Send packed commands; their replies are for ``received``."""
        try:
            self._socket.settimeout(self._left(deadline))
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error, deadline) from error

    def received(self) -> Generator[Any]:
        """Yield what has arrived and was read: replies and pushes, in their order."""
        while (item := self._reader.gets()) is not _INCOMPLETE:
            yield item

    def wait(self, seconds: float, waker: Waker) -> bool:
        """Wait until the server has sent something or the waker was told; return whether it was.

        Only after ``received`` has yielded all that was there.
        """
        if self._encrypted is not None and self._encrypted.pending():
            self._read(None)
            return False
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
        except ValueError as error:  # who sent through it found it broken, and has closed it
            raise ConnectionLost("lost the connection to Redis") from error
        poll.register(waker.ear, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000.0)}
        if self._socket.fileno() in ready:
            self._read(None)
        if waker.ear.fileno() not in ready:
            return False
        waker.reset()
        return True

    def is_idle(self) -> bool:
        """Tell whether the connection is open and nothing unexpected came over it."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        cast("Any", self._connection).disconnect()

    def _next_reply(self, deadline: float | None) -> Any:
        while True:
            reply = self._reader.gets()
            if reply is _INCOMPLETE:
                self._read(deadline)
            elif type(reply) is hiredis.PushNotification:
                self.pushes.append(reply)
            else:
                return reply

    def _read(self, deadline: float | None) -> None:
        try:
            if deadline is not None:
                self._socket.settimeout(self._left(deadline))
            size = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise self._broken(error, deadline) from error
        if not size:
            raise self._broken(ConnectionResetError("the server closed the connection"), deadline)
        self._reader.feed(self._buffer, 0, size)

    def _left(self, deadline: float | None) -> float:
        if deadline is None:
            return self._timeout
        left = deadline - self._clock.monotonic()
        if left <= 0:
            self.close()  # a reply may still come
            raise TimeoutError("the deadline has passed")
        return min(left, self._timeout)

    def _broken(self, error: OSError, deadline: float | None) -> Exception:
        """Close the connection and return what the caller shall raise."""
        self.close()
        if deadline is not None and self._clock.monotonic() >= deadline:
            return TimeoutError("the server did not answer in time; whether it acted is not known")
        return ConnectionLost(f"lost the connection to Redis: {error!r}")

    def _meaning(self, reply: ReplyError) -> Exception:
        """Return what the caller of a refused command shall raise."""
        if reply.code in _AGAIN:
            self.close()
            return ConnectionLost(f"Redis cannot serve now: {reply}")
        if reply.code in _NO_ROOM:
            return StorageError(f"Redis cannot store: {reply}")
        return TransportError(f"Redis refused: {reply}")


class Connections:
    """The links of one server. Any thread."""

    def __init__(self, options: Options, keys: Keys) -> None:
        self._options = options
        self._keys = keys
        self._places = Places(options)
        self._idle: deque[Link] = deque()
        self._process = os.getpid()
        self._generation = 0

    def call(self, *words: Word, deadline: float | None = None) -> Any:
        """Send one command over an idle link."""
        link = self._take(deadline)
        try:
            reply = link.call(*words, deadline=deadline)
        except BaseException as error:
            self._drop(link, error)
            raise
        self._put(link)
        return reply

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        calls: Sequence[Sequence[Word]],
        *,
        deadline: float | None = None,
    ) -> list[Any]:
        """Run a script, once for each list of arguments, over an idle link."""
        link = self._take(deadline)
        try:
            replies = link.run(script, keys, calls, deadline=deadline)
        except BaseException as error:
            self._drop(link, error)
            raise
        self._put(link)
        return replies

    def open(self, deadline: float | None = None) -> Link:
        """Return a new link, which the caller closes. Raises ConnectionLost, TransportError."""
        problem = ConnectionLost(f"{self._options.display_url} names no server")
        with _translating(self._options.display_url):
            for number, place in self._places:
                try:
                    link = self._connected(place, deadline)
                except ConnectionLost as error:
                    problem = error
                else:
                    self._places.remember(number)
                    return link
        raise problem

    def _connected(self, place: Mapping[str, Any], deadline: float | None) -> Link:
        timeout = self._options.socket_timeout
        arguments: dict[str, Any] = {"protocol": 3, "socket_timeout": timeout, **place}
        if deadline is not None:
            arguments |= self._timeouts(arguments, deadline)
        make = arguments.pop("connection_class", Connection)
        with _translating(self._options.display_url):
            connection = make(**arguments)
            connection.connect()
        link = Link(connection, self._options)
        link.generation = self._generation
        try:
            _check(connection.handshake_metadata, self._options.display_url)
            self._check_schema(link, deadline)
        except BaseException:
            link.close()
            raise
        telemetry.emit("connection.opened", server=self._options.display_url)
        return link

    def close(self) -> None:
        """Close idle links now, and lent ones when they come back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().close()

    def _take(self, deadline: float | None) -> Link:
        if self._process != os.getpid():
            self._idle = deque()  # they are the parent's; dropping them shuts nothing down
            self._process = os.getpid()
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if link.is_idle():
                return link
            link.close()
        return self.open(deadline)

    def _put(self, link: Link) -> None:
        if link.generation == self._generation and len(self._idle) < MOST_IDLE:
            self._idle.append(link)
        else:
            link.close()

    def _drop(self, link: Link, error: BaseException) -> None:
        link.close()
        if isinstance(error, ConnectionLost):
            self.close()  # the others lead to the same server: gone, or no longer the master

    def _timeouts(self, arguments: Mapping[str, Any], deadline: float) -> dict[str, float]:
        left = deadline - self._options.clock.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        names = ("socket_connect_timeout", "socket_timeout")
        return {name: min(left, arguments[name]) for name in names}

    def _check_schema(self, link: Link, deadline: float | None) -> None:
        """Note which version writes here; refuse what only a newer one understands."""
        key = self._keys.schema
        commands = (
            ("HSETNX", key, "written", SCHEMA),
            ("HSETNX", key, "readable_from", READABLE_FROM),
            ("HMGET", key, "written", "readable_from"),
        )
        data = b"".join([pack(*each) for each in commands])
        *_, found = link.exchange(data, len(commands), deadline=deadline)
        if isinstance(found, ReplyError) or None in found:
            return  # a server that is full or loading refuses; what comes next says so
        written, readable_from = map(int, found)
        if readable_from > SCHEMA:
            raise ImproperlyConfigured(
                f"{self._options.display_url} was written by a newer umbel (schema "
                f"{readable_from}, this one knows {SCHEMA}): upgrade this one"
            )
        if written < SCHEMA:
            new = ("written", SCHEMA, "readable_from", max(readable_from, READABLE_FROM))
            link.exchange(pack("HSET", key, *new), 1, deadline=deadline)


class Waker:
    """What another thread or a signal handler tells so that a wait ends.

    A pair of sockets: writing to a closed one is an error, while the number of a closed pipe may
    belong to another file by then.
    """

    __slots__ = ("_mouth", "ear")

    def __init__(self) -> None:
        self.ear, self._mouth = socket.socketpair()
        self.ear.setblocking(False)
        self._mouth.setblocking(False)

    def wake(self) -> None:
        """End the wait, or the next one."""
        try:
            self._mouth.send(b"!")
        except OSError:
            return  # full: it is awake already; closed: nobody waits

    def reset(self) -> None:
        """Forget that it was told."""
        try:
            while self.ear.recv(4096):
                pass
        except OSError:
            return  # empty

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.ear.close()
        self._mouth.close()


def pack(*words: Word) -> bytes:
    """Return a command's bytes."""
    try:
        return _pack_words(words)
    except UnicodeEncodeError:  # half of a surrogate pair, from a hostile message
        return _pack_words(tuple(raw(each) if isinstance(each, str) else each for each in words))


def raw(text: str) -> bytes:
    """Return the bytes of a text, also of one that is no proper Unicode."""
    return text.encode("utf-8", "surrogatepass")


def text(data: bytes) -> str:
    """Return the text of what ``raw`` made."""
    return data.decode("utf-8", "surrogatepass")


@contextmanager
def _translating(url: str) -> Generator[None]:
    """Turn what redis-py raises while it connects into our exceptions."""
    try:
        yield
    except (driver.AuthenticationError, driver.AuthorizationError) as error:
        reason = str(error).rstrip(".")
        raise TransportError(f"{url} refuses us: {reason}. Check user and password.") from error
    except (driver.ConnectionError, driver.TimeoutError, OSError) as error:
        raise ConnectionLost(f"cannot connect to {url}: {error}") from error
    except driver.ResponseError as error:
        needed = f"Redis {_dotted(MINIMUM_VERSION)} or newer is needed"
        if "DB index" in str(error):
            needed = "It has fewer databases than that"
        elif "HELLO" in str(error):
            needed += ", and a proxy before it must pass on HELLO 3"
        raise TransportError(f"{url} refuses us: {error}. {needed}.") from error
    except TypeError as error:
        raise ImproperlyConfigured(f"{url}: unknown option: {error}") from error


def _check(hello: Any, url: str) -> None:
    """Refuse a server that cannot serve, by what it says of itself."""
    about = hello or {}
    version = about.get(b"version", b"")
    numbers = tuple(int(part) for part in version.split(b".")[:2] if part.isdigit())
    if numbers and numbers < MINIMUM_VERSION:
        raise ImproperlyConfigured(
            f"{url} is Redis {_dotted(numbers)}: {_dotted(MINIMUM_VERSION)} or newer is needed"
        )
    if about.get(b"mode") == b"cluster":
        raise ImproperlyConfigured(
            f"{url} is a Redis Cluster, which spreads keys that belong together over several "
            "servers. Take one server; replicas and sentinels make it safe"
        )
    if about.get(b"role", b"master") != b"master":
        raise ConnectionLost(f"{url} is a replica, which takes no messages")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
