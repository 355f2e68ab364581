"""One AMQP connection, driven by the thread that waits on it, and nobody in between.

pika's ``SelectConnection`` is the library's core without its blocking layer. Of the clients that
were measured it comes nearest to hand-written frames, and leaves the server as the limit. Messages
a second, and in brackets µs of the client's CPU time for each, client and server on two cores:

    confirmed per 1000   SelectConnection 14,196 (17)   py-amqp 11,119 (30)    aio-pika 3,986 (126)
    1000 held, consumed  SelectConnection 24,104 (12)   py-amqp 16,221 (34)    aio-pika 8,315 (59)

By hand it was 15,868 (1) and 29,835 (3). Of one message confirmed alone (1,100 to 1,800) the
server's disk is the limit, whatever the client.

Its loop is not left to run in a thread of its own: every operation would then cost two changes of
thread, which beside CPU-bound Python means two waits for the interpreter lock. Instead ``step``
lets it poll once in the calling thread.

Two things of pika's are replaced in ``_Amqp``, by methods that it keeps for its adapters: the
header frames of received messages are kept as bytes (``properties`` reads them; pika's reader loses
the fractions of numbers, and a field it does not know would cost the connection), and what is
written between two steps leaves in one write. For pika each frame is one, which took a tenth of the
CPU time of a worker that sends results.

A ``Connection`` has one user at a time; ``Link`` sees to that. Callbacks run inside ``step``.

A forked child closes its copies of the sockets at once and opens connections of its own: as long as
a copy is open the server cannot see that the parent died, and would keep from others what it held.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

from pika import frame, spec
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import (
    AMQPError,
    ChannelClosed,
    ChannelClosedByClient,
    ConnectionClosedByBroker,
    StreamLostError,
)

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import (
    ConnectionLost,
    ImproperlyConfigured,
    TimeoutError,
    TransportError,
)
from umbel.servers.rabbitmq.address import Address

#: Seconds in which a server answers that we leave; after that the socket is just closed.
_FAREWELL = 1.0
_HEADER_FRAME = struct.Struct(">BHIHxxQ")
_ACCESS_REFUSED = 403
_END = bytes((spec.FRAME_END,))
#: Bytes that are handed to the socket at the latest; a system call, or memory for a copy.
_PIECE = 256 * 1024

_monotonic = SYSTEM_CLOCK.monotonic


class Refused(TransportError):
    """The server closed the channel over an order."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(_explained(code, text))
        self.code = code
        self.text = self.args[0]


