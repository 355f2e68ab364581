"""What ``task_annotations`` says of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def annotated(setting: Any, task: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the attributes that ``task_annotations`` gives a task, the weakest first."""
    if setting is None:
        return
    for each in setting if isinstance(setting, (list, tuple)) else [setting]:
        if isinstance(each, Mapping):
            yield each.get("*") or {}
            yield each.get(task.name) or {}
        else:
            if hasattr(each, "annotate_any"):
                yield each.annotate_any() or {}
            yield each.annotate(task) or {}
