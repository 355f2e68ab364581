"""Groups: calls that run side by side; tasks over many arguments; what a task offers to workflows.

A group publishes its members in slices, each one publish call; a generator is read as it is sent.
Most groups consist of plain calls: one task after the other with arguments and nothing else. A
slice of those is made into messages by its task at once, without a look at each member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Self, TypeVar, overload

from umbel.canvas.outbox import (
    Outbox,
    Partial,
    app_of,
    listed,
    put_members,
    slices,
    telling_what_was_sent,
)
from umbel.canvas.plan import CHUNKS, MAP, STARMAP, attach, outline, settle
from umbel.canvas.signature import Signature, kind, maybe_signature, plain_call, shown
from umbel.context import Application
from umbel.exceptions import Replaced
from umbel.ids import new_id
from umbel.result import AsyncResult, GroupResult, result_from_tuple
from umbel.wire.task import Request

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


# ruff: noqa: ARG002 -- chunks take no more arguments, as in Celery


@kind("group")
class group(Signature[list[R]]):
    """Calls that are sent together and run side by side."""

    @overload
    def __init__(
        self, *tasks: Signature[R], app: Application | None = None, **options: Any
    ) -> None: ...
    @overload
    def __init__(
        self, tasks: Iterable[Signature[R]], /, *, app: Application | None = None, **options: Any
    ) -> None: ...
    def __init__(  # type: ignore[misc]  # a positional parameter may have any name
        self, *tasks: Any, app: Application | None = None, **options: Any
    ) -> None:
        super().__init__(
            "celery.group",
            (),
            {"tasks": listed(tasks, app)},
            options,
            subtask_type="group",
            app=app,
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the group that these six keys describe."""
        made = super().from_dict(fields, app)
        tasks = [maybe_signature(each, app) for each in made.kwargs["tasks"]]
        made["kwargs"] = {**made.kwargs, "tasks": tasks}
        return made

    @property
    def tasks(self) -> list[Signature[R]]:
        """Its members; a generator is read to its end."""
        members = self.kwargs["tasks"]
        if not isinstance(members, list):
            members = [maybe_signature(each, self.given_app) for each in members]
            self.kwargs["tasks"] = members
        return members

    @property
    def app(self) -> Application:
        """The application that sends it: its members', unless it was given one."""
        return self.given_app or app_of(self.kwargs, "tasks") or super().app

    def __len__(self) -> int:
        """Count its members."""
        return len(self.tasks)

    def __bool__(self) -> bool:
        """Be true, even empty."""
        return True

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult[R]:
        """Send every member, with further arguments and options; return their results."""
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        merged = {**self.options, **options}
        outbox = Outbox(app, merged)
        given = (merged.pop("task_id", None), merged.pop("group_id", None))
        group_id: str = given[0] or given[1] or new_id()
        results: list[AsyncResult[R]] = []
        partial = Partial(args, kwargs, merged)
        with telling_what_was_sent(outbox):
            for members in slices(self.kwargs, "tasks"):
                results += put_members(
                    outbox, members, partial, group_id=group_id, first=len(results)
                )
                outbox.flush()
        result: GroupResult[R] = GroupResult(group_id, results, app=app)
        outbox.note(result)
        return result

    def __call__(self, *args: Any, **options: Any) -> GroupResult[R]:  # type: ignore[override]
        """Send every member."""
        return self.apply_async(args, **options)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult[R]:
        """Run every member here and now."""
        group_id = options.pop("task_id", None) or self.options.get("task_id") or new_id()
        results: list[Any] = []
        for each in self.tasks:
            result = each.apply(args, kwargs, **options)
            results += result.results if isinstance(each, group) else [result]
        return GroupResult(group_id, results, app=self.app)

    def freeze(  # type: ignore[override]
        self, _id: str | None = None, *, group_id: str | None = None, **fields: Any
    ) -> GroupResult[R]:
        """Give every member its id now."""
        self.tasks  # noqa: B018 -- a generator is read
        return super().freeze(_id, group_id, **fields)  # type: ignore[return-value]

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Delay each member by ``step`` seconds more than the one before.

        From the last that ``stop`` allows on, all are delayed alike.
        """
        most = len(self.tasks) if stop is None else max((stop - start) // step, 0.0)
        for number, each in enumerate(self.tasks):
            each.set(countdown=start + min(number, most) * step)
        return self

    def link(self, callback: Any) -> Any:
        """Send ``callback`` for each member that succeeds."""
        for each in self.tasks:
            each.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Send ``errback`` for each member that fails."""
        for each in self.tasks:
            each.link_error(errback)
        return errback

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> group[R]:
        """Return a copy whose members have further arguments."""
        made: group[R] = group(
            [each.clone(args, kwargs) for each in self.tasks], app=self.given_app
        )
        made["options"] = {**self.options, **options}
        return made

    def __repr__(self) -> str:
        """Show its members."""
        return f"group({shown(self.kwargs['tasks'])})"


