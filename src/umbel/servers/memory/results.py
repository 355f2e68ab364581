"""Results in memory, and who waits for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from umbel.message import ResultRecord
from umbel.servers.memory.shelf import Follower
from umbel.servers.memory.space import Space

#: What the id of a saved group ends in: the other ids are tasks.
GROUP = "/group"


class MemoryResults:
    """``ResultStore`` over a space."""

    def __init__(self, space: Space) -> None:
        self.reply_to = ""
        self.caveat = ""
        self.shared = True
        self._space = space

    def put(self, records: Sequence[ResultRecord]) -> None:
        with self._space.lock:
            self._space.shelf.put(records)

    def get(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        with self._space.lock:
            return self._space.shelf.get(task_ids)

    def watch(self) -> MemoryWatch:
        return MemoryWatch(self._space)

    def forget(self, task_ids: Sequence[str]) -> None:
        with self._space.lock:
            self._space.shelf.forget(task_ids)

    def save_group(self, group_id: str, data: bytes, *, expires_in: float | None) -> None:
        self.put([ResultRecord(group_id + GROUP, data, "", expires_in)])

    def saved_group(self, group_id: str) -> bytes | None:
        return self.get([group_id + GROUP]).get(group_id + GROUP)

    def forget_group(self, group_id: str) -> None:
        self.forget([group_id + GROUP])

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryWatch:
    """``Watch`` over a space."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._follower = Follower()
        self._woken = False

    def add(self, task_ids: Iterable[str]) -> None:
        with self._space.lock:
            self._space.shelf.follow(self._follower, task_ids)

    def discard(self, task_ids: Iterable[str]) -> None:
        with self._space.lock:
            self._space.shelf.unfollow(self._follower, task_ids)

    def receive(self, timeout: float) -> list[tuple[str, bytes]]:
        clock = self._space.clock
        deadline = clock.monotonic() + timeout
        while True:
            news = self._news()
            left = deadline - clock.monotonic()
            if news or self._woken or left <= 0:
                self._woken = False
                return news
            if not self._follower.bell.wait(left):
                deadline = clock.monotonic()  # over, even for a clock that stands still

    def wake(self) -> None:
        self._woken = True
        self._follower.bell.ring()

    def close(self) -> None:
        self.discard(list(self._follower.task_ids))

    def _news(self) -> list[tuple[str, bytes]]:
        follower = self._follower
        with self._space.lock:
            news = [each for each in follower.news if each[0] in follower.task_ids]
            follower.news.clear()
        return news
