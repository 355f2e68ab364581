# mypy: disable-error-code="untyped-decorator"
"""Capture golden bytes from a real Celery: `python -m tests.interop.capture`, by hand.

Starts a private Redis and RabbitMQ, sends calls with Celery's own client, runs a Celery worker, and
writes what travelled into tests/interop/golden/*.json. Nothing of umbel takes part. Names of the
host and paths of the machine are replaced by neutral ones; all else is as it travelled.

The tests compare these bytes with ours as values, so a new capture changes ids and times only.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import datetime as dt
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import celery
import kombu
import pika
import redis
from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject
from celery.schedules import schedule

from tests import servers
from tests.interop.values import ETA, NAIVE_ETA, ODD_ETA, SPECIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
#: How the worker finds the server of this run.
URL_VARIABLE = "UMBEL_CAPTURE_URL"
BACKEND_VARIABLE = "UMBEL_CAPTURE_BACKEND"
HOST = "golden.example"
#: Every golden message has an id of this form, so that a test can tell calls apart.
IDS = "00000000-0000-4000-8000-{:012d}"

URL = os.environ.get(URL_VARIABLE, "redis://127.0.0.1:1/0")
app: Any = Celery("golden", broker=URL, backend=os.environ.get(BACKEND_VARIABLE, URL))
app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    result_accept_content=["json"],
    task_store_eager_result=False,
    result_extended=os.environ.get("UMBEL_CAPTURE_EXTENDED") == "1",
    worker_hijack_root_logger=False,
)


class PaymentError(Exception):
    """An exception whose constructor takes other arguments than it keeps."""

    def __init__(self, account: str, *, amount: int) -> None:
        super().__init__(account)
        self.amount = amount


@app.task(name="tasks.add")
def add(x: Any = 0, y: Any = 0) -> Any:
    return x + y


@app.task(name="tasks.echo")
def echo(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


@app.task(name="tasks.special")
def special() -> Any:
    return SPECIAL


@app.task(name="tasks.fail")
def fail(*args: Any) -> None:
    raise ValueError(*args)


@app.task(name="tasks.fail_unencodable")
def fail_unencodable() -> None:
    raise ValueError("bad", {1}, object)


@app.task(name="tasks.fail_own")
def fail_own() -> None:
    raise PaymentError("A-1", amount=5)


@app.task(name="tasks.fail_key")
def fail_key() -> None:
    dict[str, int]()["missing"]


@app.task(name="tasks.unencodable")
def unencodable() -> Any:
    return {1, 2}


@app.task(name="tasks.again", bind=True, max_retries=1)
def again(self: Any, x: Any) -> Any:
    if self.request.retries == 0:
        raise self.retry(exc=KeyError("first"), countdown=0.01)
    return x


@app.task(name="tasks.again_later", bind=True, max_retries=5)
def again_later(self: Any, *_: Any, **__: Any) -> Any:
    raise self.retry(countdown=3600)


@app.task(name="tasks.started", track_started=True)
def started() -> str:
    return "done"


@app.task(name="tasks.progress", bind=True)
def progress(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    return "done"


@app.task(name="tasks.ignored")
def ignored() -> None:
    raise Ignore


@app.task(name="tasks.rejected", bind=True)
def rejected(self: Any) -> None:
    del self
    raise Reject("no", requeue=False)


@app.task(name="tasks.children", bind=True)
def children(self: Any) -> str:
    add.delay(1, 1)
    group(add.s(1, 2), add.s(3, 4)).apply_async()
    return str(self.request.id)


@app.task(name="tasks.request", bind=True)
def request(self: Any) -> Any:
    """Show the request as user code sees it."""
    shown = {name: getattr(self.request, name, "absent") for name in REQUEST_FIELDS}
    return json.loads(json.dumps(shown, default=repr))


REQUEST_FIELDS = (
    *("args", "kwargs", "callbacks", "errbacks", "chain", "chord", "correlation_id", "task"),
    *("delivery_info", "eta", "expires", "group", "group_index", "headers", "hostname", "id"),
    *("ignore_result", "is_eager", "origin", "parent_id", "retries", "reply_to", "root_id"),
    *("replaced_task_nesting", "shadow", "timelimit", "utc", "stamped_headers", "stamps"),
    *("called_directly", "argsrepr", "kwargsrepr", "lang", "properties", "children"),
)


def _calls() -> dict[str, Callable[[str], Any]]:
    """Name -> a call; it gets the id to use. The tests know each by its name."""
    return {
        "plain": lambda i: add.apply_async((1, 2), task_id=i),
        "no-arguments": lambda i: add.apply_async(task_id=i),
        "keywords": lambda i: add.apply_async((1,), {"y": 2}, task_id=i),
        "countdown": lambda i: add.apply_async((1, 2), task_id=i, countdown=3600),
        "eta": lambda i: add.apply_async((1, 2), task_id=i, eta=ETA),
        "eta-offset": lambda i: add.apply_async((1, 2), task_id=i, eta=ODD_ETA),
        "eta-naive": lambda i: add.apply_async((1, 2), task_id=i, eta=NAIVE_ETA),
        "eta-text": lambda i: add.apply_async((1, 2), task_id=i, eta="2031-05-06T07:08:09Z"),
        "expires": lambda i: add.apply_async((1, 2), task_id=i, expires=3600),
        "expires-datetime": lambda i: add.apply_async((1, 2), task_id=i, expires=ETA),
        "expires-past": lambda i: add.apply_async(
            (1, 2), task_id=i, expires=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        ),
        "priority": lambda i: add.apply_async((1, 2), task_id=i, priority=5),
        "priority-above": lambda i: add.apply_async((1, 2), task_id=i, priority=12),
        "priority-below": lambda i: add.apply_async((1, 2), task_id=i, priority=-1),
        "link": lambda i: add.apply_async((1, 2), task_id=i, link=add.s(3)),
        "links": lambda i: add.apply_async((1, 2), task_id=i, link=[add.s(3), echo.si("x", y=1)]),
        "link-error": lambda i: add.apply_async((1, 2), task_id=i, link_error=echo.s()),
        "ignore-result": lambda i: add.apply_async((1, 2), task_id=i, ignore_result=True),
        "limits": lambda i: add.apply_async((1, 2), task_id=i, time_limit=30, soft_time_limit=2.5),
        "zlib": lambda i: add.apply_async((1, 2), task_id=i, compression="zlib"),
        "gzip": lambda i: add.apply_async((1, 2), task_id=i, compression="gzip"),
        "bzip2": lambda i: add.apply_async((1, 2), task_id=i, compression="bzip2"),
        "lzma": lambda i: add.apply_async((1, 2), task_id=i, compression="lzma"),
        "pickle": lambda i: echo.apply_async((1, {2}), {"k": b"x"}, task_id=i, serializer="pickle"),
        "yaml": lambda i: echo.apply_async((1, "a"), {"k": ETA}, task_id=i, serializer="yaml"),
        "msgpack": lambda i: echo.apply_async(
            (1, b"\xff"), {"k": 2}, task_id=i, serializer="msgpack"
        ),
        "msgpack-zlib": lambda i: echo.apply_async(
            ("a" * 50,), task_id=i, serializer="msgpack", compression="zlib"
        ),
        "shadow": lambda i: add.apply_async((1, 2), task_id=i, shadow="tasks.shown"),
        "headers": lambda i: add.apply_async((1, 2), task_id=i, headers={"tenant": "t1", "n": [1]}),
        "headers-overwriting": lambda i: add.apply_async(
            (1, 2), task_id=i, headers={"shadow": "own", "lang": "xx"}
        ),
        "stamps": lambda i: add.signature((1, 2), task_id=i).stamp(tenant="x", n=[1]).apply_async(),
        "special": lambda i: echo.apply_async((SPECIAL,), {"value": SPECIAL}, task_id=i),
        "long-text": lambda i: echo.apply_async(("x" * 3000,), task_id=i),
        "long-list": lambda i: echo.apply_async((list(range(2000)),), task_id=i),
        "queue": lambda i: add.apply_async((1, 2), task_id=i, queue="other"),
        "exchange": lambda i: add.apply_async(
            (1, 2), task_id=i, exchange="celery", routing_key="celery"
        ),
        "properties": lambda i: add.apply_async(
            (1, 2), task_id=i, message_id="m-1", delivery_mode=1, app_id="shop"
        ),
        "reprs": lambda i: add.apply_async((1, 2), task_id=i, argsrepr="(*, *)", kwargsrepr="{*}"),
        "by-name": lambda i: app.send_task("elsewhere.run", (1,), {"k": None}, task_id=i),
        "parents": lambda i: add.apply_async((1, 2), task_id=i, root_id="r-1", parent_id="p-1"),
        "list-arguments": lambda i: add.apply_async([1, 2], task_id=i),
    }


def _old_calls() -> dict[str, Callable[[str], Any]]:
    """Name -> a call of protocol 1."""
    old = Celery("old", broker=app.conf.broker_url, backend=app.conf.result_backend)
    old.conf.task_protocol = 1
    send = old.send_task
    group_options: dict[str, Any] = {"group_id": "g-1", "group_index": 3}
    return {
        "plain": lambda i: send("tasks.add", (1, 2), task_id=i),
        "keywords": lambda i: send("tasks.add", (1,), {"y": 2}, task_id=i),
        "countdown": lambda i: send("tasks.add", (1, 2), task_id=i, countdown=3600),
        "expires": lambda i: send("tasks.add", (1, 2), task_id=i, expires=3600),
        "link": lambda i: send("tasks.add", (1, 2), task_id=i, link=add.s(3), link_error=echo.s()),
        "group": lambda i: send("tasks.add", (1, 2), task_id=i, **group_options),
        "limits": lambda i: send("tasks.add", (1, 2), task_id=i, time_limit=9, soft_time_limit=5),
        "special": lambda i: send("tasks.echo", (SPECIAL,), task_id=i),
    }


def _canvases() -> dict[str, Callable[[], Any]]:
    """Name -> a workflow; each message it sends is a case of its own, numbered."""
    return {
        "chain": lambda: chain(add.s(1, 2), add.s(3), add.s(4)).apply_async(),
        "group": lambda: group(add.s(1, 1), add.s(2, 2)).apply_async(),
        "chord": lambda: chord([add.s(1, 1), add.s(2, 2)], echo.s()).apply_async(),
        "chain-chord": lambda: chain(
            add.s(1, 1), group(add.s(2), add.s(3)), echo.s()
        ).apply_async(),
        "chunks": lambda: add.chunks([(1, 1), (2, 2)], 1).apply_async(),
        "stamped-chain": lambda: _stamped(chain(add.s(1, 2), add.s(3))).apply_async(),
    }


def _stamped(signature: Any) -> Any:
    signature.stamp(tenant="x")
    return signature


def _worked() -> dict[str, Callable[[str], Any]]:
    """Name -> a call that a worker runs; its results are captured in order."""
    return {
        "success": lambda i: add.apply_async((1, 2), task_id=i),
        "success-none": lambda i: echo.apply_async(task_id=i),
        "special": lambda i: special.apply_async(task_id=i),
        "failure": lambda i: fail.apply_async(("bad", 42), task_id=i),
        "failure-unencodable": lambda i: fail_unencodable.apply_async(task_id=i),
        "failure-own-class": lambda i: fail_own.apply_async(task_id=i),
        "failure-key": lambda i: fail_key.apply_async(task_id=i),
        "unencodable-result": lambda i: unencodable.apply_async(task_id=i),
        "retry": lambda i: again.apply_async(("v",), task_id=i),
        "started": lambda i: started.apply_async(task_id=i),
        "progress": lambda i: progress.apply_async(task_id=i),
        "ignored": lambda i: ignored.apply_async(task_id=i),
        "rejected": lambda i: rejected.apply_async(task_id=i),
        "children": lambda i: children.apply_async(task_id=i),
        "unknown": lambda i: app.send_task("no.such.task", (1,), task_id=i),
        "expired": lambda i: add.apply_async(
            (1, 2), task_id=i, expires=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        ),
        "group-member": lambda i: add.apply_async(
            (1, 2), task_id=i, group_id="g-1", group_index=3, parent_id="p-1"
        ),
        "stamped": lambda i: add.signature((1, 2), task_id=i).stamp(tenant="x").apply_async(),
        "request": lambda i: request.apply_async(
            task_id=i, headers={"tenant": "t1"}, priority=3, expires=3600, time_limit=30
        ),
        "request-plain": lambda i: request.apply_async(task_id=i),
        "again-later": lambda i: again_later.apply_async(
            (1, 2),
            {"k": "v"},
            task_id=i,
            link=add.s(3),
            priority=5,
            headers={"tenant": "t1"},
            expires=7200,
            time_limit=30,
            shadow="shown",
        ),
        "again-later-zlib": lambda i: again_later.apply_async(
            (b"\xff",), task_id=i, compression="zlib"
        ),
        "again-later-pickle": lambda i: again_later.apply_async(
            ({1},), task_id=i, serializer="pickle"
        ),
        "again-later-stamped": lambda i: (
            again_later.signature((1,), task_id=i).stamp(tenant="x").apply_async()
        ),
    }


# --- Redis ----------------------------------------------------------------------------------


class Monitor:
    """Follows all that is said to a Redis server. One thread of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0))
        self._socket.sendall(b"MONITOR\r\n")
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._changed = threading.Condition()
        self._said: list[list[bytes]] = []
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._lines:
                # +1795332374.995058 [0 127.0.0.1:40000] "LPUSH" "celery" "..."; quoted as in Python
                _, _, words = line.partition(b"] ")
                text = words.strip().decode("ascii").replace('" "', '", b"')
                with self._changed:
                    self._said.append(list(ast.literal_eval(f"(b{text},)")) if text else [])
                    self._changed.notify_all()

    def wait_for(self, enough: Callable[[list[list[bytes]]], bool], timeout: float = 30) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._said), timeout):
                raise TimeoutError(f"what was waited for was not said: {self._said}")

    def take(self) -> list[list[bytes]]:
        with self._changed:
            said, self._said = self._said, []
            return said

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _pushed(said: list[list[bytes]]) -> list[tuple[str, str]]:
    """Return queue and envelope of each message published."""
    return [
        (neutral(words[1].decode()), neutral(words[2].decode()))
        for words in said
        if words and words[0].upper() == b"LPUSH"
    ]


