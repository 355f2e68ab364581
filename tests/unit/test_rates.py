"""A budget allows so many starts, no more and no fewer, and keeps the order of arrival."""

from __future__ import annotations

import heapq
import os
import random
import tempfile

import pytest

from umbel.clock import SYSTEM_CLOCK
from umbel.exceptions import ImproperlyConfigured
from umbel.message import Delivery, Message
from umbel.worker.rates import RATED_HEADER, Budget, Budgets, Rates, per_second

START = 1000.0


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("10/m", 1 / 6), ("5/s", 5), ("100/h", 1 / 36), ("3", 3), (2, 2), (0.5, 0.5), ("1.5/s", 1.5)],
)
def test_rates_are_read_as_celery_writes_them(rate: str | float, expected: float) -> None:
    assert per_second(rate, "t") == pytest.approx(expected)


@pytest.mark.parametrize("rate", [None, 0, "0", "0/m", ""])
def test_no_rate_is_no_limit(rate: str | float | None) -> None:
    assert per_second(rate, "t") == 0


@pytest.mark.parametrize("rate", ["10/d", "fast", "-1/s", -3, "inf", "nan", "1/s/m"])
def test_what_is_no_rate_says_whose_it_is(rate: str | float) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"rate_limit of tasks\.mail: expected"):
        per_second(rate, "tasks.mail")


def play(arrivals: list[float], interval: float, *, late: float) -> list[tuple[float, int]]:
    """Return when which message starts, if each delay ends up to ``late`` seconds too late."""
    budget, starts = Budget(), list[tuple[float, int]]()
    queue = [(at, number, False) for number, at in enumerate(arrivals)]
    heapq.heapify(queue)
    dice = random.Random(1)
    while queue:
        now, number, came_back = heapq.heappop(queue)
        wait, budget = budget.ask(interval, now, came_back=came_back)
        if wait:
            heapq.heappush(queue, (now + wait + dice.uniform(0.0, late), number, True))
        else:
            starts.append((now, number))
    return starts


@pytest.mark.parametrize("interval", [0.001, 0.05, 1.0, 6.0])
@pytest.mark.parametrize("late", [0.0, 0.02])
def test_a_backlog_starts_at_its_rate(interval: float, late: float) -> None:
    starts = play([START] * 500, interval, late=late)
    seconds = starts[-1][0] - starts[0][0]
    allowed = seconds / interval
    assert len(starts) == 500
    assert allowed + 0.11 / interval + 2 >= 0.95 * 500
    assert allowed >= 0.95 * (500 - 0.11 / interval - 2)


def test_a_backlog_starts_in_its_order() -> None:
    starts = play([START + n / 1000 for n in range(200)], 0.5, late=0.02)
    assert [number for _, number in starts] == list(range(200))


def test_newcomers_do_not_overtake_who_waits() -> None:
    # Twice as many come as may start, all the time
    starts = play([START + n * 0.25 for n in range(200)], 0.5, late=0.02)
    assert [number for _, number in starts] == list(range(200))


def test_a_pause_allows_a_small_burst_only() -> None:
    starts = play([START] * 50 + [START + 100] * 50, 0.02, late=0.0)
    second = [at for at, _ in starts if at >= START + 100]
    assert sum(1 for at in second if at == START + 100) <= 6


def test_many_that_come_back_at_once_are_spread_again() -> None:
    budget = Budget()
    waits = []
    for _ in range(10):
        wait, budget = budget.ask(1.0, START, came_back=True)
        waits.append(wait)
    assert waits == pytest.approx([0.0, *(0.9 + n for n in range(9))])


def delivery(task: str = "t", **about: object) -> Delivery:
    headers = {"task": task, **({RATED_HEADER: True} if about.pop("came_back", False) else {})}
    message = Message("id", b"", headers, "key", exchange="x", **about.pop("message", {}))  # type: ignore[arg-type]
    return Delivery(message, "queue", 1, **about)  # type: ignore[arg-type]


def test_what_is_over_its_rate_goes_back_delayed_to_its_queue() -> None:
    rates = Rates(Budgets(), {"t": 0.1})
    may, away = rates.sift([delivery(), delivery(), delivery("other")])
    assert [each.message.headers["task"] for each in may] == ["t", "other"]
    (effects,) = away
    assert effects.delivery is not None
    (later,) = effects.publish
    assert (later.exchange, later.routing_key) == ("", "queue")
    assert later.not_before == pytest.approx(SYSTEM_CLOCK.now() + 9.9, abs=0.2)
    assert later.headers[RATED_HEADER] is True


def test_what_will_not_run_uses_nothing() -> None:
    rates = Rates(Budgets(), {"t": 0.1})
    dead = [delivery(revoked=True), delivery(verdict="time-limit 3")]
    dead.append(delivery(message={"expires_at": 1.0}))
    may, away = rates.sift([*dead, delivery()])
    assert (len(may), away) == (4, [])


def test_what_survived_its_process_is_not_sent_away_and_uses_the_budget() -> None:
    rates = Rates(Budgets(), {"t": 0.1})
    may, away = rates.sift([delivery(), delivery(crashes=1), delivery(suspect=True), delivery()])
    assert len(may) == 3
    assert away[0].publish[0].not_before == pytest.approx(SYSTEM_CLOCK.now() + 29.9, abs=0.2)


def test_processes_share_one_budget() -> None:
    budgets = Budgets()
    pids = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            rates = Rates(budgets, {"t": 100.0, "u": 1.0})
            os._exit(sum(len(rates.sift([delivery()])[0]) for _ in range(1000)))
        pids.append(pid)
    began = SYSTEM_CLOCK.monotonic()
    started = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
    seconds = SYSTEM_CLOCK.monotonic() - began
    assert 10 <= started <= 12 + 100 * (seconds + 0.1)


def test_budgets_that_nobody_has_any_more_leave_no_descriptor() -> None:
    with tempfile.TemporaryFile() as file:
        free = file.fileno()
    budgets = Budgets()
    assert os.fstat(free)
    del budgets
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(free)