# --- a task over many arguments


class _Over(Signature[list[R]]):
    """A call of a built-in task with another task's signature and its arguments."""

    def __init__(
        self,
        name: str,
        task: Any,
        items: Iterable[Any],
        app: Application | None,
        **kwargs: Any,
    ) -> None:
        given = task if isinstance(task, Signature) else Signature(task)
        about = {"task": given, "it": list(items), **kwargs}
        super().__init__(name, (), about, immutable=True, app=app or given.given_app)


class xmap(_Over[R]):
    """One call that runs a task for each item, one after the other."""

    def __init__(self, task: Any, it: Iterable[Any], app: Application | None = None) -> None:
        super().__init__(MAP, task, it, app)


class xstarmap(_Over[R]):
    """One call that runs a task for each item, which are its arguments."""

    def __init__(self, task: Any, it: Iterable[Any], app: Application | None = None) -> None:
        super().__init__(STARMAP, task, it, app)


class chunks(_Over[list[R]]):
    """Calls that run a task for ``n`` items each; sent as a group of starmaps."""

    def __init__(
        self, task: Any, it: Iterable[Any], n: int, app: Application | None = None
    ) -> None:
        if n < 1:
            raise ValueError(f"chunks: expected a size of at least 1, got {n}")
        super().__init__(CHUNKS, task, it, app, n=n)

    def group(self) -> group[list[R]]:
        """Return the group of starmaps that it is sent as."""
        made = self.clone()
        settle(made, new_id)
        starmaps = [
            Signature[list[R]](STARMAP, (), each["kwargs"], immutable=True, app=self.given_app)
            for each in made.kwargs["tasks"]
        ]
        return group(starmaps, app=self.given_app)

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult[list[R]]:
        """Send its starmaps; return their results."""
        return self.group().apply_async(**{**self.options, **options})

    def __call__(self, **options: Any) -> GroupResult[list[R]]:  # type: ignore[override]
        """Send its starmaps."""
        return self.apply_async(**options)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult[list[R]]:
        """Run its starmaps here and now."""
        return self.group().apply(**{**self.options, **options})


# --- what a task offers


class Composable(Generic[P, R]):
    """The part of a Task that knows workflows. It has no state of its own."""

    name: str = ""
    #: None = the current application, whichever that is: a shared task.
    _app: Application | None = None

    if TYPE_CHECKING:

        @property
        def app(self) -> Application:
            """The application it belongs to."""
            ...

        @property
        def request(self) -> Request:
            """What is known about the call that runs here."""
            ...

    def signature(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        **options: Any,
    ) -> Signature[R]:
        """Return a call to be made later; unless ``immutable`` it takes more arguments in front."""
        return Signature(self.name, args, kwargs, options, immutable=immutable, app=self._app)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a call with these arguments, to be made later."""
        return plain_call(self.name, args, kwargs, self._app)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call with exactly these arguments, to be made later."""
        made: Signature[R] = plain_call(self.name, args, kwargs, self._app)
        made["immutable"] = True
        return made

    def map(self, it: Iterable[Any]) -> xmap[R]:
        """Return one call that runs it for each item, one after the other."""
        return xmap(self.s(), it, app=self._app)

    def starmap(self, it: Iterable[Iterable[Any]]) -> xstarmap[R]:
        """Return one call that runs it for each item, which are its arguments."""
        return xstarmap(self.s(), it, app=self._app)

    def chunks(self, it: Iterable[Iterable[Any]], n: int) -> chunks[R]:
        """Return calls that run it for ``n`` items each, which are its arguments."""
        return chunks(self.s(), it, n, app=self._app)

    def replace(self, sig: Signature[Any]) -> NoReturn:
        """End this run and have a workflow take its place: ``raise self.replace(other.s())``.

        It gets this task's id, and all that follows this one follows it. A group is replaced by the
        list of its values.
        """
        raise Replaced(maybe_signature(sig, self.app).clone())

    def add_to_chord(self, sig: Signature[S], *, lazy: bool = False) -> AsyncResult[S]:
        """Send one more member of the header that this task is a member of; its value comes last.

        It is sent at once, and again if this task is run again. With ``lazy`` it only gets its id.
        """
        request, joins = self.request, self.app.servers().joins
        if not request.chord or not request.group or joins is None:
            raise ValueError(f"{self.name}[{request.id}] is not a member of a chord's header")
        node: Any = maybe_signature(sig, self.app).clone()
        settle(node, new_id, single=True)
        attach(node, {"chord": request.chord, "group_id": request.group})
        result: AsyncResult[S] = result_from_tuple(outline(node), self.app)
        joins.enlarge(request.group, 1)
        if not lazy:
            maybe_signature(node, self.app).apply_async()
        return result
