"""What all who wait in this process share: one watch of the result store, one way to publish.

``results`` is for threads and the core of the rest, ``callbacks`` for callbacks, ``aio`` for
coroutines.
"""

from umbel.bridge.results import ResultBridge

__all__ = ["ResultBridge"]
