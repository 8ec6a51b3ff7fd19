"""A role as a process of its own, thin: it takes its lock, serves its socket, and answers an operator's command with the command's strategy.

`python -m tests.bus_echo FOLDER NAME [MOST_BYTES]`; exit code 4 when another process holds the lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ipc import bus, messages
from ipc.segment import SegmentError, held


def echo(request: Any) -> Any:
    """The strategy comes back."""
    match request:
        case messages.Operate():
            return messages.Done(text=request.strategy)
        case messages.Ping():
            return messages.Pong(role="echo", pid=0)
        case _:
            return messages.Refused(code="unknown", text="echo knows operate and ping")


def main() -> int:
    """Until killed, or its starter is gone."""
    starter = os.getppid()
    folder, name = Path(sys.argv[1]), sys.argv[2]
    try:
        with held(folder / f"{name}.lock"):
            server = bus.Server(folder, name, messages.decode_child_request, *(int(most) for most in sys.argv[3:]))
            print("serving", flush=True)
            while os.getppid() == starter:
                server.poll(1.0, echo)
    except SegmentError as error:
        print(error, flush=True)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