def _stored(said: list[list[bytes]], task_id: str) -> list[str]:
    key = f"celery-task-meta-{task_id}".encode()
    return [
        neutral(words[3].decode())
        for words in said
        if words and words[0].upper() == b"SETEX" and words[1] == key
    ]


def neutral(text: str) -> str:
    for found, shown in (
        (str(ROOT) + "/", ""),
        (sys.prefix, "env"),
        (sys.base_prefix, "python"),
        (socket.gethostname(), HOST),
    ):
        text = text.replace(found, shown)
    return text


def capture_messages(client: redis.Redis, monitor: Monitor) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for number, (name, send) in enumerate(_calls().items()):
        cases[name] = _published(client, monitor, send, IDS.format(number))[0]
    for number, (name, send) in enumerate(_old_calls().items()):
        task_id = IDS.format(500 + number)
        cases[f"protocol-1-{name}"] = _published(client, monitor, send, task_id)[0]
    for name, apply in _canvases().items():
        published = _published(client, monitor, functools.partial(_ignoring_id, apply), "")
        cases.update({f"{name}-{index}": case for index, case in enumerate(published)})
    cases["timezone"] = _in_new_york(client, monitor)
    cases["beat"] = _from_beat(client, monitor)
    return cases


def _ignoring_id(apply: Callable[[], Any], _: str) -> Any:
    return apply()


