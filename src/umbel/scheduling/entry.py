"""An entry: which task is sent when, under which rules.

It is checked when it is made, so that a bad one is refused where it is added.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from umbel import checks
from umbel.exceptions import UmbelError
from umbel.options import check_call
from umbel.schedules import Schedule, ScheduleError, from_json, maybe_schedule
from umbel.serializers import json_loads, json_text
from umbel.spelling import suggestion

#: What is done about runs that were missed while nobody led.
MISSED = ("one", "skip", "all")
#: What is done when the last run still waits or runs.
OVERLAP = ("allow", "skip")
#: Runs that ``all`` catches up with, unless the entry says how many; and the most it may say.
LIMIT, MOST_LIMIT = 100, 1000
#: Characters of a name, and of an entry that is kept on a server.
LONGEST_NAME, LARGEST = 200, 256 * 1024
#: Options that would make two runs one, or that a schedule says better.
_REFUSED = ("task_id", "correlation_id", "eta", "retries")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is sent when."""

    name: str
    task: str
    schedule: Schedule
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: Of apply_async.
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: See ``MISSED``.
    missed: str = "one"
    #: Runs that "all" catches up with, the latest ones.
    limit: int = LIMIT
    #: See ``OVERLAP``.
    overlap: str = "allow"
    #: Seconds after which a run is not worth sending; None = it always is.
    deadline: float | None = None
    paused: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense. Raises ScheduleError."""
        try:
            self._check()
        except ScheduleError:
            raise
        except (AttributeError, TypeError, ValueError, UmbelError) as error:
            raise ScheduleError(f"{error}") from error

    def _check(self) -> None:
        if not 0 < len(self.name) <= LONGEST_NAME:
            raise ScheduleError(
                f"name: expected 1 to {LONGEST_NAME} characters, got {self.name!r:.80}"
            )
        if not self.name.isprintable():
            raise ScheduleError(f"name: expected printable characters, got {self.name!r}")
        checks.check(checks.TASK, "name", self.task, of="entry")
        if not isinstance(self.schedule, Schedule):
            raise ScheduleError(f"schedule: expected a schedule, got {self.schedule!r:.80}")
        if not all(isinstance(each, str) for each in self.kwargs):
            raise ScheduleError("kwargs: expected names as keys")
        self._check_rules()
        for name in _REFUSED:
            if self.options.get(name) is not None:
                raise ScheduleError(f"options: {name} cannot be the same for all runs")
        stamps = self.options.get("stamped_headers") or ()
        check_call(self.options, more=frozenset(stamps))

    def _check_rules(self) -> None:
        for name, value, known in (
            ("missed", self.missed, MISSED),
            ("overlap", self.overlap, OVERLAP),
        ):
            if value not in known:
                raise ScheduleError(f"{name}: expected {' or '.join(known)}, got {value!r:.80}")
        if not 1 <= self.limit <= MOST_LIMIT:
            raise ScheduleError(f"limit: expected 1 to {MOST_LIMIT}, got {self.limit!r:.80}")
        late = self.deadline
        if late is not None and not 0 < late < 1e9:
            raise ScheduleError(f"deadline: expected seconds above 0, got {late!r:.80}")

    # --- forms

    @property
    def text(self) -> str:
        """It as JSON. Raises ScheduleError if its arguments have no form in JSON."""
        facts = {
            "task": self.task,
            "schedule": self.schedule.facts,
            **{name: getattr(self, name) for name in _PLAIN if getattr(self, name) != _PLAIN[name]},
        }
        try:
            text = json_text(facts)
        except UmbelError as error:
            raise ScheduleError(f"{error}") from error
        if len(text) > LARGEST:
            raise ScheduleError(f"{len(text)} bytes, at most {LARGEST}")
        return text

    @classmethod
    def from_text(cls, name: str, text: str) -> Entry:
        """Read what ``text`` was. Raises ScheduleError."""
        try:
            facts = json_loads(text.encode())
            schedule = from_json(facts.pop("schedule"))
            facts["args"] = tuple(facts.get("args", ()))
            return cls(name=name, schedule=schedule, **facts)
        except ScheduleError:
            raise
        except (UmbelError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise ScheduleError(f"cannot be read: {error!r:.200}") from error

    @property
    def rhythm(self) -> str:
        """What its due times follow from, as text: if it changes, the entry begins anew."""
        return json.dumps(self.schedule.facts, sort_keys=True)


#: Fields that JSON has as they are -> what they are by default.
_PLAIN: Mapping[str, Any] = {
    "args": (),
    "kwargs": {},
    "options": {},
    "missed": "one",
    "limit": LIMIT,
    "overlap": "allow",
    "deadline": None,
    "paused": False,
}
#: What an entry may have beside its call and its schedule.
RULES = ("relative", "missed", "limit", "overlap", "deadline", "paused")
_SETTING = frozenset({"task", "schedule", "relative", *_PLAIN})


def entry_of(name: str, given: Any) -> Entry:
    """Make an entry of a value in ``beat_schedule``. Raises ScheduleError."""
    if isinstance(given, Entry):
        return replace(given, name=name)
    if not isinstance(given, Mapping):
        raise ScheduleError(f"expected a dict, got {given!r:.80}")
    for unknown in given.keys() - _SETTING:
        hint = suggestion(str(unknown), _SETTING)
        raise ScheduleError(f"there is no {unknown!r:.80}{hint}")
    return entry_from(name, **given)


def entry_from(
    name: str,
    task: Any = None,
    schedule: Any = None,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    relative: bool = False,
    **rules: Any,
) -> Entry:
    """Make an entry of what users give: a task or its name, seconds or a schedule."""
    if task is None or schedule is None:
        raise ScheduleError("expected task and schedule")
    try:
        when = maybe_schedule(schedule, relative)
        given_args, given_kwargs = tuple(args or ()), dict(kwargs or {})
    except (ScheduleError, TypeError, ValueError) as error:
        raise ScheduleError(f"{error}") from error
    late = rules.pop("deadline", None)
    if isinstance(late, dt.timedelta):
        late = late.total_seconds()
    return Entry(
        name,
        task if isinstance(task, str) else getattr(task, "name", ""),
        when,
        given_args,
        given_kwargs,
        dict(options or {}),
        deadline=late,
        **rules,
    )
