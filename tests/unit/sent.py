"""What an application on memory:// has sent."""

from __future__ import annotations

from umbel import Umbel
from umbel.ids import new_id
from umbel.message import Message
from umbel.serializers import accepted
from umbel.wire.task import Request, decode


def messages(app: Umbel, *queues: str) -> list[Message]:
    """Take all messages that are due from these queues (or from ``celery``)."""
    transport = app.servers().broker.transport
    consumer = transport.consume(queues or ("celery",), consumer_id=new_id(), lease=60)
    found: list[Message] = []
    while deliveries := consumer.receive(1000, 0):
        found += [delivery.message for delivery in deliveries]
    return found


def requests(app: Umbel, *queues: str) -> list[Request]:
    """Take all that is due, decoded."""
    return [decode(each, accepted(["json", "pickle"])) for each in messages(app, *queues)]


def request(app: Umbel, *queues: str) -> Request:
    """Take the one that is due, decoded."""
    (found,) = requests(app, *queues)
    return found