def _published(
    client: redis.Redis, monitor: Monitor, send: Callable[[str], Any], task_id: str
) -> list[dict[str, str]]:
    monitor.take()
    send(task_id)
    client.echo("end of the call")
    monitor.wait_for(lambda said: [b"ECHO", b"end of the call"] in said)
    return [{"queue": queue, "envelope": envelope} for queue, envelope in _pushed(monitor.take())]


def _in_new_york(client: redis.Redis, monitor: Monitor) -> dict[str, str]:
    there: Any = Celery("there", broker=app.conf.broker_url, backend=app.conf.result_backend)
    there.conf.timezone = "America/New_York"
    send = lambda i: there.send_task("tasks.add", (1, 2), task_id=i, countdown=3600)  # noqa: E731
    return _published(client, monitor, send, IDS.format(600))[0]


def _from_beat(client: redis.Redis, monitor: Monitor) -> dict[str, str]:
    from celery.beat import Scheduler  # noqa: PLC0415 -- starts what only this case needs

    def send(_: str) -> None:
        beat = Scheduler(app, lazy=True)
        entry = beat.Entry(
            "each second", "tasks.add", schedule=schedule(1), args=(1, 1), options={}, app=app
        )
        beat.apply_async(entry, advance=False)

    return _published(client, monitor, send, "")[0]


