"""A call that has not been made: the task's name, arguments and options, as a value.

It is a dict of exactly six keys, so that it travels as JSON as it is (wire-protocol 5.1), and
belongs to whoever holds it; nothing here is shared between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Generic, Self, TypeVar

from umbel import states
from umbel.bound import bound_in, call_errbacks
from umbel.canvas.plan import (
    CHAIN,
    CHORD,
    GROUP,
    Node,
    distribute,
    final,
    listed_signatures,
    outline,
    settle,
)
from umbel.canvas.stamping import StampingVisitor, Stamps, stamp
from umbel.context import Application, current_app
from umbel.ids import new_id
from umbel.message import Outcome
from umbel.result import AsyncResult, EagerResult, GroupResult, result_from_tuple
from umbel.wire.task import Request

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
C = TypeVar("C", bound="type[Signature[Any]]")

#: Classes by the value of ``subtask_type``; filled when their modules are imported.
_kinds: dict[str, type[Signature[Any]]] = {}


def kind(name: str) -> Callable[[C], C]:
    """Make serialised signatures of this ``subtask_type`` instances of the decorated class."""

    def register(cls: C) -> C:
        _kinds[name] = cls
        return cls

    return register


class Signature(dict[str, Any], Generic[R_co]):
    """A call of a task, to be made later, elsewhere, or as part of a workflow."""

    # Slots: a third of the time of making one, and there are as many as a group has members.
    __slots__ = ("__weakref__", "given_app")

    #: The application it was made with; None = the current one.
    given_app: Application | None

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Application | None = None,
        **more: Any,
    ) -> None:
        self.given_app = app
        if not isinstance(task, str):
            if isinstance(task, Mapping):
                super().__init__(task)
                return
            if task is not None:
                self.given_app = getattr(task, "app", None) if app is None else app
                task = task.name
        self["task"] = task
        self["args"] = tuple(args) if args else ()
        self["kwargs"] = dict(kwargs) if kwargs else {}
        self["options"] = {**(options or {}), **more} if options or more else {}
        self["subtask_type"] = subtask_type
        self["immutable"] = immutable

    # --- what it holds

    @property
    def task(self) -> str:
        """The task's name."""
        name: str = self["task"]
        return name

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional arguments."""
        return tuple(self["args"])

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        kwargs: dict[str, Any] = self["kwargs"]
        return kwargs

    @property
    def options(self) -> dict[str, Any]:
        """Its options of apply_async."""
        options: dict[str, Any] = self["options"]
        return options

    @property
    def immutable(self) -> bool:
        """Whether it takes no further arguments (``si``)."""
        return bool(self.get("immutable"))

    @property
    def subtask_type(self) -> str | None:
        """Which kind of workflow it is: chain, group, …; None for a single call."""
        return self.get("subtask_type")

    @property
    def id(self) -> str | None:
        """The task id it was frozen with."""
        return self.options.get("task_id")

    @property
    def root_id(self) -> str | None:
        """The id of the first task of what it is part of, if it was given one."""
        return self.options.get("root_id")

    @property
    def parent_id(self) -> str | None:
        """The id of the task that sends it, if it was given one."""
        return self.options.get("parent_id")

    @property
    def app(self) -> Application:
        """The application that sends it."""
        return self.given_app or current_app()

    @property
    def type(self) -> Any:
        """The registered task; raises NotRegistered if it is not here."""
        return self.app.tasks[self.task]

    # --- sending

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """Send it, with these arguments in front of its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R_co]:
        """Send it, with further arguments and options."""
        merged_args, merged_kwargs, merged = self.merged(args, kwargs, options)
        app = self.app
        task = app.tasks.get(self.task)  # its apply_async may be its own
        send = partial(app.send_task, self.task) if task is None else task.apply_async
        result: AsyncResult[R_co] = send(merged_args, merged_kwargs, **merged)
        return result

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run it here and now; return an EagerResult."""
        merged_args, merged_kwargs, merged = self.merged(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged)

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Call the task's function here, with these arguments in front."""
        merged_args, merged_kwargs, _ = self.merged(args, kwargs, {})
        value: R_co = self.type(*merged_args, **merged_kwargs)
        return value

    def __invert__(self) -> R_co:
        """Send it and wait for its result."""
        return self.apply_async().get()

    def __or__(self, other: Signature[S]) -> Signature[S]:  # type: ignore[override]
        """Return the chain of this and another call, or the chord if this is a group."""
        if not isinstance(other, Mapping):
            return NotImplemented
        chained: Signature[S] = joined(self, other)
        return chained

    def __ror__(self, other: Any) -> Signature[R_co]:  # type: ignore[override]
        """Return the chain of another call, given as a plain dict, and this one."""
        if not isinstance(other, Mapping):
            return NotImplemented
        chained: Signature[R_co] = joined(maybe_signature(other), self)
        return chained

    # --- making others of it

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Return a copy with further arguments and options."""
        merged_args, merged_kwargs, merged = self.merged(args, kwargs, options)
        copy = dict.__new__(type(self))
        dict.__init__(copy, self)
        copy.given_app = self.given_app
        copy.update(args=merged_args, kwargs=merged_kwargs, options=_copied(merged))
        return copy

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a copy with other arguments or options in place of its own."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        if kwargs is not None:
            copy["kwargs"] = dict(kwargs)
        if options is not None:
            copy["options"] = dict(options)
        return copy

    def merged(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Return its arguments and options with further ones."""
        merged = {**self.options, **options}
        if self.immutable:
            return self.args, dict(self.kwargs), merged
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}, merged

    # --- changing it

    def set(self, immutable: bool | None = None, **options: Any) -> Self:  # noqa: FBT001 -- Celery's signature
        """Set options; return itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:  # noqa: FBT001 -- Celery's signature
        """Take further arguments, or not."""
        self["immutable"] = immutable

    def link(self, callback: Any) -> Any:
        """Send ``callback`` when it succeeds, with the result as first argument; return that."""
        return self._add_to("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Send ``errback`` when it fails; return that."""
        return self._add_to("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """Send ``errback`` when it fails; return itself."""
        self.link_error(errback)
        return self

    def _add_to(self, option: str, callback: Any) -> Any:
        listed = listed_signatures(self.options.get(option))
        if callback not in listed:
            listed.append(callback)
        self.options[option] = listed
        return callback

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R_co]:
        """Give it its id now; return the result object."""
        given = {
            "root_id": root_id,
            "parent_id": parent_id,
            "group_id": group_id,
            "chord": chord,
            "group_index": group_index,
        }
        distribute(self, {name: value for name, value in given.items() if value is not None})
        if _id is not None:
            final(self)["options"].setdefault("task_id", _id)
        app = self.app
        reply_to = "" if app.conf.task_always_eager else app.servers().results.reply_to
        settle(self, new_id, reply_to=reply_to)
        result: AsyncResult[R_co] = result_from_tuple(outline(self), app)
        return result

    def stamp(self, visitor: StampingVisitor | None = None, **stamps: Any) -> Self:
        """Mark every task of it with these stamps, or with those that the visitor gives."""
        stamp(self, visitor or Stamps(stamps))
        return self

    # --- as a value

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the call, not the application."""
        return self.clone()

    def __copy__(self) -> Self:
        """Copy the call, not the application."""
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain dict it is."""
        return (type(self).from_dict, (dict(self),))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the signature that these six keys describe."""
        made = dict.__new__(cls)
        dict.__init__(made, fields)
        made.given_app = app
        return made

    def __repr__(self) -> str:
        """Show it as a call."""
        arguments = [shown(each) for each in self.args]
        arguments += [f"{name}={shown(value)}" for name, value in self.kwargs.items()]
        return f"{self.task}({', '.join(arguments)})"


def shown(part: Any) -> str:
    """Return the ``repr`` of a part of a workflow; of one nested too deeply, dots."""
    try:
        return repr(part)
    except RecursionError:
        return "..."


def _copied(options: Mapping[str, Any]) -> dict[str, Any]:
    """Copy options and the lists in them; the signatures in these are shared, as nobody's own."""
    return {name: [*it] if isinstance(it, list) else it for name, it in options.items()}


def plain_call(
    task: str, args: tuple[Any, ...], kwargs: dict[str, Any], app: Application | None
) -> Signature[Any]:
    """Return the signature of a call without options; the arguments become its own.

    Half as long as ``Signature`` takes, which looks at what it is given.
    """
    made: Signature[Any] = Signature.__new__(Signature)
    made.given_app = app
    made["task"] = task
    made["args"] = args
    made["kwargs"] = kwargs
    made["options"] = {}
    made["subtask_type"] = None
    made["immutable"] = False
    return made


def joined(first: Signature[Any], then: Mapping[str, Any]) -> Any:
    """Return ``first | then``, simplified as Celery does it."""
    other: Any = maybe_signature(then)
    if other.subtask_type == GROUP and isinstance(other.kwargs["tasks"], list):
        (other,) = other.kwargs["tasks"] if len(other.kwargs["tasks"]) == 1 else (other,)
    kind = first.subtask_type
    if kind == GROUP:
        return _chord(first, other)
    if kind == CHAIN:
        return _extended(first, other)
    if kind == CHORD and other.subtask_type not in (CHAIN, GROUP):
        return _with_longer_body(first, other)
    links = [first, *other.links()] if other.subtask_type == CHAIN else [first, other]
    of: Any = _kinds[CHAIN]
    return of.of(links, first.given_app)


def _extended(links: Any, then: Signature[Any]) -> Any:
    """Return a chain with one more link; a chain is added link by link."""
    if then.subtask_type == CHAIN:
        added: Any = then
        return reduce(joined, added.links(), links)
    *before, last = links.tasks or [None]
    if last is None:
        return links.with_links([then])
    kind = last["subtask_type"]
    if kind == GROUP and last.kwargs["tasks"] == []:
        return links.with_links([*before, then])
    if kind == GROUP and then.subtask_type != GROUP:
        made = _chord(last, then)
        return links.with_links([*before, made]) if before else made
    if kind == CHORD and then.subtask_type != CHORD:
        return links.with_links([*before, _with_longer_body(last, then)])
    return links.with_links([*links.tasks, then])


def _chord(header: Signature[Any], body: Signature[Any]) -> Any:
    of: Any = _kinds[CHORD]
    return of(header, body, app=header.given_app)


def _with_longer_body(chord: Any, then: Signature[Any]) -> Any:
    made = chord.clone()
    made.body = made.body | then
    return made


def eager_failure(node: Mapping[str, Any], error: Any, parent: Any, app: Application) -> Any:
    """Return the result of a settled workflow that cannot go on."""
    end = final(dict(node))
    task_id = end["options"]["task_id"]
    if end["subtask_type"] == GROUP:
        results = [eager_failure(each, error, None, app) for each in end["kwargs"]["tasks"]]
        return GroupResult(task_id, results, app=app, parent=parent)
    result: EagerResult[Any] = EagerResult(task_id, error, states.FAILURE)
    result.parent = parent
    return result


def apply_errbacks(node: Node, error: BaseException, app: Application) -> None:
    """Call the errbacks of a settled workflow that will not run, as those of its last task."""
    end = final(node)
    for each in end["kwargs"]["tasks"] if end["subtask_type"] == GROUP else ():
        apply_errbacks(each, error, app)
    options = end["options"]
    failed = Request(id=options["task_id"], task=end["task"])
    failed.errbacks = listed_signatures(options.get("link_error"))
    outcome = Outcome(states.FAILURE, error=error)
    for errback in call_errbacks(failed, outcome, partial(bound_in, app)):
        maybe_signature(errback, app).apply((failed.id,))


def first_of(result: Any) -> Any:
    """Return the earliest result that this one has as an ancestor, or itself."""
    while result.parent is not None:
        result = result.parent
    return result


def maybe_signature(value: Any, app: Application | None = None) -> Any:
    """Return the signature that a dict describes, however it came here; else the value itself."""
    if not isinstance(value, Mapping):
        return value
    cls = _kinds.get(value.get("subtask_type") or "", Signature)
    if not isinstance(value, cls):
        # Of another class may be one that was settled: a group that is a chord now.
        return cls.from_dict(dict(value), app)
    if app is not None and value.given_app is None:
        value.given_app = app
    return value


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature[Any]:
    """Return a signature: of a dict, a task, or a task's name with its arguments."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        found: Signature[Any] = maybe_signature(varies, kwargs.get("app"))
        return found
    return Signature(varies, *args, **kwargs)
