"""How many processors this process may really use: affinity and the container's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

_V2 = "cpu.max"
_V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPUs to plan with, at least 1; a quota of 1.5 counts as 2."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def _quota(cgroup: Path) -> float:
    """Return the CPUs that the control group grants; 0 = no limit or not known."""
    try:
        quota, _, period = (cgroup / _V2).read_text().strip().partition(" ")
    except OSError:
        try:
            quota, period = ((cgroup / name).read_text().strip() for name in _V1)
        except OSError:
            return 0.0
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return 0.0
    return int(quota) / int(period)
