"""What a dead child's log says of its death, in one line: its last error, or where it hung."""

from __future__ import annotations

import re
from pathlib import Path

#: bytes of a log's end that are looked at
_TAIL = 1 << 15
#: longest line that is passed on
_CHARACTERS = 500
#: faulthandler's stack of the thread that got SIGABRT; its first frame is the innermost
_STACK = re.compile(rb'^Current thread [^\n]*\n  File "([^"\n]+)", line (\d+) in ([^\n]+)', re.MULTILINE)


def last_words(log: Path, pid: int | None, aborted: bool) -> str:
    """One line, "" where the log says nothing. `aborted`: a hang was ended with SIGABRT, which leaves a stack there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            tail = file.read()
    except OSError:
        return ""
    if aborted:
        stacks = _STACK.findall(tail)
        if not stacks:
            return ""
        path, line, function = (part.decode("utf-8", "replace") for part in stacks[-1])
        return f"in {function} ({path}, line {line})"
    lines = tail.decode("utf-8", "replace").rstrip().splitlines()
    errors = [line for line in lines if f" {pid} ERROR " in line]
    if not errors:
        return ""
    said = errors[-1].partition(" ERROR ")[2]
    if said.endswith("ended with an exception"):  # the traceback's last line says which
        said = lines[-1]
    return said[:_CHARACTERS]