def capture_results(url: str, client: redis.Redis, *, extended: bool) -> dict[str, Any]:
    """Let a worker run the calls one by one; per call, what was stored and sent because of it."""
    client.flushdb()
    monitor = Monitor(url)
    cases: dict[str, Any] = {}
    with celery_worker(url, extended=extended):
        for number, (name, send) in enumerate(_worked().items()):
            if extended and name.endswith("pickle"):
                continue  # ends a Celery worker: the meta cannot hold these arguments
            task_id = IDS.format(700 + number)
            monitor.take()
            send(task_id)
            monitor.wait_for(functools.partial(_settled, name, task_id))
            said = monitor.take()
            cases[name] = {
                "id": task_id,
                "messages": [envelope for _, envelope in _pushed(said)],
                "results": _stored(said, task_id),
            }
        revoked = IDS.format(800)
        monitor.take()
        app.control.revoke(revoked)
        monitor.wait_for(lambda said: bool(_stored(said, revoked)))
        cases["revoked"] = {
            "id": revoked,
            "messages": [],
            "results": _stored(monitor.take(), revoked),
        }
    monitor.close()
    return cases


def _settled(name: str, task_id: str, said: list[list[bytes]]) -> bool:
    return _finished(said) and (name == "ignored" or bool(_stored(said, task_id)))


