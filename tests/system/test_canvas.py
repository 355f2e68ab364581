"""Workflows as they run: their values, their failures, and what becomes of the parts."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.engines import running
from umbel import Signature, Task, Umbel, chain, chord, group
from umbel.exceptions import ChordError, Ignore, ImproperlyConfigured, Reject, TaskRevokedError
from umbel.result import AsyncResult, allow_join_result
from umbel.testing.probe import Probe

#: Seconds.
PATIENCE = 60.0


class Tasks(NamedTuple):
    app: Umbel
    add: Task[..., int]
    total: Task[..., int]
    same: Task[..., Any]
    broken: Task[..., Any]
    noted: list[Any]
    note: Task[..., None]
    explain: Task[..., None]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return {
        "memory": f"memory://{tmp_path.name}",
        "sqlite": f"sqlite:///{tmp_path}/canvas.sqlite",
    }[request.param]


@pytest.fixture
def app(url: str) -> Generator[Umbel]:
    with Umbel("canvas", broker=url) as made:
        yield made


@pytest.fixture
def t(app: Umbel) -> Tasks:
    noted: list[Any] = []

    @app.task
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task
    def same(*values: Any) -> Any:
        return values[0] if len(values) == 1 else list(values)

    @app.task
    def broken(*_: Any) -> None:
        raise ValueError("broken")

    @app.task
    def note(task_id: str) -> None:
        noted.append(task_id)

    @app.task
    def explain(request: Any, error: BaseException, _: Any) -> None:
        noted.append((request.id, type(error)))

    return Tasks(app, add, total, same, broken, noted, note, explain)


def test_values(t: Tasks) -> None:
    add, total, same = t.add, t.total, t.same
    cases: list[tuple[Signature[Any], Any]] = [
        (add.s(1, 2) | add.s(3) | add.s(4), 10),
        (group([add.s(i, i) for i in range(4)]), [0, 2, 4, 6]),
        (chord([add.s(i, i) for i in range(4)], total.s()), 12),
        (chord([add.s(i, i) for i in range(4)], total.s() | add.s(1)), 13),
        (chord([], same.s()), []),
        (chord([], group(same.s(1), same.s(2))), [[[], 1], [[], 2]]),
        (chord([same.s(None)], same.s()), [None]),
        (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1), 8),
        (add.s(1, 1) | group(add.s(1), add.s(2)), [3, 4]),
        (add.s(1, 1) | group(add.s(1), add.s(2)) | group(total.s(), same.s()), [7, [3, 4]]),
        (chord([add.s(1) | group(add.s(1), add.s(2)), add.s(7, 0)], same.s()), [[3, 4], 7]),
        (chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(7, 0)], same.s()), [6, 7]),
        (chord([add.s(1, 1)], chord([total.s(), same.s()], same.s())), [2, [2]]),
        (chord([group(add.s(1), group(add.s(2), add.s(3))), add.s(4)], same.s()), [2, 3, 4, 5]),
        (chain(chord([add.s(1)], total.s()), group(add.s(1), add.s(2)), total.s()), 7),
        (group(group(add.s(1), add.s(2)), chord([add.s(1)], total.s())), [2, 3, 2]),
        (add.map([1, 2]), [2, 3]),
        (add.starmap([(1, 2), (3, 4)]), [3, 7]),
        (add.chunks(zip(range(4), range(4), strict=True), 3), [[0, 2, 4], [6]]),
        (same.s(0) | add.chunks([(1, 1), (2, 2)], 1) | same.s(), [[2], [4]]),
    ]
    with running(t.app, lanes=2):
        results = [(workflow.apply_async(), expected) for workflow, expected in cases]
        for (result, expected), (workflow, _) in zip(results, cases, strict=True):
            assert result.get(timeout=PATIENCE) == expected, workflow
    t.app.conf.task_always_eager = True
    for workflow, expected in cases:
        assert workflow.apply_async().get() == expected, workflow


def test_a_header_of_thousands(t: Tasks) -> None:
    with running(t.app, lanes=2):
        result = chord((t.add.s(i, i) for i in range(2500)), t.total.s()).apply_async()
        assert result.get(timeout=60) == 2 * sum(range(2500))
    assert result.parent is not None
    assert len(list(result.parent.leaves())) == 2500


def test_a_chord_whose_members_fail_ends_with_their_names(t: Tasks) -> None:
    body = (t.total.s() | t.add.s(1)).on_error(t.note.s()).on_error(t.explain.s())
    with running(t.app), Probe() as probe:
        result = chord([t.add.s(1, 1), t.broken.s(), t.broken.s()], body).apply_async()
        with pytest.raises(ChordError) as caught:
            result.get(timeout=PATIENCE)
        probe.wait_until(lambda: len(t.noted) == 2, "both errbacks", timeout=PATIENCE)
    header: Any = list(result.ancestors())[-1]
    failed = [each.id for each in header.results if each.failed()]
    assert len(failed) == 2
    assert str(caught.value) == "; ".join(
        f"Dependency {each} raised ValueError('broken')" for each in failed
    )
    assert sorted(t.noted, key=str) == sorted([result.id, (result.id, ChordError)], key=str)
    assert isinstance(result.parent.result, ChordError)  # the body's first link


def test_a_failure_reaches_every_id_that_was_given_out(t: Tasks) -> None:
    add, total = t.add, t.total
    workflows: list[Signature[Any]] = [
        t.broken.s() | add.s(1) | add.s(2),
        t.broken.s() | group(add.s(1), add.s(2)) | total.s() | add.s(1),
        chord([t.broken.s() | add.s(1)], total.s() | add.s(1)),
        chord([chord([t.broken.s()], total.s()), add.s(1)], total.s() | group(add.s(1))),
        t.broken.s() | group(add.s(1), add.s(2)),
        chord([t.broken.s() | group(add.s(1), add.s(2))], total.s()),
    ]
    with running(t.app):
        for workflow in workflows:
            result: Any = workflow.apply_async()
            with pytest.raises((ValueError, ChordError)):
                result.get(timeout=PATIENCE)
            every = [leaf for each in (result, *result.ancestors()) for leaf in each.leaves()]
            states = {each.id: each.state for each in every}
            assert set(states.values()) <= {"FAILURE", "SUCCESS"}, (workflow, states)


@pytest.mark.parametrize("ends", ["ignored", "rejected", "revoked", "expired", "unknown queue"])
def test_a_chord_ends_whatever_ends_its_members(t: Tasks, ends: str) -> None:
    @t.app.task
    def odd() -> None:
        if ends == "revoked":
            raise TaskRevokedError("called off")
        raise Ignore if ends == "ignored" else Reject("no")

    member: Signature[Any] = odd.si()
    if ends == "expired":
        member.set(expires=-1.0)
    if ends == "unknown queue":
        member = t.add.s(1, 1) | t.add.s(1).set(exchange="no-such-exchange", routing_key="nowhere")
    with running(t.app):
        result = chord([t.add.s(1, 1), member], t.total.s()).apply_async()
        with pytest.raises(ChordError, match="Dependency"):
            result.get(timeout=PATIENCE)


def test_a_chord_ends_though_a_member_cannot_be_read(t: Tasks) -> None:
    with running(t.app):
        odd = t.add.s(1, 1).set(serializer="yaml")  # which accept_content does not name
        result = chord([t.add.s(1, 1), odd], t.total.s()).apply_async()
        with pytest.raises(ChordError, match="ContentDisallowed"):
            result.get(timeout=PATIENCE)


def test_a_member_may_retry(t: Tasks) -> None:
    @t.app.task(bind=True)
    def slow_to_start(self: Task[..., Any]) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return 5

    with running(t.app):
        assert chord([slow_to_start.s(), t.add.s(1)], t.total.s()).apply_async().get(PATIENCE) == 7


def test_a_task_may_replace_itself(t: Tasks) -> None:
    add = t.add

    @t.app.task(bind=True)
    def instead(self: Task[..., Any], kind: str) -> Any:
        workflows: dict[str, Signature[Any]] = {
            "task": add.s(1),
            "chain": add.s(1) | add.s(10),
            "group": group(add.s(1), add.s(2)),
            "empty": group([]),
            "chord": chord([add.s(1), add.s(2)], t.total.s()),
            "broken": t.broken.s(),
        }
        raise self.replace(workflows[kind])

    values = {"task": 2, "chain": 12, "group": [2, 3], "empty": [], "chord": 5}
    with running(t.app):
        for kind, value in values.items():
            result = instead.s(kind).apply_async()
            assert result.get(timeout=PATIENCE) == value
            assert (instead.s(kind) | t.same.s()).apply_async().get(timeout=PATIENCE) == value
        header = [instead.s(kind) for kind in values]
        assert chord(header, t.same.s()).apply_async().get(timeout=PATIENCE) == [*values.values()]
        linked = instead.s("broken").set(link_error=t.explain.s())
        failed = linked.apply_async()
        with pytest.raises(ValueError, match="broken"):
            failed.get(timeout=PATIENCE)
        assert t.noted == [(failed.id, ValueError)]
    t.app.conf.task_always_eager = True
    for kind, value in values.items():
        assert instead.s(kind).apply_async().get() == value


def test_a_member_may_add_another(t: Tasks) -> None:
    @t.app.task(bind=True)
    def growing(self: Task[..., Any], x: int) -> int:
        self.add_to_chord(t.add.si(1000, 1))
        return x

    with running(t.app):
        result = chord([growing.s(1), t.add.s(1)], t.same.s()).apply_async()
        assert result.get(timeout=PATIENCE) == [1, 2, 1001]
        with pytest.raises(ValueError, match="not a member"):
            growing.delay(1).get(timeout=PATIENCE)


def test_callbacks_may_be_workflows(t: Tasks) -> None:
    t.app.conf.result_extended = True
    linked = t.add.s(1, 1).set(
        link=[
            group(t.add.s(1), t.add.s(2)),
            chord([t.add.s(3)], t.total.s()),
            t.add.s(4) | t.add.s(5),
        ]
    )
    with running(t.app):
        result = linked.apply_async()
        assert result.get(timeout=PATIENCE) == 2
        children: Any = result.children
        assert [each.get(timeout=PATIENCE) for each in children] == [[3, 4], 5, 11]


def test_what_came_of_a_task_can_be_drawn(t: Tasks) -> None:
    with running(t.app):
        last = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.total.s()).apply_async()
        assert last.get(timeout=PATIENCE) == 7
    header: Any = last.parent
    first: Any = header.parent
    found = {str(node) for _, node in first.iterdeps()}
    assert found == {first.id, last.id}
    drawn = str(first.graph)
    assert f'"{first.id}" -> "{last.id}";' in drawn
    assert drawn.count("SUCCESS") == 2
    assert [value for _, value in first.collect()] == [2, 7]


def test_a_whole_workflow_may_be_called_off(t: Tasks) -> None:
    begun, called_off = threading.Event(), threading.Event()

    @t.app.task
    def lead(x: int) -> str:
        begun.set()
        assert called_off.wait(PATIENCE)
        return t.note.delay(str(x)).id

    with running(t.app, lanes=2):
        # Given a workflow whose first task runs, and has not sent what it will send
        workflow = lead.s(7) | t.same.s() | group(t.same.s(), t.same.s()) | t.same.s()
        result = workflow.apply_async()
        assert begun.wait(PATIENCE)
        # When
        result.revoke(tree=True)
        called_off.set()
        # Then what ran goes on; nothing comes of it, and every id has ended
        *_, first = result.ancestors()
        assert isinstance(first, AsyncResult)
        sent = AsyncResult[None](first.get(timeout=PATIENCE), app=t.app)
        for each in (sent, result):
            with pytest.raises(TaskRevokedError, match="revoked"):
                each.get(timeout=PATIENCE)
        # And other workflows run
        assert (t.add.s(1) | t.add.s(1)).apply_async().get(timeout=PATIENCE) == 3
    assert t.noted == []


def test_lineage(t: Tasks) -> None:
    @t.app.task(bind=True)
    def lineage(self: Task[..., Any], *_: Any) -> Any:
        return self.request.id, self.request.root_id, self.request.parent_id, self.request.group

    with running(t.app):
        result = (lineage.s() | group(lineage.s(), lineage.s()) | lineage.s()).apply_async()
        last = result.get(timeout=PATIENCE)
        header: Any = result.parent
        first = header.parent.get(timeout=PATIENCE)
        members = header.get(timeout=PATIENCE)
    assert list(first) == [header.parent.id, header.parent.id, None, None]
    assert [each[1:] for each in members] == [[first[0], first[0], header.id]] * 2
    assert last[:2] == [result.id, first[0]]
    assert last[2] in [each[0] for each in members]


def test_what_is_waited_for_in_a_task(t: Tasks) -> None:
    @t.app.task
    def waiting() -> int:
        with allow_join_result():
            return chord([t.add.s(1)], t.total.s()).apply_async().get(timeout=PATIENCE)

    @t.app.task
    def careless() -> list[int]:
        return group(t.add.s(1)).apply_async().get(timeout=PATIENCE)

    with running(t.app, lanes=2):
        assert waiting.delay().get(timeout=PATIENCE) == 2
        with pytest.raises(RuntimeError, match="must not wait"):
            careless.delay().get(timeout=PATIENCE)


def test_a_chord_without_a_place_for_joins_is_an_error_at_once(rabbitmq_url: str) -> None:
    with Umbel("canvas", broker=rabbitmq_url, set_as_current=False) as app:

        @app.task
        def add(x: int, y: int = 1) -> int:
            return x + y

        for workflow in (
            chord([add.s(1)], add.s(1)),
            add.s(1) | group(add.s(1), add.s(2)) | add.s(2),
        ):
            with pytest.raises(ImproperlyConfigured, match="result_backend"):
                workflow.apply_async()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_rabbitmq_with_a_store(
    rabbitmq_url: str, store: str, request: pytest.FixtureRequest
) -> None:
    backend = f"sqlite:///{request.getfixturevalue('tmp_path')}/results.sqlite"
    if store == "redis":
        backend = str(request.getfixturevalue("redis_url"))
    with Umbel("canvas", broker=rabbitmq_url, backend=backend, set_as_current=False) as app:

        @app.task
        def add(x: int, y: int = 1) -> int:
            if y == 0:
                raise ValueError("broken")
            return x + y

        @app.task
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        with running(app, lanes=2):
            header = [add.s(n, n + 1) for n in range(20)]
            assert chord(header, total.s() | add.s(1)).apply_async().get(timeout=PATIENCE) == 401
            middle = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()
            assert middle.apply_async().get(timeout=PATIENCE) == 7
            with pytest.raises(ChordError, match="broken"):
                chord([add.s(1, 0)], total.s()).apply_async().get(timeout=PATIENCE)
            long = chain([add.s(0)] + [add.s() for _ in range(600)]).apply_async()
            assert long.get(timeout=60) == 601
