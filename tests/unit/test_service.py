"""Every message gets a verdict: it runs, or it ends without running and its caller is told."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from umbel import Umbel, states
from umbel.bound import BoundTask
from umbel.canvas.advance import Policy
from umbel.canvas.plan import Call
from umbel.exceptions import Ignore, Reject
from umbel.executor import execute
from umbel.message import Delivery, Effects, Ending, Message, Outcome
from umbel.serializers import accepted, get
from umbel.wire.result import decode_meta
from umbel.wire.task import Request, TaskEncoder
from umbel.worker.service import MAX_LOSSES, UNKNOWN_HEADER, UNKNOWN_TRIES, Prepared, Service

NOW = 1_800_000_000.0


def add(x: int, y: int) -> int:
    return x + y


def bound(run: Any = add, **options: Any) -> BoundTask:
    return BoundTask("tasks.add", SimpleNamespace(run=run), run, **options)


def follow_up(planned: Call, _: Request) -> Message:
    body = json.dumps([planned.args, planned.options.get("chain")]).encode()
    return Message(id=planned.options.get("task_id", ""), body=body, headers={}, routing_key="q")


def service(*tasks: BoundTask) -> Service:
    return Service(
        {each.name: each for each in tasks or (bound(),)},
        Policy(follow_up),
        accept=accepted(["json"]),
        node="umbel@here",
    )


def message(*args: Any, task: str = "tasks.add", **options: Any) -> Message:
    return TaskEncoder(task).encode(args, {}, id="id-1", sent_at=NOW, options=options or None)


def delivery(of: Message | None = None, **about: Any) -> Delivery:
    return Delivery(of or message(1, 2), "celery", 1, **about)


def run(within: Service, given: Delivery) -> Effects:
    prepared = within.prepare(given)
    assert isinstance(prepared, Prepared)
    return within.effects(prepared, execute(prepared.bound, prepared.request))


def meta(effects: Effects, index: int = 0) -> dict[str, Any]:
    loaded = json.loads(effects.results[index].meta)
    assert isinstance(loaded, dict)
    return loaded


def test_a_task_that_returns_is_acknowledged_with_its_result() -> None:
    effects = run(service(), delivery())
    assert effects.ending is Ending.ACK
    assert (meta(effects)["status"], meta(effects)["result"]) == ("SUCCESS", 3)
    assert effects.publish == ()


def test_a_task_that_raises_fails_with_its_traceback() -> None:
    def broken() -> None:
        raise ValueError("no", 3)

    effects = run(service(bound(broken)), delivery(message()))
    assert effects.ending is Ending.ACK
    assert meta(effects)["result"]["exc_type"] == "ValueError"
    assert "in broken" in meta(effects)["traceback"]
    assert "executor.py" not in meta(effects)["traceback"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_task_raises_is_its_outcome(error: BaseException) -> None:
    def leave() -> None:
        raise error

    effects = run(service(bound(leave)), delivery(message()))
    assert meta(effects)["status"] == "FAILURE"


def test_a_result_that_cannot_be_encoded_is_a_failure_that_says_so() -> None:
    effects = run(service(bound(object)), delivery(message()))
    assert meta(effects)["status"] == "FAILURE"
    assert meta(effects)["result"]["exc_type"] == "EncodeError"


def test_results_are_encoded_as_their_task_says() -> None:
    with_msgpack = get("msgpack")
    effects = run(service(bound(dumps=with_msgpack.dumps, compression="zlib")), delivery())
    stored = effects.results[0].meta
    assert stored.startswith(b"\x00celery-compressed\x00")
    assert decode_meta(stored, with_msgpack.loads)["result"] == 3


def test_ignored_results_are_not_stored() -> None:
    undecided = TaskEncoder("tasks.add", ignore_result=None).encode((1, 2), {}, id="i", sent_at=NOW)
    assert run(service(bound(ignore_result=True)), delivery(undecided)).results == ()
    overridden = delivery(message(1, 2, ignore_result=True))
    assert run(service(), overridden).results == ()


def test_ignore_stores_nothing_and_reject_dead_letters_or_requeues() -> None:
    def raising(error: Exception) -> Effects:
        def task() -> None:
            raise error

        return run(service(bound(task)), delivery(message()))

    ignored = raising(Ignore())
    assert (ignored.ending, ignored.results) == (Ending.ACK, ())
    rejected = raising(Reject("not mine"))
    assert rejected.ending is Ending.DEAD
    assert "not mine" in rejected.reason
    assert meta(rejected)["result"]["exc_type"] == "Reject"
    assert raising(Reject("later", requeue=True)).ending is Ending.REQUEUE


def test_a_task_may_want_the_messages_of_its_failures_kept() -> None:
    def broken() -> None:
        raise ValueError("no")

    kept = service(bound(broken, acks_failures=False))
    effects = run(kept, delivery(message()))
    assert effects.ending is Ending.DEAD
    assert "ValueError('no')" in effects.reason
    assert meta(effects)["status"] == "FAILURE"
    early = service(bound(broken, acks_failures=False, acks_late=False))
    assert run(early, delivery(message())).ending is Ending.ACK


@pytest.mark.parametrize(("acks", "ending"), [(False, Ending.DEAD), (True, Ending.ACK)])
def test_time_limits_are_told_apart_from_other_failures(*, acks: bool, ending: Ending) -> None:
    kept = service(bound(lambda: None, acks_failures=not acks, acks_timeouts=acks))
    over = kept.refuse(delivery(verdict="time-limit 5"), NOW)
    assert over is not None
    assert over.ending is ending
    assert ("TimeLimitExceeded" in over.reason) is not acks


def test_failures_may_expire_sooner() -> None:
    def broken() -> None:
        raise ValueError("no")

    for function, seconds in ((broken, 5.0), (lambda: None, 60.0)):
        task = bound(function, result_expires=60.0, failure_expires=5.0)
        assert run(service(task), delivery(message())).results[0].expires_in == seconds


def test_callbacks_and_the_next_link_follow_success() -> None:
    link = {"task": "cb", "args": [9], "kwargs": {}, "options": {"task_id": "cb-1"}}
    chain = [
        {"task": "last", "args": [], "kwargs": {}, "options": {"task_id": "last"}},
        {"task": "next", "args": [], "kwargs": {}, "options": {"task_id": "next"}},
    ]
    effects = run(service(), delivery(message(1, 2, link=[link], chain=chain)))
    assert [each.id for each in effects.publish] == ["cb-1", "next"]
    assert json.loads(effects.publish[0].body) == [[3, 9], None]
    assert json.loads(effects.publish[1].body) == [[3], chain[:1]]


def test_a_failure_reaches_every_later_id_of_the_chain() -> None:
    chain = [
        {"task": "t", "args": [], "kwargs": {}, "options": {"task_id": "last"}},
        {"task": "t", "args": [], "kwargs": {}, "options": {"task_id": "next"}},
    ]
    effects = run(service(), delivery(message(1, "x", chain=chain)))
    assert [record.task_id for record in effects.results] == ["id-1", "next", "last"]
    assert {record.state for record in effects.results} == {states.FAILURE}
    assert effects.publish == ()


def test_errbacks_that_take_the_exception_are_called_here_others_are_sent() -> None:
    called: list[tuple[Any, ...]] = []

    def here(request: Request, exc: BaseException, traceback: str) -> None:
        called.append((request.id, type(exc), "TypeError" in traceback))

    def anything(*about: Any) -> None:
        here(*about)

    tasks = [BoundTask(run.__name__, SimpleNamespace(run=run), run) for run in (here, anything)]
    errbacks = [
        {"task": "here", "args": [], "kwargs": {}, "options": {}},
        {"task": "anything", "args": [], "kwargs": {}, "options": {}},
        {"task": "elsewhere", "args": [7], "kwargs": {}, "options": {"task_id": "e"}},
    ]
    effects = run(service(bound(), *tasks), delivery(message(1, "x", link_error=errbacks)))
    assert called == [("id-1", TypeError, True)] * 2
    assert [json.loads(each.body)[0] for each in effects.publish] == [["id-1", 7]]


def test_what_is_no_message_goes_to_the_dead_letters() -> None:
    effects = service().refuse(delivery(problem="not JSON"), NOW)
    assert effects is not None
    assert (effects.ending, effects.results) == (Ending.DEAD, ())
    assert "not JSON" in effects.reason


@pytest.mark.parametrize(
    "damage",
    [
        {"body": b"["},
        {"body": b"[[1, 2], {}]"},
        {"body": b"[[1, 2], [], {}]"},
        {"content_type": "application/x-python-serialize"},
        {"content_type": ""},
    ],
)
def test_a_body_that_cannot_be_read_is_dead_lettered_and_its_caller_told(
    damage: dict[str, Any],
) -> None:
    effects = service().prepare(delivery(replace(message(1, 2), **damage)))
    assert isinstance(effects, Effects)
    assert effects.ending is Ending.DEAD
    assert effects.reason
    assert meta(effects)["status"] == "FAILURE"


def test_an_id_that_is_too_long_for_the_board_is_dead_lettered() -> None:
    long = TaskEncoder("tasks.add").encode((1, 2), {}, id="x" * 256, sent_at=NOW)
    effects = service().prepare(delivery(long))
    assert isinstance(effects, Effects)
    assert effects.ending is Ending.DEAD


def test_an_unknown_task_is_tried_again_later_and_then_dead_lettered() -> None:
    unknown = message(task="tasks.newer")
    for tries in range(1, UNKNOWN_TRIES + 1):
        effects = service().prepare(delivery(unknown))
        assert isinstance(effects, Effects)
        assert effects.ending is Ending.ACK
        (unknown,) = effects.publish
        assert unknown.headers[UNKNOWN_HEADER] == tries
        assert (unknown.exchange, unknown.routing_key) == ("", "celery")
        assert unknown.not_before > 0
    last = service().prepare(delivery(unknown))
    assert isinstance(last, Effects)
    assert last.ending is Ending.DEAD
    assert meta(last)["result"]["exc_type"] == "NotRegistered"


def test_expired_and_revoked_tasks_do_not_run_and_their_callers_are_told() -> None:
    expired = service().refuse(delivery(replace(message(1, 2), expires_at=NOW - 1)), NOW)
    revoked = service().refuse(delivery(revoked=True), NOW)
    assert expired is not None
    assert revoked is not None
    assert meta(expired)["result"]["exc_message"] == ["expired"]
    assert meta(revoked)["result"]["exc_message"] == ["revoked"]
    assert meta(revoked)["status"] == "REVOKED"
    assert service().refuse(delivery(replace(message(1, 2), expires_at=NOW + 1)), NOW) is None


def test_a_message_that_came_too_early_goes_back_to_the_server() -> None:
    early = replace(message(1, 2), not_before=NOW + 60)
    effects = service().refuse(delivery(early), NOW)
    assert effects is not None
    assert (effects.ending, effects.publish) == (Ending.ACK, (early,))


def test_the_crash_budget() -> None:
    assert service().refuse(delivery(crashes=2), NOW) is None
    over = service().refuse(delivery(crashes=3), NOW)
    assert over is not None
    assert over.ending is Ending.DEAD
    assert meta(over)["result"]["exc_type"] == "WorkerLostError"
    once = service(bound(max_deliveries=1)).refuse(delivery(crashes=1), NOW)
    assert once is not None
    assert "died once while" in once.reason
    assert service().refuse(delivery(losses=MAX_LOSSES - 1), NOW) is None
    assert service().refuse(delivery(losses=MAX_LOSSES), NOW) is not None


def test_a_verdict_ends_a_message_without_running_it() -> None:
    limit = service().refuse(delivery(verdict="time-limit 5"), NOW)
    assert limit is not None
    assert meta(limit)["result"]["exc_type"] == "TimeLimitExceeded"
    assert meta(limit)["result"]["exc_message"] == [5.0]
    ended = service().refuse(delivery(verdict="terminated"), NOW)
    assert ended is not None
    assert meta(ended)["status"] == "REVOKED"


def test_effects_of_what_was_acknowledged_before_have_no_fence() -> None:
    within = service()
    prepared = within.prepare(delivery())
    assert isinstance(prepared, Prepared)
    effects = within.effects(prepared, Outcome(states.SUCCESS, 3), held=False)
    assert effects.delivery is None
    assert effects.results


def test_progress_keeps_the_delivery() -> None:
    within = service()
    prepared = within.prepare(delivery())
    assert isinstance(prepared, Prepared)
    effects = within.effects(prepared, Outcome("PROGRESS", {"done": 3}))
    assert effects.ending is Ending.KEEP
    assert meta(effects)["result"] == {"done": 3}


def test_a_tasks_options_and_settings_are_compiled() -> None:
    app = Umbel("compiled", "memory://compiled", set_as_current=False)

    @app.task(acks_on_failure_or_timeout=False)
    def keeps() -> None:
        """Do nothing."""

    assert not keeps.bound_task().acks_failures
    assert app.task(name="plain")(lambda: None).bound_task().acks_failures