def _finished(said: list[list[bytes]]) -> bool:
    """Every message that was published has been acknowledged, or waits for its eta."""
    pushed = [envelope for _, envelope in _pushed(said)]
    waiting = [
        text for text in pushed if ((json.loads(text)["headers"].get("eta") or "") > _in_a_minute())
    ]
    ends = [words for words in said if words[:2] == [b"ZREM", b"unacked_index"]]
    held = [words for words in said if words[:2] == [b"ZADD", b"unacked_index"]]
    return bool(pushed) and len(held) == len(pushed) and len(ends) == len(pushed) - len(waiting)


def _in_a_minute() -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)).isoformat()


@contextlib.contextmanager
def celery_worker(url: str, *, extended: bool = False) -> Generator[None]:
    command = [sys.executable, "-m", "celery", "-A", "tests.interop.capture", "worker"]
    options = ["-P", "solo", "-n", f"w1@{HOST}", "-l", "INFO", "--without-gossip"]
    environment = {
        **os.environ,
        URL_VARIABLE: url,
        "UMBEL_CAPTURE_EXTENDED": "1" if extended else "0",
        "PYTHONPATH": str(ROOT),
        "C_FORCE_ROOT": "1",
    }
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            [*command, *options, "--without-mingle", "--without-heartbeat"],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 30
            while not app.control.ping(timeout=0.5):
                if time.monotonic() > deadline or worker.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read().decode())
            yield
        finally:
            worker.send_signal(signal.SIGQUIT)
            worker.wait(20)


