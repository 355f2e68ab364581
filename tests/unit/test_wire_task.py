"""From a call to a message and back, and from an attempt to the next."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_values import examples, values
from umbel.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from umbel.message import Message
from umbel.serializers import accepted, json_dumps
from umbel.wire.task import Request, TaskEncoder, decode, peek_id, retry_message

ACCEPT = accepted(["json"])
ALL = accepted(["json", "pickle", "yaml", "msgpack"])
SIGNATURE = {"task": "tasks.next", "args": [1], "kwargs": {}, "options": {"task_id": "n"}}
NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC).timestamp()


def encode(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Message:
    encoder = TaskEncoder("tasks.add", origin="gen1@here", routing_key="work")
    return encoder.encode(args, kwargs, id="id-1", sent_at=NOON, reply_to="me", options=options)


class TestArguments:
    @examples
    @given(st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=3))
    def test_they_come_back(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        request = decode(encode(*args, **kwargs), ACCEPT)
        assert (request.args, request.kwargs) == (args, kwargs)

    @examples
    @given(st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=3))
    def test_the_hot_path_and_the_one_with_options_agree(
        self, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        assert encode(*args, **kwargs) == encode(*args, options={}, **kwargs)

    @pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
    @pytest.mark.parametrize("compression", [None, "zlib", "bzip2", "lzma", "zstd"])
    @pytest.mark.parametrize("in_options", [False, True])
    def test_they_come_back_from_every_format(
        self, serializer: str, compression: str | None, *, in_options: bool
    ) -> None:
        how = {"serializer": serializer, "compression": compression}
        encoder = TaskEncoder("tasks.add", **({} if in_options else how))  # type: ignore[arg-type]
        message = encoder.encode(
            (1, "a"), {"k": [None]}, id="i", sent_at=0.0, options=how if in_options else None
        )
        request = decode(message, ALL)
        assert (request.args, request.kwargs) == ([1, "a"], {"k": [None]})

    def test_what_has_no_form_is_refused(self) -> None:
        for args, kwargs, options in (
            (({1},), {}, None),
            ((), {"k": {1}}, None),
            (({1},), {}, {}),
            ((), {}, {"link": {1: {2}}}),
        ):
            with pytest.raises(EncodeError):
                encode(*args, options=options, **kwargs)

    def test_a_list_of_arguments_is_taken_too(self) -> None:
        encoder = TaskEncoder("tasks.add")
        message = encoder.encode([1, 2], {}, id="i", sent_at=0.0)  # type: ignore[arg-type]
        assert message.headers["argsrepr"] == "[1, 2]"


class TestShownArguments:
    def test_short_ones_are_shown_in_full(self) -> None:
        headers = encode(1, "a", x=None).headers
        assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1, 'a')", "{'x': None}")

    def test_long_ones_are_cut(self) -> None:
        headers = encode("x" * 10_000_000, [["y" * 5000] * 1000], x="z" * 5000).headers
        for name in ("argsrepr", "kwargsrepr"):
            assert len(headers[name]) == 1024
            assert headers[name].endswith("...")

    def test_an_object_that_cannot_be_shown_is_no_obstacle(self) -> None:
        class Hostile:
            def __json__(self) -> int:
                return 1

            def __repr__(self) -> str:
                raise RuntimeError("not today")

        headers = encode(Hostile(), x=Hostile()).headers
        assert "Hostile object" in headers["argsrepr"]
        assert "Hostile object" in headers["kwargsrepr"]

    def test_an_object_may_be_longer_than_its_json(self) -> None:
        class Long:
            def __json__(self) -> int:
                return 1

            def __repr__(self) -> str:
                return "\ud800" * 5000

        shown = encode(Long()).headers["argsrepr"]
        assert len(shown) == 1024
        assert shown.isascii()

    def test_the_caller_may_say_what_is_shown(self) -> None:
        headers = encode("secret", options={"argsrepr": "(*)", "kwargsrepr": "{}"}).headers
        assert headers["argsrepr"] == "(*)"

    def test_their_size_is_a_setting(self) -> None:
        encoder = TaskEncoder("tasks.add", argsrepr_maxsize=10)
        headers = encoder.encode(("abcdefghijkl",), {}, id="i", sent_at=0.0).headers
        assert headers["argsrepr"] == "('abcde..."


class TestOptions:
    def test_messages_of_a_task_share_nothing_that_a_task_may_change(self) -> None:
        encoder = TaskEncoder("tasks.add")
        first, second = (encoder.encode((), {}, id=i, sent_at=0.0) for i in ("a", "b"))
        request = decode(first, ACCEPT)
        assert request.stamps is not None
        request.stamps["x"] = 1
        assert decode(second, ACCEPT).stamps == {}

    def test_where_it_goes(self) -> None:
        assert (encode().exchange, encode().routing_key) == ("", "work")
        message = encode(options={"exchange": "x", "routing_key": "k"})
        assert (message.exchange, message.routing_key) == ("x", "k")
        encoder = TaskEncoder("t", exchange="x", routing_key="k")
        assert encoder.encode((), {}, id="i", sent_at=0.0, options={"exchange": ""}).exchange == ""

    def test_times(self) -> None:
        message = encode(options={"not_before": NOON + 5, "expires_at": NOON + 7.25})
        assert (message.not_before, message.expires_at) == (NOON + 5, NOON + 7.25)
        assert message.headers["eta"] == "2030-01-01T12:00:05+00:00"
        assert message.headers["expires"] == "2030-01-01T12:00:07.250000+00:00"
        assert message.properties == {"expiration": "7250"}
        request = decode(message, ACCEPT)
        assert (request.not_before, request.expires_at) == (NOON + 5, NOON + 7.25)

    @pytest.mark.parametrize(
        ("given_priority", "priority", "properties"),
        [(0, 0, None), (9, 9, None), (12, 9, {"priority": 12}), (-1, 0, {"priority": -1})],
    )
    def test_priority(self, given_priority: int, priority: int, properties: Any) -> None:
        in_options = encode(options={"priority": given_priority})
        encoder = TaskEncoder("t", priority=given_priority)
        of_task = encoder.encode((), {}, id="i", sent_at=0.0)
        both = encoder.encode((), {}, id="i", sent_at=0.0, options={"priority": None})
        for message in (in_options, of_task, both):
            assert (message.priority, message.properties) == (priority, properties)
            info = decode(message, ACCEPT).delivery_info
            assert info is not None
            assert info["priority"] == given_priority

    def test_a_limit_of_the_call_replaces_that_of_the_task(self) -> None:
        encoder = TaskEncoder("t", time_limit=30, soft_time_limit=20)
        plain = encoder.encode((), {}, id="i", sent_at=0.0)
        soft = encoder.encode((), {}, id="i", sent_at=0.0, options={"soft_time_limit": 1.5})
        assert plain.headers["timelimit"] == [30, 20]
        assert soft.headers["timelimit"] == [30, 1.5]
        request = decode(soft, ACCEPT)
        assert (request.time_limit, request.soft_time_limit) == (30, 1.5)

    def test_follow_ups(self) -> None:
        options = {
            "link": SIGNATURE,
            "link_error": [SIGNATURE],
            "chain": [SIGNATURE],
            "chord": SIGNATURE,
        }
        request = decode(encode(options=options), ACCEPT)
        assert request.callbacks == request.errbacks == request.chain == [SIGNATURE]
        assert request.chord == SIGNATURE

    def test_unknown_options_are_ignored(self) -> None:
        assert encode(options={"queue": "x", "countdown": 3, "colour": "red"}) == encode()

    def test_an_unknown_format_is_a_configuration_error(self) -> None:
        with pytest.raises(ImproperlyConfigured):
            TaskEncoder("t", serializer="none")
        with pytest.raises(ImproperlyConfigured):
            TaskEncoder("t", compression="none")

    def test_correlation_id_of_the_caller(self) -> None:
        message = encode(options={"correlation_id": "c-1"})
        assert (message.id, decode(message, ACCEPT).correlation_id) == ("id-1", "c-1")


class TestReading:
    def test_the_least_message_is_enough(self) -> None:
        body = b"[[1], {}, null]"
        message = Message("i", body, {"task": "t", "id": "i"}, "work")
        request = decode(message, ACCEPT)
        assert (request.task, request.id, request.root_id) == ("t", "i", "i")
        assert (request.retries, request.timelimit) == (0, (None, None))
        assert (request.ignore_result, request.headers) == (None, None)
        for name in Request.__slots__:
            getattr(request, name)

    def test_every_field_is_set(self) -> None:
        request = decode(encode(1), ACCEPT)
        blank = Request()
        for name in Request.__slots__:
            getattr(request, name)
            getattr(blank, name)
        assert request.get("id") == "id-1"
        assert request.get("no such field", 5) == 5

    def test_the_least_message_of_protocol_1_is_enough(self) -> None:
        body = json_dumps({"task": "t", "id": "i", "utc": False, "eta": "2030-01-01T12:00:00"})
        request = decode(Message("i", body, {}, "work"), ACCEPT)
        assert (request.args, request.kwargs, request.utc) == ([], {}, False)
        assert request.not_before == dt.datetime(2030, 1, 1, 12).astimezone().timestamp()

    def test_protocol_1_knows_a_group_by_its_old_name(self) -> None:
        body = json_dumps({"task": "t", "id": "i", "taskset": "g", "group": None})
        assert decode(Message("i", body, {}, "work"), ACCEPT).group == "g"

    def test_protocol_1_is_sent_if_asked_for(self) -> None:
        encoder = TaskEncoder("tasks.add", protocol=1)
        message = encoder.encode((1, 2), {"k": 3}, id="i", sent_at=0.0)
        assert message.headers == {}
        request = decode(message, ACCEPT)
        assert (request.args, request.kwargs, request.id) == ([1, 2], {"k": 3}, "i")

    def test_only_accepted_content_is_read(self) -> None:
        message = TaskEncoder("t", serializer="pickle").encode((), {}, id="i", sent_at=0.0)
        with pytest.raises(ContentDisallowed):
            decode(message, ACCEPT)
        with pytest.raises(ContentDisallowed):
            decode(encode(), frozenset())

    def test_redelivery_is_shown_and_no_header_of_the_user(self) -> None:
        message = encode(options={"headers": {"redelivered": True, "x-death": [{}], "own": 1}})
        request = decode(message, ACCEPT)
        assert request.delivery_info is not None
        assert request.delivery_info["redelivered"] is True
        assert request.headers == {"own": 1}

    def test_the_id_can_be_seen_when_nothing_else_can(self) -> None:
        assert peek_id(Message("m", b"rubbish", {"id": "h"}, "q")) == "h"
        assert peek_id(Message("m", b"", {"id": 5}, "q")) == "m"
        assert peek_id(Message("", b"", {}, "q")) == ""
        assert peek_id(Message("\ud800", b"", {"id": "a\0"}, "q")) == ""
        assert peek_id(Message("m", b"", [], "q")) == "m"  # type: ignore[arg-type]

    def test_a_bomb_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = TaskEncoder("t", compression="zlib").encode(
            ("x" * 100_000,), {}, id="i", sent_at=0.0
        )
        monkeypatch.setattr("umbel.serializers.decompress.__defaults__", (1000,))
        with pytest.raises(DecodeError, match="grow beyond"):
            decode(message, ACCEPT)


class TestRetrying:
    def retried(self, message: Message, **changes: Any) -> Message:
        request = decode(message, ALL)
        return retry_message(message, request, retries=1, not_before=NOON + 60, **changes)

    def test_the_same_call_again(self) -> None:
        message = encode(1, k=2, options={"link": SIGNATURE, "headers": {"own": 1}, "shadow": "s"})
        again = self.retried(message)
        assert (again.id, again.body, again.routing_key) == ("id-1", message.body, "work")
        assert again.not_before == NOON + 60
        changed = {"retries": 1, "eta": "2030-01-01T12:01:00+00:00", "parent_id": "id-1"}
        assert again.headers == {**message.headers, **changed}

    def test_both_ways_agree(self) -> None:
        message = encode(1, k=2, options={"link": SIGNATURE, "headers": {"own": 1}, "shadow": "s"})
        request = decode(message, ALL)
        again = self.retried(message)
        rebuilt = self.retried(message, args=tuple(request.args))
        assert rebuilt.body == again.body
        assert rebuilt.headers == again.headers

    def test_the_arguments_may_change(self) -> None:
        request = decode(self.retried(encode(1, k=2), args=[7], kwargs={"z": 1}), ACCEPT)
        assert (request.args, request.kwargs, request.retries) == ([7], {"z": 1}, 1)

    def test_options_may_change(self) -> None:
        again = self.retried(
            encode(1),
            options={"routing_key": "other", "priority": 5, "headers": {"n": 1}, "time_limit": 9},
        )
        assert (again.routing_key, again.priority) == ("other", 5)
        assert again.headers["n"] == 1
        assert again.headers["timelimit"] == [9, None]

    @pytest.mark.parametrize("args", [None, [7]])
    def test_what_does_not_change_stays(self, args: Any) -> None:
        message = encode(1, options={"headers": {"own": 1, "n": 1}, "expires_at": NOON + 5})
        changes = {"headers": {"n": 2}, "expires_at": NOON + 9}
        again = self.retried(message, args=args, options=changes)
        assert decode(again, ACCEPT).headers == {"own": 1, "n": 2}
        assert again.expires_at == decode(again, ACCEPT).expires_at == NOON + 9

    def test_a_changed_follow_up_changes_the_body(self) -> None:
        again = self.retried(encode(1), options={"link": SIGNATURE})
        assert decode(again, ACCEPT).callbacks == [SIGNATURE]

    def test_marks_of_the_broker_stay_behind(self) -> None:
        message = encode(options={"headers": {"x-death": [{}], "redelivered": True}})
        assert not {"x-death", "redelivered"} & self.retried(message).headers.keys()

    def test_what_was_written_in_place_does_not_change_the_call(self) -> None:
        message = encode([1])
        request = decode(message, ACCEPT)
        request.args[0].append(2)
        again = retry_message(message, request, retries=1, not_before=0.0)
        assert decode(again, ACCEPT).args == [[1]]
        assert again.headers["eta"] is None

    def test_expiry_and_priority_stay(self) -> None:
        message = encode(options={"expires_at": NOON + 3600, "priority": 12})
        again = self.retried(message)
        assert (again.expires_at, again.priority) == (message.expires_at, 9)
        assert again.headers["expires"] == message.headers["expires"]
        assert again.properties is not None
        assert again.properties["priority"] == 12

    def test_a_message_of_protocol_1_is_retried_in_protocol_2(self) -> None:
        message = TaskEncoder("t", protocol=1).encode((1,), {}, id="i", sent_at=0.0)
        again = self.retried(message)
        assert again.headers["task"] == "t"
        assert decode(again, ACCEPT).args == [1]

    def test_a_message_that_is_gone_is_made_anew(self) -> None:
        request = decode(encode(1, k=2), ACCEPT)
        again = retry_message(None, request, retries=1, not_before=NOON)
        assert (again.id, again.routing_key) == ("id-1", "work")
        assert json.loads(again.body)[:2] == [[1], {"k": 2}]

    def test_formats_stay(self) -> None:
        encoder = TaskEncoder("t", serializer="pickle", compression="zlib")
        message = encoder.encode(({1},), {}, id="i", sent_at=0.0)
        for changes in ({}, {"args": ({2},)}):
            again = self.retried(message, **changes)
            assert again.content_type == message.content_type
            assert again.headers["compression"] == "application/x-gzip"
