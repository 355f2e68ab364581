"""The SQLite file: modes, versions, full disks, damage, foreign programs, forks, threads."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sqlite3
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from tests.system.sqlite_peers import PATIENCE, Peer, drain, opened, peers, send
from umbel import servers
from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import StorageError, TransportError, Unroutable
from umbel.ids import new_id
from umbel.message import Effects, Message, ResultRecord
from umbel.servers.seams import Server
from umbel.servers.sqlite import SqliteServer, schema
from umbel.servers.sqlite.connection import GLANCE, Transaction
from umbel.states import SUCCESS
from umbel.testing.clock import FakeClock
from umbel.testing.contract.stage import in_thread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    server = opened(url, "tasks")
    yield server
    server.close()


# --- modes


def modes(path: Path) -> dict[str, int]:
    found = {path.name: stat.S_IMODE(path.stat().st_mode)}
    for each in path.parent.glob(f"{path.name}-*"):
        found[each.name.removeprefix(path.name)] = stat.S_IMODE(each.stat().st_mode)
    return found


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_may_read_the_file_and_its_companions(tmp_path: Path) -> None:
    path = tmp_path / "state" / "queue.sqlite"
    server = opened(f"sqlite:///{path}", "tasks")
    send(server, "tasks", "x")
    consumer = server.transport.consume(["tasks", "none"], consumer_id=new_id(), lease=600)
    consumer.receive(1, timeout=0.01)
    consumer.receive(1, timeout=0.01)
    folder = path.with_name("queue.sqlite-bells.d")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes(path).pop("-bells.d") == 0o700
    assert {mode for name, mode in modes(path).items() if name != "-bells.d"} == {0o600}
    assert [stat.S_IMODE(pipe.stat().st_mode) for pipe in folder.iterdir()] == [0o600]
    consumer.close()
    server.close()


@pytest.mark.usefixtures("open_umask")
def test_companions_take_the_mode_that_the_file_was_given(path: Path, url: str) -> None:
    path.touch(0o660)
    server = opened(url, "tasks")
    send(server, "tasks", "x")
    found = modes(path)
    assert found.pop("-bells.d") == 0o770
    assert set(found.values()) == {0o660}
    server.close()


# --- versions


def test_a_file_of_a_newer_umbel_is_refused(server: Server, path: Path, url: str) -> None:
    send(server, "tasks", "x")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match=r"queue\.sqlite.*newer umbel \(schema 99"):
        servers.open(url).transport.queues()


def test_a_file_that_a_newer_umbel_upgrades_under_us_is_refused(server: Server, path: Path) -> None:
    send(server, "tasks", "x")
    with sqlite3.connect(path) as connection:
        schema.upgrade(connection, (*schema.UPGRADES, "CREATE TABLE more (id INTEGER)"))
    connection.close()
    with pytest.raises(StorageError, match="newer umbel"):
        send(server, "tasks", "y")


def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_has(path: Path) -> None:
    first, second = "CREATE TABLE state (topology INTEGER)", "ALTER TABLE state ADD COLUMN x"
    connection = sqlite3.connect(path, isolation_level=None)
    schema.upgrade(connection, (first,))
    connection.execute("INSERT INTO state VALUES (7)")
    schema.upgrade(connection, (first, second))
    assert connection.execute("SELECT * FROM state").fetchall() == [(8, None)]
    assert schema.is_current(connection, (first, second))
    connection.close()


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path, url: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"queue\.sqlite: .*another program"):
        opened(url, "tasks")
    assert path.read_bytes() == before


def test_many_processes_may_make_the_file_at_once(url: str) -> None:
    with peers() as started:
        started += [Peer(url, "take", "tasks", 1) for _ in range(4)]
        for peer in started:
            peer.until("ready")


# --- damage


def test_what_is_no_database_is_refused_with_advice(path: Path, url: str) -> None:
    path.write_text("These are my notes. " * 500)
    with pytest.raises(StorageError, match=r"queue\.sqlite: .*no SQLite database"):
        opened(url, "tasks")
    assert path.read_text().startswith("These are my notes.")


def test_a_damaged_file_is_told_and_a_restored_one_is_used_at_once(path: Path, url: str) -> None:
    # Given: a file with many messages, and a copy of it
    server = opened(url, "tasks")
    sent = [new_id() for _ in range(2000)]
    send(server, "tasks", *sent)
    server.close()
    copy = shutil.copy(path, path.with_suffix(".copy"))
    # When: most of it is overwritten
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (path.stat().st_size - 8192))
    # Then: whoever uses it is told
    server = servers.open(url)
    with pytest.raises(StorageError, match=r"queue\.sqlite: .*damaged"):
        drain(server, "tasks", "t")
    # And: it goes on when the copy is put in its place
    Path(copy).replace(path)
    for companion in ("-wal", "-shm"):
        path.with_name(path.name + companion).unlink(missing_ok=True)
    assert [each.message.id for each in drain(server, "tasks", "u")] == sent
    server.close()


def test_a_file_that_vanished_is_made_anew(server: Server, path: Path, url: str) -> None:
    send(server, "tasks", "x")
    consumer = server.transport.consume(["tasks"], consumer_id=new_id(), lease=600)
    consumer.receive(1, timeout=0.0)
    for each in path.parent.glob("queue.sqlite*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    # Nobody writes into the file that nobody sees any more, at least after a moment.
    SYSTEM_CLOCK.sleep(2 * GLANCE)
    with pytest.raises(Unroutable):
        send(server, "tasks", "y")
    other = opened(url, "tasks")
    waiting = in_thread(lambda: consumer.receive(1, timeout=PATIENCE))
    send(other, "tasks", "z")
    assert [each.message.id for each in waiting()] == ["z"]
    consumer.close()
    other.close()


def test_what_is_remembered_of_a_vanished_file_is_not_taken_for_the_new_ones(
    path: Path, url: str
) -> None:
    first = opened(url, "tasks", "mail")
    send(first, "tasks", "x")
    for each in path.parent.glob("queue.sqlite*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    second = opened(url, "mail", "tasks")
    SYSTEM_CLOCK.sleep(2 * GLANCE)
    send(first, "tasks", "y")
    assert [each.message.id for each in drain(second, "tasks", "t")] == ["y"]
    first.close()
    second.close()


# --- full disks


def test_a_full_disk_loses_nothing_that_was_confirmed(url: str) -> None:
    server = opened(url, "tasks")
    with peers() as started:
        started.append(filler := Peer(url, "fill", "tasks", 2_000_000))
        said = filler.rest()
    (full,) = [line for line in said if line[0] == "full"]
    sent = [line[1] for line in said if line[0] == "sent"]
    print(" ".join(full))
    assert "queue.sqlite:" in full[1]
    assert len(sent) > 20
    assert [each.message.id for each in drain(server, "tasks", "t")] == sent
    server.close()


def test_a_full_database_says_so_and_commits_nothing_by_halves(url: str) -> None:
    server = opened(url, "tasks")
    assert isinstance(server, SqliteServer)
    send(server, "tasks", "a")
    consumer = server.transport.consume(["tasks"], consumer_id=new_id(), lease=600)
    (held,) = consumer.receive(1, timeout=0.0)

    def limit(transaction: Transaction) -> None:
        (pages,) = transaction.execute("PRAGMA page_count").fetchone()
        transaction.execute(f"PRAGMA max_page_count = {pages + 5}").fetchall()

    server.database.write(limit)
    big = ResultRecord("a", b"x" * 100_000, SUCCESS)
    follow_up = Message("b", b"", {}, "tasks")
    with pytest.raises(StorageError, match=r"queue\.sqlite: .*full.*free some"):
        server.committer.commit([Effects(held, results=(big,), publish=(follow_up,))])
    assert server.results.get(["a"]) == {}
    small = ResultRecord("a", b"x", SUCCESS)
    assert server.committer.commit([Effects(held, results=(small,))]).stale == ()
    assert server.results.get(["a"]) == {"a": b"x"}
    consumer.close()
    assert drain(server, "tasks", "t") == []
    server.close()


# --- foreign programs


def test_a_foreign_transaction_is_waited_for_until_the_deadline(server: Server, path: Path) -> None:
    foreign = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransportError, match=r"queue\.sqlite: .*locked.*foreign program"):
        send(server, "tasks", "late", seconds=0.1)
    publishing = in_thread(lambda: send(server, "tasks", "x"))
    timer = threading.Timer(0.3, foreign.execute, ["COMMIT"])
    timer.start()
    publishing()
    timer.join()
    assert [each.message.id for each in drain(server, "tasks", "t")] == ["x"]
    foreign.close()


def test_foreign_readers_do_not_matter(server: Server, path: Path) -> None:
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN")
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    send(server, "tasks", "x")
    assert len(drain(server, "tasks", "t")) == 1
    foreign.close()


# --- forks and threads


def in_child(act: Callable[[], None]) -> None:
    """Run in a forked child and check that it ended well."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_server_may_be_used_on_both_sides_of_a_fork(server: Server) -> None:
    send(server, "tasks", "before")
    watch = server.results.watch()
    watch.add(["r"])
    watch.receive(timeout=0.01)

    def act() -> None:
        send(server, "tasks", "child")
        server.results.put([ResultRecord("r", b"child", SUCCESS)])
        assert server.results.get(["r"]) == {"r": b"child"}
        in_child(lambda: send(server, "tasks", "grandchild"))
        server.close()

    in_child(act)
    assert watch.receive(timeout=PATIENCE) == [("r", b"child")]
    send(server, "tasks", "after")
    got = [each.message.id for each in drain(server, "tasks", "t")]
    assert got == ["before", "child", "grandchild", "after"]
    watch.close()


