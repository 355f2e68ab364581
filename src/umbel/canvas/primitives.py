"""Groups and chains, and how a serialised signature becomes one again.

A group publishes its members in slices, each one publish call; a generator is read as it is sent.
Most groups consist of plain calls: one task after the other with arguments and nothing else. A
slice of those is made into messages by its task at once, without a look at each member.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NoReturn, Self, TypeVar, overload

from umbel.calling import policy_of, tell_published
from umbel.canvas.signature import Signature, kind, listed_signatures, maybe_signature
from umbel.context import Application, Caller, current_request
from umbel.ids import new_id
from umbel.message import Message
from umbel.options import check_call
from umbel.result import AsyncResult, GroupResult
from umbel.routing import Route

R = TypeVar("R")
G = TypeVar("G", bound=Signature[Any])

#: Members of a group that are published together: enough that a round trip is nothing beside the
#: encoding, few enough that their messages (about 1 kB each) are no burden.
SLICE = 1000
#: What plain calls are told apart by, and made of. In C: they are called for each member.
_task_of = itemgetter("task")
_options_of = itemgetter("options")
_arguments_of = itemgetter("args", "kwargs")
_NESTED = "a group inside of a group or chain is not supported yet"
#: Options of a chain's call that are meant for one link.
_FIRST_ONLY = ("countdown", "eta")
_LAST_ONLY = ("task_id", "group_id", "group_index", "chord")


@kind("group")
class group(Signature[list[R]]):  # noqa: N801 -- Celery's public name
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
        members: Any = (
            tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Signature) else tasks
        )
        if isinstance(members, group):
            members = members.tasks
        if not isinstance(members, Iterator):
            members = [maybe_signature(each, app) for each in members]
        super().__init__(
            "celery.group", (), {"tasks": members}, options, subtask_type="group", app=app
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the group that these six keys describe."""
        return _with_tasks(super().from_dict(fields, app))

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
        members = self.kwargs["tasks"]
        if self.given_app is not None:
            return self.given_app
        if not isinstance(members, list):
            taken = list(itertools.islice(members, 1))
            self.kwargs["tasks"] = itertools.chain(taken, members)
            members = taken
        first: Any = maybe_signature(members[0]) if members else None
        return first.app if isinstance(first, Signature) else super().app

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
        outbox = _Outbox(app, merged)
        given = (merged.pop("task_id", None), merged.pop("group_id", None))
        group_id: str = given[0] or given[1] or new_id()
        try:
            results = self._send(outbox, group_id, args, kwargs, merged)
        except Exception as error:
            if outbox.stored:
                error.add_note(f"The first {outbox.stored} members of the group were sent.")
            raise
        result: GroupResult[R] = GroupResult(group_id, results, app=app)
        outbox.note(result)
        return result

    def _send(
        self,
        outbox: _Outbox,
        group_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> list[AsyncResult[R]]:
        results: list[AsyncResult[R]] = []
        for members in self._slices():
            if _are_plain(members) and not (args or kwargs):
                results += outbox.put_plain(members, options, group_id=group_id, first=len(results))
            else:
                for index, each in enumerate(members, len(results)):
                    about = {**options, "group_id": group_id, "group_index": index}
                    member = maybe_signature(each, self.given_app)
                    results.append(outbox.put(member, args, kwargs, about))
            outbox.flush()
        return results

    def _slices(self) -> Iterator[list[Any]]:
        """Yield its members, a slice at a time; a generator is read for each, and then spent."""
        members = self.kwargs["tasks"]
        if not isinstance(members, list):
            # Read again it would have no members, and nothing would be sent without a word.
            self.kwargs["tasks"] = map(_refuse, itertools.repeat(None))
        rest = iter(members)
        while taken := list(itertools.islice(rest, SLICE)):
            yield taken

    def __call__(self, *args: Any, **options: Any) -> GroupResult[R]:  # type: ignore[override]
        """Send every member."""
        return self.apply_async(args, **options)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult[R]:
        """Run every member here and now."""
        results = [each.apply(args, kwargs, **options) for each in self.tasks]
        return GroupResult(self.options.get("task_id") or new_id(), results, app=self.app)

    def freeze(  # type: ignore[override]
        self,
        _id: str | None = None,
        *,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_id: str | None = None,
        **_: Any,
    ) -> GroupResult[R]:
        """Give every member its id now."""
        if group_id is not None:
            raise NotImplementedError(_NESTED)
        own_id: str = self.options.setdefault("task_id", _id or new_id())
        results = [
            each.freeze(group_id=own_id, group_index=index, root_id=root_id, parent_id=parent_id)
            for index, each in enumerate(self.tasks)
        ]
        return GroupResult(own_id, results, app=self.app)

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
        members = self.kwargs["tasks"]
        return f"group({members!r})"


@kind("chain")
class chain(Signature[R]):  # noqa: N801 -- Celery's public name
    """Calls that are sent one after the other, each with the result of the one before."""

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
        self, *tasks: Any, app: Application | None = None, **options: Any
    ) -> None:
        given: Any = tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Mapping) else tasks
        links: list[Signature[Any]] = []
        for each in given:
            found = maybe_signature(each, app)
            links.extend(found.tasks if isinstance(found, chain) else [found])
        super().__init__(
            "celery.chain", (), {"tasks": links}, options, subtask_type="chain", app=app
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], app: Application | None = None) -> Self:
        """Return the chain that these six keys describe."""
        return _with_tasks(super().from_dict(fields, app))

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its links, in the order in which they run."""
        links: list[Signature[Any]] = self.kwargs["tasks"]
        return links

    @property
    def app(self) -> Application:
        """The application that sends it: its first link's, unless it was given one."""
        return self.given_app or (self.tasks[0].app if self.tasks else super().app)

    def freeze(  # type: ignore[override]
        self, _id: str | None = None, *, group_id: str | None = None, **fields: Any
    ) -> AsyncResult[R]:
        """Give every link its id now; return the result of the last, with the others as parents.

        Only the last link belongs to the group: its result is the chain's.
        """
        *first, last = self.tasks
        result: AsyncResult[Any] | None = None
        root_id = fields.pop("root_id", None)
        for each in first:
            frozen = each.freeze(root_id=root_id)
            frozen.parent = result
            result = frozen
            root_id = root_id or frozen.id
        final: AsyncResult[R] = last.freeze(_id, group_id=group_id, root_id=root_id, **fields)
        final.parent = result
        self.options.setdefault("task_id", final.id)
        return final

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the first link, which carries the others; return the result of the last."""
        merged = {**self.options, **options}
        app = self.app
        if app.conf.task_always_eager:
            eager: AsyncResult[R] = self.prepared(args, kwargs, merged).apply()
            return eager
        outbox = _Outbox(app, merged)
        result = outbox.put(self, args, kwargs, merged)
        outbox.flush()
        outbox.note(result)
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:  # type: ignore[override]
        """Send it."""
        return self.apply_async(args, kwargs)

    def prepared(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> chain[R]:
        """Return a copy whose links have what a call of the chain adds."""
        if not self.tasks:
            raise ValueError("an empty chain cannot be sent")
        made = self.clone(args, kwargs)
        first, last = made.tasks[0], made.tasks[-1]
        for callback in listed_signatures(options.pop("link", None)):
            last.link(callback)
        for errback in listed_signatures(options.pop("link_error", None)):
            made.link_error(errback)
        first.set(**{name: options.pop(name) for name in _FIRST_ONLY if name in options})
        last.set(**{name: options.pop(name) for name in _LAST_ONLY if name in options})
        for each in made.tasks:
            each.set(**options)
        return made

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run all links here and now; return the result of the last."""
        result: Any = None
        for index, each in enumerate(self.tasks):
            given = (tuple(args), kwargs) if index == 0 else ((result.get(),), None)
            following = each.apply(*given, **options)
            following.parent = result
            result = following
        return result

    def link(self, callback: Any) -> Any:
        """Send ``callback`` when the last link succeeds."""
        return self.tasks[-1].link(callback)

    def link_error(self, errback: Any) -> Any:
        """Send ``errback`` when a link fails."""
        for each in self.tasks:
            each.link_error(errback)
        return errback

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> chain[R]:
        """Return a copy whose first link has further arguments."""
        links = [each.clone() for each in self.tasks]
        links[:1] = [each.clone(args, kwargs) for each in links[:1]]
        made: chain[R] = chain(links, app=self.given_app)
        made["options"] = {**self.options, **options}
        return made

    def __repr__(self) -> str:
        """Show its links."""
        return " | ".join(repr(each) for each in self.tasks)


