"""Sends tasks until it is killed, and says of each that it was accepted.

python -m tests.system.chaos.producer FIRST_NUMBER
"""

from __future__ import annotations

import os
import sys
from itertools import count

from umbel import Umbel


def main(first: int) -> None:
    app = Umbel("producer", broker=os.environ["CHAOS_BROKER"])
    follow = app.signature("chaos.follow")
    for number in count(first):
        result = app.send_task("chaos.work", (number,), link=follow)
        os.write(1, f"{number} {result.id}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