def test_a_fork_while_other_threads_write_harms_neither_side(server: Server) -> None:
    # Given: threads that publish and read all the time
    stop = threading.Event()

    def publish(name: str) -> int:
        count = 0
        while not stop.is_set():
            send(server, "tasks", *[f"{name}-{count + n}" for n in range(5)])
            count += 5
        return count

    def read() -> None:
        while not stop.is_set():
            server.results.get(["child-0"])

    publishers = {name: in_thread(publish, name) for name in "ab"}
    reader = in_thread(read)
    # When: children are forked again and again, and use the same server
    children = [f"child-{number}" for number in range(15)]
    for name in children:
        in_child(partial(use, server, name))
    stop.set()
    reader()
    sent = [f"{name}-{n}" for name, join in publishers.items() for n in range(join())]
    # Then: all of it is there, once
    got = Counter(each.message.id for each in drain(server, "tasks", "t"))
    assert got == Counter(sent + children)
    assert set(server.results.get(children)) == set(children)


def use(server: Server, name: str) -> None:
    send(server, "tasks", name)
    server.results.put([ResultRecord(name, b"m", SUCCESS)])
    assert server.results.get([name]) == {name: b"m"}


def test_what_a_child_stores_is_there_after_its_parent_closed(url: str) -> None:
    # SQLite deletes its log when the last connection closes; the child's must not be overlooked.
    server = opened(url, "tasks")
    send(server, "tasks", "parent")
    sent, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            send(server, "tasks", "child-1")
            os.write(sent[1], b"x")
            os.read(closed[0], 1)
            send(server, "tasks", "child-2")
            os._exit(0)
        finally:
            os._exit(1)
    os.read(sent[0], 1)
    send(server, "tasks", "parent-2")
    server.close()
    os.write(closed[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (*sent, *closed):
        os.close(fd)
    got = [each.message.id for each in drain(server, "tasks", "t")]
    assert got == ["parent", "child-1", "parent-2", "child-2"]
    server.close()


def test_a_fork_waits_no_longer_than_it_must(server: Server, url: str) -> None:
    # Given: a thread that waits for its turn, which another process has
    with peers() as started:
        started.append(holder := Peer(url, "hold_the_turn"))
        holder.until("holding")
        publishing = in_thread(lambda: send(server, "tasks", "x"))
        # When: the process forks meanwhile
        in_child(lambda: None)
        # Then: it goes on as if nothing had been
        holder.input.write(b"\n")
        holder.input.flush()
        publishing()
    assert len(drain(server, "tasks", "t")) == 1


class StruckError(Exception):
    """What a signal handler raises, as a soft time limit does."""


# Where Python itself cannot pass an exception on, it warns: in a destructor, say.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_exceptions_that_strike_anywhere_leave_no_lock_behind(server: Server, url: str) -> None:
    # Given: a signal that raises in the main thread again and again, at any step
    sent: list[str] = []
    strikes = 0

    def strike(_number: int, _frame: FrameType | None) -> None:
        raise StruckError

    before = signal.signal(signal.SIGALRM, strike)
    other = servers.open(url)
    stop = threading.Event()

    def contend() -> None:
        while not stop.is_set():
            other.results.put([ResultRecord("x", b"m", SUCCESS)])

    join = in_thread(contend)
    # When: the thread publishes all the time
    for number in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002))
            for count in range(100):
                task_id = f"{number}-{count}"
                send(server, "tasks", task_id)
                sent.append(task_id)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except StruckError:
            strikes += 1
    signal.signal(signal.SIGALRM, before)
    stop.set()
    join()
    # Then: nobody waits for ever, and what was confirmed is there, once
    send(server, "tasks", "last")
    send(other, "tasks", "other")
    got = Counter(each.message.id for each in drain(other, "tasks", "t"))
    print(f"{strikes} strikes, {len(sent)} sent, {len(got) - len(sent) - 2} of unknown fate")
    assert strikes > 300
    assert set(sent) <= set(got)
    assert max(got.values()) == 1
    other.close()


