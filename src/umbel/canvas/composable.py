"""What a task offers to workflows: signatures of its calls, and its place in one that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

from umbel.canvas.group import chunks, xmap, xstarmap
from umbel.canvas.plan import attach, outline, settle
from umbel.canvas.signature import Signature, maybe_signature, plain_call
from umbel.context import Application
from umbel.exceptions import Replaced
from umbel.ids import new_id
from umbel.result import AsyncResult, result_from_tuple
from umbel.wire.task import Request

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


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

    def map(self, it: Iterable[Any]) -> xmap[list[R]]:
        """Return one call that runs it for each item, one after the other."""
        return xmap(self.s(), it, app=self._app)

    def starmap(self, it: Iterable[Iterable[Any]]) -> xstarmap[list[R]]:
        """Return one call that runs it for each item, which are its arguments."""
        return xstarmap(self.s(), it, app=self._app)

    def chunks(self, it: Iterable[Iterable[Any]], n: int) -> chunks[list[R]]:
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
