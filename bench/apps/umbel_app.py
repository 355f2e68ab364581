"""umbel as its defaults have it: results stored, acknowledged after the run."""

from __future__ import annotations

from bench import apps
from bench.workflows import Workflows
from umbel import Umbel, chain, chord, group

app = Umbel(
    "bench",
    broker=apps.broker(),
    backend=apps.results(),
    broker_transport_options={"synchronous": apps.synchronous()},
    task_default_queue_type=apps.queue_type(),
)
tasks = {name: app.task(name=name)(function) for name, function in apps.functions().items()}
workflow = Workflows(chain, group, chord, tasks).send
calls = apps.CeleryCalls(tasks, group)
sender, send_many, wait = calls.sender, calls.send_many, calls.wait
