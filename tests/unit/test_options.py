"""The options of apply_async."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from umbel.config import Config
from umbel.exceptions import ImproperlyConfigured
from umbel.options import check_call, expand, wall_time, zone_of

NOW = 1_800_000_000.0
HALF_PAST = dt.datetime(2030, 1, 2, 3, 30, tzinfo=dt.UTC)


def expanded(**options: Any) -> dict[str, Any]:
    return expand(options, now=NOW, zone=dt.UTC)


def test_a_countdown_is_a_time() -> None:
    assert expanded(countdown=1.5) == {"not_before": NOW + 1.5}
    assert expanded(countdown=dt.timedelta(minutes=1)) == {"not_before": NOW + 60}


def test_an_eta_keeps_its_own_offset() -> None:
    eta = HALF_PAST.astimezone(dt.timezone(dt.timedelta(hours=2)))
    assert expanded(eta=eta) == {
        "eta": "2030-01-02T05:30:00+02:00",
        "not_before": HALF_PAST.timestamp(),
    }


def test_a_text_is_sent_unchanged() -> None:
    text = "2030-01-02T03:30:00Z"
    assert expanded(eta=text) == {"eta": text, "not_before": HALF_PAST.timestamp()}


def test_a_naive_time_is_of_the_applications_zone() -> None:
    rome = zone_of({"timezone": "Europe/Rome", "enable_utc": True})
    naive = dt.datetime(2030, 1, 2, 4, 30)  # noqa: DTZ001 -- what this is about
    assert wall_time("eta", naive, rome) == ("2030-01-02T04:30:00+01:00", HALF_PAST.timestamp())


def test_expiry_counts_from_now() -> None:
    assert expanded(expires=10)["expires_at"] == NOW + 10
    assert expanded(expires=dt.timedelta(seconds=10))["expires_at"] == NOW + 10
    found = expanded(expires=HALF_PAST, countdown=5)
    assert found["expires_at"] == HALF_PAST.timestamp()
    assert found["expires"] == HALF_PAST.isoformat()


def test_stamps_are_collected() -> None:
    found = expanded(tenant="x", stamped_headers=["tenant", "tenant"])
    assert found["stamps"] == {"tenant": "x"}
    assert found["stamped_headers"] == ["tenant"]


@pytest.mark.parametrize(
    "options", [{"eta": "soon"}, {"eta": 5}, {"countdown": "5"}, {"expires": "later"}]
)
def test_what_is_no_time(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="expected a"):
        expanded(**options)


def test_names() -> None:
    check_call({"countdown": 3, "link": None, "message_id": "x", "root_id": "r"})
    check_call({"tenant": "x", "stamped_headers": ["tenant"]})
    with pytest.raises(TypeError, match="no option 'countdwn'; did you mean 'countdown'"):
        check_call({"countdwn": 3})


def test_zones() -> None:
    conf = Config({"timezone": "Mars/Olympus"}, environ={}, folder="/")
    with pytest.raises(ImproperlyConfigured, match="Europe/Berlin"):
        zone_of(conf.current().values)
    assert zone_of({"timezone": None, "enable_utc": True}) is dt.UTC
    assert zone_of({"timezone": None, "enable_utc": False}) is None
