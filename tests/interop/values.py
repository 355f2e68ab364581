"""Values of the golden calls, shared by the capture and the tests that compare with it."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

#: Every type of the json dialect.
SPECIAL: dict[str, Any] = {
    "datetime": dt.datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    "naive": dt.datetime(2030, 1, 2, 3, 4, 5),  # noqa: DTZ001 -- a case of its own on the wire
    "date": dt.date(2030, 1, 2),
    "time": dt.time(3, 4, 5),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID(int=5),
    "bytes": b"hi",
    "base64": b"\xff\xfe",
    "tuple": (1, 2),
    "keys": {1: 2, None: 3, False: 4, 1.5: 5},
    "text": "h\u00e9 \U0001f331 \ud800",
    "big": 2**70,
    "float": [1.5, 1e300, float("inf"), float("-inf")],
    "nested": [[[{"a": [dt.date(2030, 1, 3)]}]]],
}
ETA = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
ODD_ETA = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
NAIVE_ETA = dt.datetime(2031, 1, 1, 12)  # noqa: DTZ001 -- a case of its own on the wire
