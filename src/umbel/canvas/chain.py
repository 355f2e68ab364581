"""Chains and chords: calls that wait for others.

The links of a chain are sent one after the other, each with the result of the one before. The
header of a chord is sent like a group, its members carrying the body; the server joins them, and
the last one to end releases the body, which gets their results (see ``canvas.joins``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Self, TypeVar, overload

from umbel.canvas.outbox import (
    Outbox,
    Partial,
    app_of,
    listed,
    put_members,
    slices,
    telling_what_was_sent,
)
from umbel.canvas.plan import (
    BEGINNING,
    CHAIN,
    GROUP,
    Gate,
    chord_error,
    distribute,
    final,
    flat,
    header_options,
    settle,
)
from umbel.canvas.signature import (
    Signature,
    apply_errbacks,
    eager_failure,
    first_of,
    kind,
    maybe_signature,
    shown,
)
from umbel.context import Application
from umbel.ids import new_id
from umbel.options import check_call
from umbel.result import AsyncResult, GroupResult

R = TypeVar("R")


@kind("chain")
class chain(Signature[R]):
    """Calls that are sent one after the other, each with the result of the one before.

    Several links are joined as ``|`` joins them, so the chain of a group and a task is a chord.
    """

    def __new__(cls, *tasks: Any, app: Application | None = None, **options: Any) -> Self:
        """Join the links."""
        alone = len(tasks) == 1 and isinstance(tasks[0], Mapping)
        given = tasks if alone or len(tasks) != 1 else tasks[0]
        links = [maybe_signature(each, app) for each in given]
        if all(each["subtask_type"] is None for each in links):
            made: Any = cls.of(links, app)
        else:
            first = cls.of(links[:1] if alone else _unrolled(links[:1]), app)
            made = reduce(or_, links[1:], first)
        made["options"].update(options)
        return made  # type: ignore[no-any-return]

    @overload
    def __init__(
        self,
        *tasks: *tuple[*tuple[Signature[Any], ...], Signature[R]],
        app: Application | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self, tasks: Iterable[Signature[R]], /, *, app: Application | None = None, **options: Any
    ) -> None: ...
    def __init__(  # type: ignore[misc]  # a positional parameter may have any name
        self, *tasks: Any, **options: Any
    ) -> None:
        """Do nothing more: it was made by ``__new__``, for it may be a chord."""

    @classmethod
    def of(cls, links: Iterable[Signature[Any]], app: Application | None = None) -> Self:
        """Return the chain of exactly these links."""
        made = dict.__new__(cls)
        Signature.__init__(
            made, "celery.chain", (), {"tasks": [*links]}, subtask_type="chain", app=app
        )
        return made

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the chain that these six keys describe."""
        made = super().from_dict(fields, app)
        tasks = [maybe_signature(each, app) for each in made.kwargs["tasks"]]
        made["kwargs"] = {**made.kwargs, "tasks": tasks}
        return made

    def with_links(self, links: Iterable[Signature[Any]]) -> Any:
        """Return a chain of other links with the same options."""
        made = self.of(links, self.given_app)
        made["options"] = dict(self.options)
        return made

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its links, in the order in which they run."""
        links: list[Signature[Any]] = self.kwargs["tasks"]
        return links

    def links(self) -> list[Signature[Any]]:
        """Return its links with what its options say of them, for another chain."""
        if not self.options:
            return self.tasks
        made = self.clone()
        distribute(made, self.options)
        return made.tasks

    @property
    def app(self) -> Application:
        """The application that sends it: its first link's, unless it was given one."""
        return self.given_app or (self.tasks[0].app if self.tasks else super().app)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the first link, which carries the others; return the result of the last."""
        app = self.app
        merged = {**self.options, **options}
        check_call(merged)
        made = self._prepared(args, kwargs, merged)
        if app.conf.task_always_eager:
            eager: AsyncResult[R] = made.apply()
            return eager
        outbox = Outbox(app, merged)
        result: AsyncResult[R] = outbox.settle(made)
        outbox.put(made)
        outbox.flush()
        outbox.note(result)
        return result

    def _prepared(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> chain[R]:
        """Return a copy whose links have what a call of the chain adds."""
        if not self.tasks:
            raise ValueError("an empty chain cannot be sent")
        made = self.clone(args, kwargs)
        made["options"] = {}
        distribute(made, options)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:  # type: ignore[override]
        """Send it."""
        return self.apply_async(args, kwargs)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run all links here and now; return the result of the last."""
        app = self.app
        made = self._prepared(args, kwargs, {**self.options, **options})
        settle(made, new_id)
        result: Any = None
        for each in made.tasks:
            if result is not None and not result.successful():
                return eager_failure(made, result.result, result, self.app)
            given = () if result is None else (result.result,)
            following = maybe_signature(each, app).apply(given)
            first_of(following).parent = result
            result = following
        return result

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> chain[R]:
        """Return a copy whose first link has further arguments."""
        links = [maybe_signature(each).clone() for each in self.tasks[1:]]
        links[:0] = [maybe_signature(each).clone(args, kwargs) for each in self.tasks[:1]]
        made: chain[R] = self.with_links(links)
        made["options"].update(options)
        return made

    def __repr__(self) -> str:
        """Show its links."""
        return " | ".join(map(shown, self.tasks))