def test_a_signal_handler_that_writes_while_its_thread_does_is_refused(server: Server) -> None:
    assert isinstance(server, SqliteServer)

    def work(transaction: Transaction) -> None:
        transaction.execute("UPDATE state SET swept_at = 5")
        with pytest.raises(TransportError, match="signal handler"):
            send(server, "tasks", "x")

    server.database.write(work)
    with server.database.read() as connection:
        assert connection.execute("SELECT swept_at FROM state").fetchone() == (5.0,)


def test_many_threads_share_a_server(server: Server) -> None:
    sent = [[f"{thread}-{number}" for number in range(60)] for thread in range(4)]
    flat = [task_id for mine in sent for task_id in mine]

    def publish(mine: list[str]) -> None:
        for start in range(0, len(mine), 3):
            send(server, "tasks", *mine[start : start + 3])

    def work() -> list[str]:
        consumer = server.transport.consume(["tasks"], consumer_id=new_id(), lease=600)
        done: list[str] = []
        while batch := consumer.receive(7, timeout=1.0):
            effects = [
                Effects(each, results=(ResultRecord(each.message.id, b"m", SUCCESS),))
                for each in batch
            ]
            assert server.committer.commit(effects).stale == ()
            done += [each.message.id for each in batch]
        consumer.close()
        return done

    def wait(mine: list[str]) -> int:
        watch = server.results.watch()
        watch.add(mine)
        told = set[str]()
        deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
        while len(told) < len(mine):
            assert SYSTEM_CLOCK.monotonic() < deadline
            told.update(task_id for task_id, _ in watch.receive(timeout=1.0))
        watch.close()
        return len(told)

    waits = [in_thread(wait, mine) for mine in sent]
    workers = [in_thread(work) for _ in range(3)]
    for join in [in_thread(publish, mine) for mine in sent]:
        join()
    assert Counter(task_id for join in workers for task_id in join()) == Counter(flat)
    assert [join() for join in waits] == [60] * 4


