"""Hypothesis strategies of the codec tests: values of the json dialect, and hostile ones."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

#: Few examples by default, so that the suite stays quick; a long run sets the variable.
examples = settings(
    max_examples=int(os.environ.get("UMBEL_TEST_EXAMPLES", "25")),
    deadline=None,
)

#: Any text Python can hold, lone surrogates included.
texts = st.text(st.characters(codec=None, categories=None))

_ZONES = st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=-5, minutes=-30))])
_TAGGED = {"__type__", "__value__"}
_PLAIN = st.none() | st.booleans() | st.integers() | texts
_SCALARS = (
    _PLAIN
    | st.floats(allow_nan=False)
    | st.binary()
    | st.datetimes(timezones=_ZONES)
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
)

#: Every value that the json dialect gives back as it was.
values: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(texts, inner).filter(lambda d: d.keys() != _TAGGED)
    ),
    max_leaves=12,
)
#: What any program may write into a message: plain JSON.
hostile: st.SearchStrategy[Any] = st.recursive(
    _PLAIN | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
