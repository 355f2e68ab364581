"""What both type checkers must accept; it is checked, never run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, assert_type

from umbel import (
    AsyncResult,
    EagerResult,
    Exchange,
    GroupResult,
    Queue,
    Signature,
    Task,
    Umbel,
    chain,
    chord,
    group,
    shared_task,
    xstarmap,
)
from umbel.signals import task_failure
from umbel.testing import (
    Call,
    FakeClock,
    Run,
    RunningWorker,
    assert_enqueued,
    enqueued,
    in_memory,
    refute_enqueued,
    run_for,
    run_until_idle,
    running_worker,
)

app = Umbel(
    "tasks",
    broker="memory://",
    backend="memory://results",
    include=["more"],
    task_default_queue="q",
)


# --- tasks of functions


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True, max_retries=5, autoretry_for=(OSError,), retry_backoff=True)
def copy(self: Task[..., Any], source: str, *, force: bool = False) -> str:
    if self.request.retries > 2:
        raise self.retry(countdown=3, exc=ValueError("again"))
    self.update_state(state="PROGRESS", meta={"done": 1})
    return source if force else str(self.request.id)


@app.task(name="shop.total", queue="money", time_limit=3, soft_time_limit=2.5, rate_limit="10/m")
def total(prices: Sequence[float]) -> float:
    return sum(prices)


@app.task(bind=True)
async def crawl(self: Task[..., Any], url: str) -> list[str]:
    return [url, self.name]


@shared_task
def shared(name: str) -> None:
    print(name)


@shared_task(bind=True, ignore_result=True)
def shared_bound(self: Task[..., Any], count: int) -> int:
    return count + self.request.retries


@app.task(acks_late=False, throws=(KeyError,), expires=dt.timedelta(minutes=1), priority=3)
def careless() -> None: ...


# --- class-based tasks


class Resize(Task[[str, int], bytes]):
    name = "images.resize"

    def run(self, path: str, width: int) -> bytes:
        return path.encode() * width

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        print(exc, task_id, args, kwargs, einfo)


resize = app.register_task(Resize())
assert_type(resize, Resize)
assert_type(resize.delay("a.png", 10), AsyncResult[bytes])
assert_type(app.register_task(Resize), Resize)


class Logged(Task[..., Any]):
    abstract = True


@app.task(base=Logged)
def logged(x: int) -> int:
    return x


# --- calling

assert_type(add(1, 2), int)
assert_type(add(1, y=2), int)
assert_type(add.delay(1), AsyncResult[int])
assert_type(add.delay(1, y=2).get(), int)
assert_type(add.delay(1).get(timeout=3), int)
assert_type(add.apply_async((1, 2)), AsyncResult[int])
assert_type(
    add.apply_async(
        args=(1,),
        kwargs={"y": 2},
        countdown=1.5,
        expires=dt.datetime.now(dt.UTC),
        queue=Queue("q", Exchange("e", "topic"), "a.#"),
        link=add.s(3),
        link_error=[shared.s("x")],
        headers={"tenant": 1},
        priority=9,
        task_id="id",
        ignore_result=True,
        retry=False,
        retry_policy={"max_retries": 3},
    ).get(),
    int,
)
assert_type(add.apply((1, 2)), EagerResult[int])
assert_type(add.apply((1, 2)).get(), int)
assert_type(copy.delay("a", force=True), AsyncResult[str])
assert_type(copy("a"), str)
assert_type(total.delay([1.0, 2.5]).get(), float)
assert_type(shared.delay("x"), AsyncResult[None])
assert_type(shared_bound.delay(3), AsyncResult[int])
assert_type(app.send_task("tasks.add", (1, 2)), AsyncResult[Any])
assert_type(app.AsyncResult("id"), AsyncResult[Any])
assert_type(logged.delay(1), AsyncResult[int])


async def asynchronous() -> None:
    assert_type(await add.adelay(1, 2), AsyncResult[int])
    assert_type(await add.aapply_async((1, 2), countdown=3), AsyncResult[int])
    assert_type(await fetch("https://example.org"), bytes)
    assert_type(await crawl("https://example.org"), list[str])
    assert_type(await (await add.adelay(1)).aget(), int)


assert_type(fetch.delay("https://example.org"), AsyncResult[bytes])
assert_type(crawl.delay("https://example.org").get(), list[str])

# --- signatures

assert_type(add.s(1), Signature[int])
assert_type(add.s(), Signature[int])
assert_type(add.si(1, 2), Signature[int])
assert_type(add.s(1).delay(2), AsyncResult[int])
assert_type(add.s(1).set(queue="q").on_error(shared.s("x")), Signature[int])
assert_type(add.signature((1,), {"y": 2}, countdown=3), Signature[int])
assert_type(group([add.s(1, 1), add.s(2, 2)]).apply_async(), GroupResult[int])
assert_type(group(add.s(i, i) for i in range(3)).apply_async().get(), list[int])
assert_type(group(add.s(1, 1), add.s(2, 2))().get(), list[int])
assert_type((add.s(1, 2) | total.s()).delay(), AsyncResult[float])
assert_type(add.s(1, 2) | add.s(3) | total.s(), Signature[float])
assert_type(chain(add.s(1, 2), add.s(3)).apply_async(), AsyncResult[int])
assert_type(chain(add.s(1, 2), total.s()).delay().get(), float)
assert_type(chord([add.s(1), add.s(2)], total.s()).delay(), AsyncResult[float])
assert_type(chord((add.s(i) for i in range(3)), total.s() | shared.s()), chord[None])
assert_type(group([add.s(1), add.s(2)]) | total.s(), Signature[float])
assert_type(add.s(1) | group([add.s(1), add.s(2)]) | total.s(), Signature[float])
assert_type(add.s(1) | group([add.s(1), add.s(2)]), Signature[list[int]])
assert_type(add.map([1, 2]).delay().get(), list[int])
assert_type(add.starmap([(1, 2)]), xstarmap[int])
assert_type(add.chunks([(1, 2)], 1).delay().get(), list[list[int]])
assert_type(add.s(1).clone((2,), {"y": 3}, queue="q"), Signature[int])
assert_type(add.s(1).freeze(), AsyncResult[int])
assert_type(add.s(1).stamp(tenant="x"), Signature[int])
wider: Signature[float] = add.s(1)

# --- configuration

assert_type(app.conf.task_always_eager, bool)
assert_type(app.conf.task_time_limit, float | None)
assert_type(app.conf.accept_content, tuple[str, ...])
app.conf.task_always_eager = True
app.conf.result_expires = dt.timedelta(hours=1)
app.conf.update(task_acks_late=False)
app.conf.update({"timezone": "Europe/Berlin"})

# --- tests

with in_memory(app, {"task_acks_late": True}) as clock, running_worker(app) as worker:
    assert_type(clock, FakeClock)
    assert_type(worker, RunningWorker)
assert_type(run_until_idle(app, advance=True), list[Run])
assert_type(run_for(app, dt.timedelta(days=1)), list[Run])
assert_type(assert_enqueued(app, add, args=(1, 2), countdown=60), Call)
assert_type(enqueued(app, fetch, eta=dt.datetime.now(dt.UTC), queue="q"), list[Call])
refute_enqueued(app, "tasks.add", kwargs={"x": 1}, priority=3)

# --- signals


@task_failure.connect
def on_task_failure(sender: Any, task_id: str, **facts: Any) -> None:
    print(sender, task_id, facts)


@task_failure.connect(sender=add)
def on_add_failure(sender: Any, **facts: Any) -> None:
    print(sender, facts)


assert_type(on_task_failure(None, "id"), None)