# --- descriptors


@pytest.mark.parametrize("ends", ["closed", "dropped"])
def test_who_is_through_leaves_nothing_open(path: Path, url: str, ends: str) -> None:
    before = len(descriptors())
    server = opened(url, "tasks")
    send(server, "tasks", "x")
    consumer = server.transport.consume(["tasks"], consumer_id=new_id(), lease=600)
    watch = server.results.watch()
    for _ in range(2):  # the second time the consumer waits at the pipe of a slot
        consumer.receive(1, timeout=0.01)
    watch.receive(0.01)
    assert {"-lock", "-bells"} <= {each.name.removeprefix(path.name) for each in open_below(path)}

    if ends == "closed":
        consumer.close()
        watch.close()
        server.close()
        consumer.wake()
    else:
        del server, consumer, watch
        gc.collect()

    assert not open_below(path)
    assert len(descriptors()) <= before


def descriptors() -> list[int]:
    return [int(each.name) for each in Path("/dev/fd").iterdir()]


def open_below(path: Path) -> list[Path]:
    """Return the files and pipes of this database that this process has open."""
    found = []
    for fd in descriptors():
        with suppress(OSError):  # that of the list itself
            found.append(os.fstat(fd))
    return [
        each
        for each in path.parent.rglob("*")
        if any(os.path.samestat(each.stat(), other) for other in found)
    ]


# --- upkeep


def test_what_has_expired_makes_room(path: Path) -> None:
    # Given: many results that end soon, some that last, dead letters, a revocation and a node
    clock = FakeClock.running()
    server = servers.open(f"sqlite:///{path}?dead_letters_expire=100", {"clock": clock})
    assert server.ledger is not None
    old = [ResultRecord(new_id(), b"x" * 4000, SUCCESS, 50.0) for _ in range(6000)]
    kept = ResultRecord(new_id(), b"kept", SUCCESS, None)
    server.results.put([kept, *old])
    server.committer.commit([Effects(None, publish=(Message("lost", b"", {}, "nowhere"),))])
    server.ledger.revoke(["r"], expires_in=50.0)
    server.ledger.announce("n", {}, expires_in=50.0)
    # When: their time is over, and somebody recovers now and then
    clock.advance(101)
    for _ in range(60):
        server.transport.recover()
        clock.advance(2)
    # Then: only what lasts is there, and the file has given back most of its pages
    assert server.results.get([kept.task_id]) == {kept.task_id: b"kept"}
    counts = {name: count(path, name) for name in ("results", "dead", "revoked", "nodes")}
    assert counts == {"results": 1, "dead": 0, "revoked": 0, "nodes": 0}
    server.close()
    assert path.stat().st_size < 20_000_000 < 6000 * 4096


def test_the_log_does_not_grow_for_ever(server: Server, path: Path) -> None:
    for _ in range(40):
        send(server, "tasks", *[new_id() for _ in range(500)])
        drain(server, "tasks", new_id())
    assert path.with_name(f"{path.name}-wal").stat().st_size < 20_000_000


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(found)
