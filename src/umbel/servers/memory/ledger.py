"""Dead letters, revocations, node records and leases in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from umbel.servers.memory.space import Entry, Lease, Space
from umbel.servers.seams import NO_CHARGE, Charge, DeadConsumer, DeadLetter, Revocation


class MemoryLedger:
    """``Ledger`` over a space."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def dead_letters(self, *, limit: int = 100, after: str = "") -> Sequence[DeadLetter]:
        with self._space.lock:
            behind = (letter for key, letter in self._space.dead.items() if key > after)
            return list(islice(behind, limit))

    def requeue(self, keys: Sequence[str]) -> int:
        space = self._space
        with space.lock:
            letters = [space.dead[key] for key in dict.fromkeys(keys) if key in space.dead]
            routed = [letter for letter in letters if letter.queue in space.lines]
            for letter in routed:
                del space.dead[letter.key]
                space.place(Entry(letter.message, letter.queue, space.next_number()))
        return len(routed)

    def drop(self, keys: Sequence[str]) -> int:
        with self._space.lock:
            return sum(self._space.dead.pop(key, None) is not None for key in keys)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        with self._space.lock:
            for each in letters:
                self._space.keep_letter(each.message, each.queue, each.reason, each.crashes)

    def charge(self, dead: Sequence[DeadConsumer], *, expires_in: float) -> None:
        space = self._space
        with space.lock:
            now = space.clock.now()
            _forget(space, now)
            for each in dead:
                if each.consumer_id not in space.charged:
                    space.charged[each.consumer_id] = now + expires_in
                    _charge(space, each, until=now + expires_in)

    def charges(self, message_ids: Sequence[str]) -> dict[str, Charge]:
        space = self._space
        with space.lock:
            _forget(space, space.clock.now())
            return {each: space.charges[each][1] for each in message_ids if each in space.charges}

    def absolve(self, message_ids: Sequence[str]) -> None:
        with self._space.lock:
            for each in message_ids:
                self._space.charges.pop(each, None)

    def revoke(
        self, task_ids: Sequence[str], *, expires_in: float, by: str = "", signal: str = ""
    ) -> None:
        space = self._space
        with space.lock:
            now = space.clock.now()
            for task_id in [each for each, (until, _) in space.revoked.items() if until <= now]:
                del space.revoked[task_id]
            said = (now + expires_in, Revocation(by, now, signal))
            space.revoked.update(dict.fromkeys(task_ids, said))

    def revoked(self, task_ids: Sequence[str]) -> dict[str, Revocation]:
        space = self._space
        with space.lock:
            now = space.clock.now()
            return {
                each: space.revoked[each][1] for each in task_ids if space.is_revoked(each, now)
            }

    def announce(self, node: str, record: Mapping[str, Any], *, expires_in: float) -> None:
        text = json.dumps(record)  # so that what only memory could keep is refused here too
        with self._space.lock:
            self._space.nodes[node] = (self._space.clock.now() + expires_in, text)

    def nodes(self) -> dict[str, dict[str, Any]]:
        with self._space.lock:
            now = self._space.clock.now()
            living = {
                name: text for name, (until, text) in self._space.nodes.items() if until > now
            }
        return {name: json.loads(text) for name, text in living.items()}

    def retire(self, node: str) -> None:
        with self._space.lock:
            self._space.nodes.pop(node, None)

    def acquire(self, name: str, holder: str, *, lease: float) -> int | None:
        space = self._space
        with space.lock:
            now = space.clock.monotonic()
            last = space.leases.get(name, Lease("", 0, now))
            if last.holder != holder and last.deadline > now:
                return None
            token = last.token + (last.holder != holder)
            space.leases[name] = Lease(holder, token, now + lease)
            return token

    def release(self, name: str, holder: str) -> None:
        space = self._space
        with space.lock:
            last = space.leases.get(name)
            if last is not None and last.holder == holder:
                space.leases[name] = Lease("", last.token, space.clock.monotonic())


def _charge(space: Space, dead: DeadConsumer, *, until: float) -> None:
    more = dead.charge
    for message_id in dead.running:
        _, before = space.charges.get(message_id, (0.0, NO_CHARGE))
        charge = Charge(before.crashes + more.crashes, more.suspect, more.verdict or before.verdict)
        space.charges[message_id] = (until, charge)


def _forget(space: Space, now: float) -> None:
    for message_id in [each for each, (until, _) in space.charges.items() if until <= now]:
        del space.charges[message_id]
    for consumer_id in [each for each, until in space.charged.items() if until <= now]:
        del space.charged[consumer_id]