# --- RabbitMQ -------------------------------------------------------------------------------


def capture_amqp(url: str) -> dict[str, Any]:
    """Capture properties and headers as a plain AMQP client sees them."""
    here = Celery("amqp", broker=url, backend="rpc://")
    here.task(name="tasks.add")(add.run)
    plain = here.tasks["tasks.add"]
    calls: dict[str, Callable[[str], Any]] = {
        "plain": lambda i: plain.apply_async((1, 2), task_id=i),
        "countdown": lambda i: plain.apply_async((1, 2), task_id=i, countdown=3600),
        "expires": lambda i: plain.apply_async((1, 2), task_id=i, expires=3600),
        "priority": lambda i: plain.apply_async((1, 2), task_id=i, priority=5),
        "zlib": lambda i: plain.apply_async((1, 2), task_id=i, compression="zlib"),
        "pickle": lambda i: plain.apply_async((1, 2), task_id=i, serializer="pickle"),
        "headers": lambda i: plain.apply_async((1, 2), task_id=i, headers={"t": "1", "n": [1.5]}),
        "properties": lambda i: plain.apply_async((1, 2), task_id=i, message_id="m", app_id="s"),
    }
    cases: dict[str, Any] = {}
    connection = pika.BlockingConnection(pika.URLParameters(url.removesuffix("//") + "/%2F"))
    channel = connection.channel()
    for number, (name, send) in enumerate(calls.items()):
        send(IDS.format(900 + number))
        cases[name] = _got(channel)
    connection.close()
    return cases


def _got(channel: Any) -> dict[str, Any]:
    while True:
        method, properties, body = channel.basic_get("celery", auto_ack=True)
        if method is not None:
            break
    shown = {k: v for k, v in vars(properties).items() if v is not None and k != "headers"}
    return {
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "properties": json.loads(neutral(json.dumps(shown))),
        "headers": json.loads(neutral(json.dumps(properties.headers))),
        "body": base64.b64encode(body).decode(),
    }


# --- all of it ------------------------------------------------------------------------------


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="umbel-capture-"))
    with servers.redis_server(directory / "redis") as server:
        app.conf.update(broker_url=server.url, result_backend=server.url)
        client = redis.Redis.from_url(server.url)
        monitor = Monitor(server.url)
        write("messages", capture_messages(client, monitor))
        monitor.close()
        write("results", capture_results(server.url, client, extended=False))
        write("results-extended", capture_results(server.url, client, extended=True))
    with servers.rabbitmq_server(directory / "rabbitmq") as server:
        write("amqp", capture_amqp(server.url))


def write(name: str, cases: dict[str, Any]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    versions = {"celery": celery.__version__, "kombu": kombu.__version__}
    text = json.dumps({"versions": versions, "cases": cases}, indent=1, sort_keys=True)
    (GOLDEN / f"{name}.json").write_text(text + "\n")
    print(f"{name}: {len(cases)} cases")


if __name__ == "__main__":
    # The worker imports this module by its name; the tasks of both must be one registry.
    from tests.interop import capture

    capture.main()