def _unrolled(links: list[Signature[Any]]) -> list[Signature[Any]]:
    return [
        inner for each in links for inner in (each.tasks if isinstance(each, chain) else [each])
    ]


@kind("chord")
class chord(Signature[R]):
    """A header and its body; without one, calling it with a body sends it."""

    def __init__(
        self,
        header: Iterable[Signature[Any]] | Signature[Any],
        body: Signature[R] | None = None,
        task: str = "celery.chord",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        app: Application | None = None,
        **options: Any,
    ) -> None:
        given: Any = header
        if isinstance(header, Signature) and header.subtask_type in (CHAIN, GROUP):
            given = header.kwargs["tasks"]
        about = {
            "kwargs": dict(kwargs or {}),
            "header": listed((given,), app),
            "body": maybe_signature(body, app),
        }
        super().__init__(task, args, about, options, subtask_type="chord", app=app)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the chord that these six keys describe."""
        made = super().from_dict(fields, app)
        header, body = made.kwargs["header"], made.kwargs.get("body")
        members = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
        made["kwargs"] = {
            **made.kwargs,
            "header": [maybe_signature(each, app) for each in members],
            "body": maybe_signature(body, app),
        }
        return made

    @property
    def tasks(self) -> list[Signature[Any]]:
        """The members of its header; a generator is read to its end."""
        header = self.kwargs["header"]
        if isinstance(header, Mapping):
            header = header["kwargs"]["tasks"]
        if not isinstance(header, list):
            header = [maybe_signature(each, self.given_app) for each in header]
            self.kwargs["header"] = header
        return header

    @property
    def body(self) -> Any:
        """What gets the results."""
        body = self.kwargs["body"] = maybe_signature(self.kwargs["body"], self.given_app)
        return body

    @body.setter
    def body(self, body: Any) -> None:
        self.kwargs["body"] = body

    @property
    def app(self) -> Application:
        """The application that sends it: its header's, unless it was given one."""
        if isinstance(self.kwargs["header"], Mapping):
            self.kwargs["header"] = self.tasks
        found = self.given_app or app_of(self.kwargs, "header")
        return found or (self.body.app if self.body is not None else super().app)

    def __len__(self) -> int:
        """Count the members of its header."""
        return len(self.tasks)

    def __bool__(self) -> bool:
        """Be true, even empty."""
        return True

    def __call__(  # type: ignore[override]
        self, body: Signature[Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send it, with this body if it has none."""
        return self.apply_async((), {}, body=body, **options)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        body: Signature[Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the header, with further arguments; return the result of the body."""
        app = self.app
        if app.conf.task_always_eager:
            eager: AsyncResult[R] = self.apply(args, kwargs, body=body, **options)
            return eager
        outbox = Outbox(app, {**self.options, **options})
        group_id, following, beginning = self._prepared(body, options)
        result: AsyncResult[R] = outbox.settle_body(following)
        partial = self._partial(args, kwargs, beginning, following)
        results: list[AsyncResult[Any]] = []
        with telling_what_was_sent(outbox):
            for members, is_last in _lookahead(slices(self.kwargs, "header")):
                results += put_members(
                    outbox, members, partial, group_id=group_id, first=len(results)
                )
                if is_last and results:
                    outbox.open(Gate(group_id, len(results), following))
                outbox.flush()
        if not results:
            outbox.put(following, args=([],))
            outbox.flush()
        first_of(result).parent = GroupResult(group_id, results, app=app)
        outbox.note(result)
        return result

    def _prepared(
        self, body: Signature[Any] | None, options: Mapping[str, Any]
    ) -> tuple[str, Signature[Any], dict[str, Any]]:
        """Return the header's id, the body with what a call adds, and options for the header."""
        body = self.body if body is None else body
        if body is None:
            raise ValueError("a chord needs a body: chord(header, body), or chord(header)(body)")
        following = maybe_signature(body, self.given_app).clone()
        rest = {**self.options, **options}
        group_id = self.options.get("task_id") or new_id()
        if "task_id" not in options and rest.pop("task_id", None):
            final(following)["options"].setdefault("task_id", group_id)
        beginning = header_options(rest)
        for name in BEGINNING:
            rest.pop(name, None)
        distribute(following, rest)
        end = final(following)
        if end.get("subtask_type") is None:
            end["options"].setdefault("group_id", group_id)
        return group_id, following, beginning

    def _partial(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        following: Signature[Any],
    ) -> Partial:
        more = {**self.kwargs["kwargs"], **(kwargs or {})}
        return Partial((*args, *self.args), more, options, {"chord": following})

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        body: Signature[Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run the header and then the body, here and now; return the result of the body."""
        app = self.app
        group_id, following, _ = self._prepared(body, options)
        partial = self._partial(args, kwargs, {}, following)
        members = [each.clone(partial.args, partial.kwargs) for each in self.tasks]
        results: list[Any] = []
        for member in flat(members):
            settle(member, new_id, single=True)
            thrown = {"throw": options["throw"]} if "throw" in options else {}
            results.append(maybe_signature(member, app).apply(**thrown))
        settle(following, new_id)
        header = GroupResult(group_id, results, app=app)
        failed = [(each.id, each.result) for each in results if not each.successful()]
        if failed:
            error = chord_error(failed)
            apply_errbacks(following, error, app)
            return eager_failure(following, error, header, app)
        result = maybe_signature(following, app).apply((header.value(),))
        first_of(result).parent = header
        return result

    def freeze(  # type: ignore[override]
        self, _id: str | None = None, *, group_id: str | None = None, **fields: Any
    ) -> AsyncResult[R]:
        """Give every task its id now; return the body's result, with the header's as its parent."""
        self.tasks  # noqa: B018 -- a generator is read
        return super().freeze(_id, group_id, **fields)

    def link(self, callback: Any) -> Any:
        """Send ``callback`` when the body succeeds."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Send ``errback`` when the header or the body fails, with the body's id.

        With ``task_allow_error_cb_on_chord_header`` also for each member of the header that fails.
        """
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for each in self.tasks:
                each.link_error(errback)
        self.body.link_error(errback)
        return errback

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> chord[R]:
        """Return a copy whose header has further arguments."""
        body = None if self.body is None else maybe_signature(self.body).clone()
        made: chord[R] = chord(
            [maybe_signature(each).clone() for each in self.tasks],
            body,
            self.task,
            (*args, *self.args),
            {**self.kwargs["kwargs"], **(kwargs or {})},
            app=self.given_app,
        )
        made["options"] = {**self.options, **options}
        made["immutable"] = self.immutable
        return made

    def __repr__(self) -> str:
        """Show its header and body."""
        return f"chord({shown(self.tasks)}, {shown(self.body)})"


def _lookahead(slices: Iterator[list[Any]]) -> Iterator[tuple[list[Any], bool]]:
    """Yield slices, and of each whether it is the last."""
    waiting = next(slices, None)
    while waiting is not None:
        following = next(slices, None)
        yield waiting, following is None
        waiting = following
