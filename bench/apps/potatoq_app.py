"""potatoq. Its processes are not recycled: that would hide their CPU time from us."""

from __future__ import annotations

from potatoq import Potatoq, group  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

from bench import apps

app = Potatoq("bench", broker=apps.broker(), backend=apps.broker())
tasks = {name: app.task(name=name)(function) for name, function in apps.functions().items()}
calls = apps.CeleryCalls(tasks, group)
sender, send_many, wait = calls.sender, calls.send_many, calls.wait