def _with_tasks(made: G) -> G:
    """Make what a serialised group or chain consists of signatures again."""
    tasks = [maybe_signature(each, made.given_app) for each in made.kwargs["tasks"]]
    made["kwargs"] = {**made.kwargs, "tasks": tasks}
    return made


def _are_plain(members: Sequence[Any]) -> bool:
    """Tell whether all are calls of a task without options of their own."""
    return set(map(type, members)) == {Signature} and not any(map(_options_of, members))


def _refuse(_: object) -> NoReturn:
    raise RuntimeError(
        "this group was made of a generator, and sent: make it of a list to use it again"
    )


class _Outbox:
    """Sends the parts of one workflow in slices, each in one publish call."""

    def __init__(self, app: Application, options: Mapping[str, Any]) -> None:
        check_call(options)
        self._app = app
        self._request = current_request.get()
        self._deadline_in = options.get("deadline_in")
        self._policy = policy_of(options)
        self._calls: dict[str, Caller] = {}
        self._messages: list[Message] = []
        self._routes: dict[tuple[str, ...], Route] = {}
        #: How many messages the server has.
        self.stored = 0

    def put_plain(
        self,
        members: Sequence[Signature[R]],
        options: Mapping[str, Any],
        *,
        group_id: str,
        first: int,
    ) -> list[AsyncResult[R]]:
        """Send plain calls, which are members of a group, with the next slice."""
        results: list[AsyncResult[R]] = []
        for name, alike in itertools.groupby(members, _task_of):
            index, calls = first + len(results), list(map(_arguments_of, alike))
            call = self._call(name)
            if call.is_uniform:
                messages, route = call.members(
                    calls, options, group_id=group_id, first=index, request=self._request
                )
                self._messages += messages
                self._routes[route.needs] = route
                results += call.results(messages, options)
            else:
                for number, (args, kwargs) in enumerate(calls, index):
                    about = {**options, "group_id": group_id, "group_index": number}
                    results.append(self._put_task(name, tuple(args), kwargs, about))
        return results

    def put(
        self,
        sig: Signature[R],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> AsyncResult[R]:
        """Send a task or chain, with further arguments and options, with the next slice."""
        if isinstance(sig, group):
            raise NotImplementedError(_NESTED)
        if isinstance(sig, chain):
            return self._put_chain(sig.prepared(args, kwargs, options))
        return self._put_task(sig.task, *sig.merged(args, kwargs, options))

    def _put_chain(self, sig: chain[R]) -> AsyncResult[R]:
        first, *rest = sig.tasks
        if any(isinstance(each, group) for each in sig.tasks):
            raise NotImplementedError(_NESTED)
        for each in rest:
            check_call(each.options)
        result = sig.freeze()
        options = {**first.options, "chain": rest[::-1] or None}
        self._put_task(first.task, first.args, first.kwargs, options)
        return result

    def _put_task(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> AsyncResult[Any]:
        call = self._call(name)
        if call.takes_detour:
            sent: AsyncResult[Any] = call.task.apply_async(
                args, kwargs, **{**options, "add_to_parent": False}
            )
            return sent
        message, route = call.prepared(args, kwargs, options, request=self._request)
        self._messages.append(message)
        self._routes[route.needs] = route
        result: AsyncResult[Any] = call.result(message.id, options)
        return result

    def _call(self, name: str) -> Caller:
        call = self._calls.get(name)
        if call is None:
            call = self._calls[name] = self._app.call_for(name)
        return call

    def flush(self) -> None:
        """Send what was put, in one publish call."""
        if not self._messages:
            return
        sent, self._messages = self._messages, []
        self._app.publisher.publish(
            sent,
            tuple(self._routes.values()),
            deadline_in=self._deadline_in,
            policy=self._policy,
        )
        self.stored += len(sent)
        tell_published(sent)

    def note(self, result: Any) -> None:
        """Count what was sent among the children of the task that runs here."""
        if self._request is not None:
            self._request.children.append(result)
