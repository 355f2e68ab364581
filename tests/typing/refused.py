"""What both type checkers must refuse: each marked line, with these codes; it is never run.

code  # refused: <mypy's code> <Pyright's rule>
"""

from __future__ import annotations

from typing import Any

from umbel import Signature, Task, Umbel, chord, group, shared_task
from umbel.testing import assert_enqueued, run_until_idle

app = Umbel("tasks")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Task[..., Any], name: str) -> str:
    return name + self.name


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@shared_task
def shared(name: str) -> None:
    print(name)


# --- arguments
add.delay("1")  # refused: arg-type reportArgumentType
add.delay()  # refused: call-arg reportCallIssue
add.delay(1, 2, 3)  # refused: call-arg reportCallIssue
add.delay(1, z=2)  # refused: call-arg reportCallIssue
add("1")  # refused: arg-type reportArgumentType
add.si("1", 2)  # refused: arg-type reportArgumentType
bound.delay(1)  # refused: arg-type reportArgumentType
bound.delay(bound, "x")  # refused: call-arg reportCallIssue
fetch.delay(b"x")  # refused: arg-type reportArgumentType
shared.delay()  # refused: call-arg reportCallIssue

# --- options
add.apply_async((1,), countdwn=3)  # refused: call-arg reportCallIssue
add.apply_async((1,), countdown="3")  # refused: arg-type reportArgumentType
add.apply_async(1)  # refused: arg-type reportArgumentType
app.send_task(add)  # refused: arg-type reportArgumentType


@app.task(max_retrys=3)  # refused: call-overload reportCallIssue
def misspelt() -> None: ...


@app.task(time_limit="3")  # refused: call-overload reportArgumentType
def ill_typed() -> None: ...


# --- results
wrong_result: str = add.delay(1).get()  # refused: assignment reportAssignmentType
wrong_bytes: str = fetch.delay("x").get()  # refused: assignment reportAssignmentType
wrong_members: list[str] = group([add.s(1)])().get()  # refused: assignment reportAssignmentType
wrong_body: str = chord([add.s(1)], add.s())().get()  # refused: assignment reportAssignmentType
wrong_link: Signature[str] = fetch.s("x") | add.s(1)  # refused: assignment reportAssignmentType
chord(5, add.s())  # refused: arg-type reportArgumentType
wrong_signature: Signature[str] = add.s(1)  # refused: assignment reportAssignmentType


async def asynchronous() -> None:
    await add.adelay("1")  # refused: arg-type reportArgumentType
    wrong: str = await fetch("x")  # refused: assignment reportAssignmentType
    print(wrong)


# --- configuration
wrong_setting: str = app.conf.task_always_eager  # refused: assignment reportAssignmentType
print(app.conf.task_alway_eager)  # refused: attr-defined reportAttributeAccessIssue

# --- tests
assert_enqueued(app, add, arg=(1,))  # refused: call-arg reportCallIssue
assert_enqueued(app, add, args=1)  # refused: arg-type reportArgumentType
run_until_idle(app, advnce=True)  # refused: call-arg reportCallIssue