class Raw(spec.BasicProperties):  # type: ignore[misc]  # pika has no types for mypy
    """Properties as bytes: ready to be sent, or as they were received."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def encode(self) -> list[bytes]:
        return [self.data]


class _Amqp(SelectConnection):  # type: ignore[misc]  # pika has no types for mypy
    """See the essay above."""

    #: What was read and is not a whole frame yet.
    _frame_buffer: bytes
    _terminate_stream: Callable[[Exception], None]
    _adapter_emit_data: Callable[[bytes], None]
    #: pika gives no other way to it.
    socket: socket.socket | None = None
    #: What was raised by others while pika worked.
    struck: BaseException | None = None
    #: What is written waits for ``send_gathered``.
    gathers = False

    def __init__(self, *args: Any, **options: Any) -> None:
        #: Written, and not handed to the socket.
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        super().__init__(*args, **options)

    def _read_frame(self) -> tuple[int, Any]:
        data = self._frame_buffer
        if len(data) < _HEADER_FRAME.size or data[0] != spec.FRAME_HEADER:
            return super()._read_frame()  # type: ignore[no-any-return]  # pika has no types
        _, channel, size, _, length = _HEADER_FRAME.unpack_from(data)
        end = spec.FRAME_HEADER_SIZE + size
        if data[end : end + 1] != _END:
            # Not all of it is here yet, or it is no frame: pika tells them apart.
            return super()._read_frame()  # type: ignore[no-any-return]  # pika has no types
        return end + 1, frame.Header(channel, length, Raw(data[_HEADER_FRAME.size : end]))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        size = sum(map(len, marshaled_frames))
        self.bytes_sent += size
        self.frames_sent += len(marshaled_frames)
        self._unsent += marshaled_frames
        self._unsent_size += size
        if not self.gathers or self._unsent_size >= _PIECE:
            self.send_gathered()

    def send_gathered(self) -> None:
        """Hand what was written to the socket."""
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_size = 0
            self._adapter_emit_data(data)

    def _proto_connection_made(self, transport: Any) -> None:
        self.socket = transport._sock  # noqa: SLF001 -- see the attribute
        super()._proto_connection_made(transport)  # pyright: ignore[reportAttributeAccessIssue] -- pika's bases are made at run time

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        # pika takes whatever is raised while it reads or writes for an error of the socket. But it
        # may be a soft time limit, which must get through to the task that it struck.
        if error is not None and not isinstance(error, (OSError, AMQPError)):
            self.struck = error
        super()._proto_connection_lost(error)  # pyright: ignore[reportAttributeAccessIssue] -- as above

    def abort(self) -> None:
        """Close the socket at the next step, without a word to the server."""
        self._terminate_stream(StreamLostError("given up"))


class _Waker:
    """Makes a poll return; ``set`` may be called from any thread and from signal handlers."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def set(self) -> None:
        # Full: it is set already. Closed: there is nobody to wake.
        with contextlib.suppress(OSError):
            self._writer.send(b"!")

    def clear(self, *_: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self.reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


class Connection:
    """An open connection with its channels. ``trouble`` says why it can be used no more."""

    def __init__(self, address: Address, *, name: str, heartbeat: int, deadline: float) -> None:
        # Its errors arrive as exceptions too, and are told once by us; it would log each several
        # times, from several layers.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        self.display_url = address.display_url
        self.trouble: ConnectionLost | None = None
        #: Why the server takes nothing that is published at present ("" = it does).
        self.blocked = ""
        self._reasons: dict[int, Exception] = {}
        self._closed = False
        #: Nobody waits for it to be opened any more.
        self._given_up = False
        self._loop = IOLoop()
        self._loop.activate_poller()
        self._amqp: Any = None
        _connections.add(self)
        self._waker = _Waker()
        self._loop.add_handler(self._waker.reader.fileno(), self._waker.clear, IOLoop.READ)
        try:
            parameters = address.parameters(heartbeat=heartbeat, name=name)
            self._amqp = self._open_apart(parameters, deadline)
        except BaseException:
            self._close_loop()
            raise

    def _open_apart(self, parameters: list[Any], deadline: float) -> Any:
        """Open in a thread of its own.

        pika takes whatever is raised while it connects for a failure of that. But signal handlers,
        and whoever sets a soft time limit, strike the thread that asked for the connection.
        """
        opened: list[Any] = []
        over = threading.Lock()
        over.acquire()

        def open_() -> None:
            try:
                opened.append(self._open(parameters, deadline))
            except BaseException as error:  # noqa: BLE001 -- raised by who waits
                opened.append(error)
            over.release()

        try:
            _thread.start_new_thread(open_, ())
            over.acquire()
        except BaseException:
            self._given_up = True
            self.wake()
            over.acquire(timeout=_FAREWELL)  # until then the loop is its own
            raise
        if isinstance(opened[0], BaseException):
            raise opened[0]
        return opened[0]

    def _open(self, parameters: list[Any], deadline: float) -> Any:
        done: list[Any] = []
        workflow = _Amqp.create_connection(parameters, done.append, custom_ioloop=self._loop)
        while not done:
            if self._given_up or deadline <= _monotonic():
                workflow.abort()
                self.step(0.0)
                raise ConnectionLost(f"{self.display_url} did not answer in time")
            self.step(deadline - _monotonic())
        if isinstance(done[0], BaseException):
            raise self._not_open(done[0]) from done[0]
        done[0].gathers = True
        done[0].add_on_close_callback(self._on_close)
        done[0].add_on_connection_blocked_callback(self._on_blocked)
        done[0].add_on_connection_unblocked_callback(self._on_unblocked)
        return done[0]

    def _not_open(self, failure: BaseException) -> Exception:
        causes = [_root(each) for each in getattr(failure, "exceptions", [failure])]
        # pika guesses a wrong password from any connection that breaks at that point; the server
        # that refuses one says so.
        for text in map(str, causes):
            if "ACCESS_REFUSED" in text or "NOT_ALLOWED" in text:
                return ImproperlyConfigured(
                    f"{self.display_url} refuses this user, password or virtual host: {text}"
                )
        return ConnectionLost(f"cannot connect to {self.display_url}: {causes[-1]}")

    def wake(self) -> None:
        """Make ``step`` return, this one or the next. Any thread, signal handlers too."""
        self._waker.set()

    def step(self, timeout: float) -> None:
        """Wait for the server or the waker, at most ``timeout`` seconds, and do what is due."""
        amqp = self._amqp
        if amqp is not None:
            amqp.send_gathered()
        timer = self._loop.call_later(max(timeout, 0.0), _nothing)
        self._loop.poll()
        self._loop.process_timeouts()
        self._loop.remove_timeout(timer)
        if amqp is None:
            return
        amqp.send_gathered()  # written by callbacks
        if amqp.struck is not None:
            struck, amqp.struck = amqp.struck, None
            if isinstance(struck, AssertionError):  # pika's own check of what a strike left broken
                raise ConnectionLost(f"{self.display_url}: cut off in the middle") from struck
            raise struck

    def drive(self, done: Callable[[], Any], deadline: float) -> None:
        """Step until ``done``. Raises ConnectionLost, or TimeoutError at the deadline."""
        while not done():
            if self.trouble:
                raise self.trouble
            left = deadline - _monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.display_url} did not answer in time{self.blocked}")
            self.step(left)

    def channel(self, deadline: float, *, vital: bool = False) -> Any:
        """Open a channel. When a ``vital`` one is closed, the connection is of no more use."""
        opened: list[Any] = []
        channel = self._amqp.channel(on_open_callback=opened.append)
        channel.add_on_close_callback(self._on_vital_closed if vital else self._on_channel_closed)
        self.drive(lambda: opened or channel.is_closed, deadline)
        return channel

    def call(self, order: Callable[..., Any], deadline: float, **arguments: Any) -> Any:
        """Give a channel an order and return the server's answer. Raises Refused."""
        channel: Any = getattr(order, "__self__")  # noqa: B009 -- a bound method, typed as callable
        answers: list[Any] = []
        with self.translating():
            order(**arguments, callback=answers.append)
        self.drive(lambda: answers or channel.is_closed, deadline)
        if answers:
            return answers[0].method
        reason = self._reasons.get(channel.channel_number)
        if isinstance(reason, ChannelClosed):
            raise Refused(reason.reply_code, reason.reply_text)
        raise self.trouble or ConnectionLost(str(reason))

    @contextlib.contextmanager
    def translating(self) -> Generator[None]:
        """Turn pika's errors into ours, their cause kept."""
        try:
            yield
        except AMQPError as error:
            raise self.trouble or ConnectionLost(f"{self.display_url}: {error!r}") from error

    def close(self) -> None:
        """Take leave of the server, so that it gives back at once what is held. Idempotent."""
        if self.trouble is None:
            with contextlib.suppress(ConnectionLost, TimeoutError, AMQPError):
                self._amqp.close()
                self.drive(lambda: self.trouble, _monotonic() + _FAREWELL)
        self.abort()

    def abort(self) -> None:
        """Drop the connection without a word. Idempotent."""
        self.trouble = self.trouble or ConnectionLost("the connection was closed")
        if self._closed:
            return
        self._closed = True
        if not self._amqp.is_closed:
            self._amqp.abort()
            self.step(0.0)
        self._close_loop()

    def leave_to_parent(self) -> None:
        """Close what a fork copied, without a word to the server. In the child only."""
        if self._amqp is not None and self._amqp.socket is not None:
            with contextlib.suppress(OSError):
                os.close(self._amqp.socket.detach())
        self._waker.close()

    def _close_loop(self) -> None:
        _connections.discard(self)
        self._loop.close()
        self._waker.close()

    def _on_close(self, _connection: Any, reason: Exception) -> None:
        if isinstance(reason, ConnectionClosedByBroker):
            text = f"{self.display_url} closed the connection: {reason.reply_text}"
        else:
            text = f"the connection to {self.display_url} broke: {reason}"
        self.trouble = self.trouble or ConnectionLost(text)
        self.trouble.__cause__ = reason

    def _on_channel_closed(self, channel: Any, reason: Exception) -> None:
        self._reasons[channel.channel_number] = reason

    def _on_vital_closed(self, channel: Any, reason: Exception) -> None:
        self._on_channel_closed(channel, reason)
        if not isinstance(reason, ChannelClosedByClient):
            text = str(reason)
            if isinstance(reason, ChannelClosed):
                text = _explained(reason.reply_code, reason.reply_text)
            self.trouble = self.trouble or ConnectionLost(f"{self.display_url}: {text}")

    def _on_blocked(self, _connection: Any, method: Any) -> None:
        self.blocked = f": it takes nothing at present ({method.method.reason})"

    def _on_unblocked(self, _connection: Any, _method: Any) -> None:
        self.blocked = ""


#: Of this process, for the children that it forks.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection.leave_to_parent()
    _connections.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _explained(code: int, text: str) -> str:
    """Return what the server says, and what can be done about missing permissions."""
    if code != _ACCESS_REFUSED:
        return text
    return f"{text}; its administrator can permit it (rabbitmqctl set_permissions)"


def _nothing() -> None:
    pass


def _root(error: Any) -> Any:
    """Return the innermost cause; pika packs failures to connect into each other."""
    while (inner := getattr(error, "exception", None)) is not None:
        error = inner
    return error
