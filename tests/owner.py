"""Another process that takes a lock, says so, and keeps it until it is ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: a process that has its lock
Owner = subprocess.Popen[str]


class Owners:
    """Starts them: `code` takes the lock that its arguments name."""

    def __init__(self, code: str) -> None:
        self._code = code + "\nprint('mine', flush=True)\nimport sys\nsys.stdin.read()\n"
        self.started: list[Owner] = []

    def __call__(self, *arguments: object) -> Owner:
        """One that has it."""
        owner = subprocess.Popen([sys.executable, "-c", self._code, *map(str, arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 text=True)
        self.started.append(owner)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        return owner


@contextmanager
def owners(code: str) -> Iterator[Owners]:
    """Ends all of them at last."""
    made = Owners(code)
    try:
        yield made
    finally:
        for owner in made.started:
            owner.kill()
            owner.communicate()
