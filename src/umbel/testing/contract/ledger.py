"""The durable small state: the promises of ``Ledger``."""

from __future__ import annotations

from umbel.ids import new_id
from umbel.message import Effects, Ending
from umbel.servers.seams import Charge, DeadConsumer, DeadLetter
from umbel.testing.contract.stage import LONG, Stage, Suite, ids, in_thread, message
from umbel.wire.names import tree


class LedgerContract(Suite):
    # --- dead letters

    def test_a_dead_letter_tells_message_queue_reason_time_and_crashes(
        self, stage: Stage, queue: str
    ) -> None:
        (task_id,) = stage.send(queue, headers={"lang": "py"})
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        stage.transport.recover([DeadConsumer(consumer_id, (task_id,))])
        held = stage.one(stage.consumer(queue))
        before_at = stage.clock.now()
        stage.bury(held, "crashed too often")
        (letter,) = stage.letters(task_id)
        assert letter.message.body == held.message.body
        assert letter.message.headers.items() >= {"lang": "py"}.items()
        assert (letter.queue, letter.reason) == (queue, "crashed too often")
        assert letter.crashes == 1
        assert before_at - 1.0 <= letter.died_at <= stage.clock.now() + 1.0
        assert letter.key

    def test_a_stale_delivery_is_not_buried(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        held = stage.one(consumer)
        stage.transport.recover([DeadConsumer(consumer_id)])
        stage.commit(Effects(held, Ending.DEAD, "late"))
        assert stage.letters(task_id) == []

    def test_dead_letters_are_listed_oldest_first_in_pages(self, stage: Stage, queue: str) -> None:
        sent = stage.send(queue, 7)
        for held in stage.take(stage.consumer(queue), 7):
            stage.bury(held)
        pages, after = [], ""
        while page := stage.ledger.dead_letters(limit=3, after=after):
            assert len(page) <= 3
            pages += [letter.message.id for letter in page]
            after = page[-1].key
        assert [task_id for task_id in pages if task_id in sent] == sent

    def test_requeue_sends_letters_to_their_queues_with_counts_at_zero(
        self, stage: Stage, queue: str
    ) -> None:
        (task_id,) = stage.send(queue)
        consumer_id, consumer = stage.session(queue)
        stage.take(consumer)
        stage.transport.recover([DeadConsumer(consumer_id, (task_id,))])
        stage.bury(stage.one(stage.consumer(queue)))
        (letter,) = stage.letters(task_id)
        assert stage.ledger.requeue([letter.key, letter.key[:-1] + "?"]) == 1
        again = stage.one(stage.consumer(queue))
        assert again.message.id == task_id
        assert (again.crashes, again.losses, again.suspect) == (0, 0, False)
        assert again.verdict == ""
        assert stage.letters(task_id) == []
        assert stage.ledger.requeue([letter.key]) == 0

    def test_drop_deletes_letters(self, stage: Stage, queue: str) -> None:
        kept, dropped = stage.send(queue, 2)
        for held in stage.take(stage.consumer(queue), 2):
            stage.bury(held)
        (letter,) = stage.letters(dropped)
        assert stage.ledger.drop([letter.key]) == 1
        assert stage.ledger.drop([letter.key]) == 0
        assert [each.message.id for each in stage.letters(kept, dropped)] == [kept]
        assert stage.drain(queue) == []

    # --- what is kept for messages of another server

    def test_letters_of_another_server_are_kept(self, stage: Stage) -> None:
        foreign = message("elsewhere", headers={"lang": "py"}, priority=5)
        before_at = stage.clock.now()
        stage.ledger.bury([DeadLetter("", foreign, "elsewhere", "tired", 0.0, 2)])
        (letter,) = stage.letters(foreign.id)
        assert (letter.queue, letter.reason, letter.crashes) == ("elsewhere", "tired", 2)
        assert (letter.message.body, letter.message.priority) == (foreign.body, 5)
        assert letter.message.headers.items() >= {"lang": "py"}.items()
        assert before_at - 1.0 <= letter.died_at <= stage.clock.now() + 1.0
        assert stage.ledger.drop([letter.key]) == 1

    def test_a_death_is_charged_once_however_often_it_is_told(self, stage: Stage) -> None:
        guilty, dead_id = new_id(), new_id()
        for ledger in (stage.ledger, stage.open_ledger(), stage.ledger):
            ledger.charge([DeadConsumer(dead_id, (guilty,))], expires_in=LONG)
        assert stage.open_ledger().charges([guilty, new_id()]) == {guilty: Charge(crashes=1)}
        assert stage.ledger.charges([]) == {}

    def test_deaths_add_up_and_a_verdict_stays(self, stage: Stage) -> None:
        one, two = new_id(), new_id()
        stage.ledger.charge(
            [
                DeadConsumer(new_id(), (one, two)),
                DeadConsumer(new_id(), (two,), verdict="terminated"),
                DeadConsumer(new_id(), (two,)),
                DeadConsumer(new_id()),
            ],
            expires_in=LONG,
        )
        assert stage.ledger.charges([one, two]) == {
            one: Charge(suspect=True),
            two: Charge(crashes=1, verdict="terminated"),
        }

    def test_a_message_that_was_absolved_has_nothing_against_it(self, stage: Stage) -> None:
        one, two = new_id(), new_id()
        deaths = [DeadConsumer(new_id(), (each,)) for each in (one, two)]
        stage.ledger.charge(deaths, expires_in=LONG)
        stage.open_ledger().absolve([one, "never-charged"])
        stage.ledger.absolve([])
        assert stage.ledger.charges([one, two]) == {two: Charge(crashes=1)}

    def test_a_charge_expires(self, stage: Stage) -> None:
        guilty = new_id()
        stage.ledger.charge([DeadConsumer(new_id(), (guilty,))], expires_in=stage.short)
        stage.lapse(stage.short * 1.2)
        assert stage.ledger.charges([guilty]) == {}

    # --- revocations

    def test_deliveries_of_revoked_tasks_are_marked(self, stage: Stage, queue: str) -> None:
        free, revoked = stage.send(queue, 2)
        stage.open_ledger().revoke([revoked], expires_in=LONG)
        got = {each.message.id: each.revoked for each in stage.take(stage.consumer(queue), 2)}
        assert got == {free: False, revoked: True}

    def test_tasks_revoked_before_they_are_published_are_marked(
        self, stage: Stage, queue: str
    ) -> None:
        task_id = new_id()
        stage.ledger.revoke([task_id], expires_in=LONG)
        stage.send(queue, id=task_id)
        assert stage.one(stage.consumer(queue)).revoked

    def test_a_workflow_is_revoked_by_the_id_of_its_first_task(
        self, stage: Stage, queue: str
    ) -> None:
        root = new_id()
        stage.ledger.revoke([tree(root)], expires_in=LONG)
        (free,) = stage.send(queue, headers={"root_id": new_id()})
        (part,) = stage.send(queue, headers={"root_id": root})
        got = {each.message.id: each.revoked for each in stage.take(stage.consumer(queue), 2)}
        assert got == {free: False, part: True}

    def test_delayed_tasks_that_are_revoked_are_marked(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue, not_before=stage.clock.now() + stage.short)
        stage.ledger.revoke([task_id], expires_in=stage.short + LONG)
        stage.lapse(stage.short)
        assert stage.one(stage.consumer(queue)).revoked

    def test_revoked_returns_which_of_the_ids_are(self, stage: Stage) -> None:
        yes, no = new_id(), new_id()
        stage.ledger.revoke([yes], expires_in=LONG)
        assert list(stage.open_ledger().revoked([yes, no])) == [yes]
        assert stage.ledger.revoked([]) == {}

    def test_a_revocation_tells_who_asked_and_when_and_what_shall_end_what_runs(
        self, stage: Stage
    ) -> None:
        one, two = new_id(), new_id()
        stage.ledger.revoke([one, two], expires_in=LONG, by="ann@host", signal="SIGTERM")
        told = stage.open_ledger().revoked([one, two])
        assert (told[one].by, told[one].signal) == ("ann@host", "SIGTERM")
        assert told[one] == told[two]
        assert abs(told[one].at - stage.clock.now()) < LONG

    def test_what_is_said_last_of_a_task_counts(self, stage: Stage) -> None:
        task_id = new_id()
        stage.ledger.revoke([task_id], expires_in=LONG, by="ann", signal="SIGTERM")
        stage.ledger.revoke([task_id], expires_in=stage.short, by="bob")
        told = stage.ledger.revoked([task_id])[task_id]
        assert (told.by, told.signal) == ("bob", "")
        stage.lapse(stage.short * 1.2)
        assert stage.ledger.revoked([task_id]) == {}

    def test_a_revocation_expires(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        stage.ledger.revoke([task_id], expires_in=stage.short)
        stage.lapse(stage.short * 1.2)
        assert stage.ledger.revoked([task_id]) == {}
        assert not stage.one(stage.consumer(queue)).revoked

    # --- nodes

    def test_nodes_returns_the_records_announced(self, stage: Stage) -> None:
        name, record = f"umbel@{new_id()}", {"queues": ["a", "b"], "pid": 7, "load": [0.5, None]}
        stage.ledger.announce(name, record, expires_in=LONG)
        assert stage.open_ledger().nodes()[name] == record

    def test_announcing_again_replaces_the_record(self, stage: Stage) -> None:
        name = f"umbel@{new_id()}"
        stage.ledger.announce(name, {"n": 1}, expires_in=stage.short)
        stage.ledger.announce(name, {"n": 2}, expires_in=stage.short + LONG)
        stage.lapse(stage.short * 1.2)
        assert stage.ledger.nodes()[name] == {"n": 2}

    def test_a_node_that_announces_no_more_expires(self, stage: Stage) -> None:
        name = f"umbel@{new_id()}"
        stage.ledger.announce(name, {}, expires_in=stage.short)
        stage.lapse(stage.short * 1.2)
        assert name not in stage.ledger.nodes()

    def test_retire_deletes_a_record(self, stage: Stage) -> None:
        name = f"umbel@{new_id()}"
        stage.ledger.announce(name, {}, expires_in=LONG)
        stage.ledger.retire(name)
        stage.ledger.retire(name)
        assert name not in stage.ledger.nodes()

    # --- leases with fencing tokens

    def test_a_lease_has_one_holder_at_a_time(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        assert stage.ledger.acquire(name, "a", lease=LONG) is not None
        assert stage.open_ledger().acquire(name, "b", lease=LONG) is None

    def test_of_many_who_take_a_lease_at_once_one_gets_it(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        ledgers = [stage.open_ledger() for _ in range(4)]
        joins = [
            in_thread(ledgers[number % 4].acquire, name, f"holder-{number}", lease=LONG)
            for number in range(8)
        ]
        tokens = [join() for join in joins]
        assert len([token for token in tokens if token is not None]) == 1

    def test_renewing_keeps_the_token_and_extends_the_lease(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        token = stage.ledger.acquire(name, "a", lease=stage.short)
        for _ in range(3):
            stage.lapse(stage.short * 0.5)
            assert stage.ledger.acquire(name, "a", lease=stage.short) == token
        assert stage.ledger.acquire(name, "b", lease=LONG) is None

    def test_the_token_grows_with_each_change_of_holder(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        tokens = []
        for holder in ("a", "b", "a"):
            tokens.append(stage.ledger.acquire(name, holder, lease=stage.short))
            stage.lapse(stage.short * 1.2)
        assert None not in tokens
        assert tokens == sorted(set(tokens), key=lambda token: token or 0)

    def test_the_token_grows_after_a_release_too(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        first = stage.ledger.acquire(name, "a", lease=LONG)
        stage.ledger.release(name, "a")
        second = stage.ledger.acquire(name, "b", lease=LONG)
        assert first is not None
        assert second is not None
        assert second > first

    def test_release_by_another_changes_nothing(self, stage: Stage) -> None:
        name = f"lease-{new_id()}"
        stage.ledger.acquire(name, "a", lease=LONG)
        stage.ledger.release(name, "b")
        stage.ledger.release("never-taken", "b")
        assert stage.ledger.acquire(name, "b", lease=LONG) is None

    def test_requeued_letters_wake_a_consumer_that_waits(self, stage: Stage, queue: str) -> None:
        (task_id,) = stage.send(queue)
        stage.bury(stage.one(stage.consumer(queue)))
        (letter,) = stage.letters(task_id)
        waiter = stage.consumer(queue, server=stage.open())
        waiting = in_thread(lambda: stage.take(waiter))
        stage.ledger.requeue([letter.key])
        assert ids(waiting()) == [task_id]
