"""Nothing is lost and nothing grows while processes are replaced, scaled, signalled and killed.

Two minutes are some hundreds of replacements and eighty signals; the long soak is a command, see
``storm``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.soak.storm import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def test_a_worker_in_a_storm_loses_nothing_and_does_not_grow(tmp_path: Path) -> None:
    soaked = soak(tmp_path, f"sqlite:///{tmp_path}/broker.sqlite", minutes=2)
    print(soaked)
    assert soaked.accepted > 2000
    assert not soaked.lost
    assert not soaked.errors
    assert not soaked.grown
