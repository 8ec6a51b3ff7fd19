"""Headlines for a prompt: lines of a file that a program of the user's writes, read anew with each question.

Where they come from is nobody's business here: no feed is asked, no address is opened. They are text from outside like any other: bounded, cleaned,
encoded, and whatever a model makes of them is held to knowledge and limits.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from control.think.llm.briefing import clean

#: lines that are told, the first ones of the file; bytes of it that are read
MOST, MOST_BYTES = 20, 65_536


class HeadlinesError(Exception):
    """A file that cannot be read; the text ends in the remedy."""


def read(path: str) -> list[str]:
    """The headlines, best first: each line that says something. "" is none. Raises HeadlinesError; never waits, whatever is at that path."""
    if not path:
        return []
    place: Path | str = path
    try:
        place = Path(path).expanduser()
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would be waited for
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise HeadlinesError(f"llm.headlines: {place} is no file; name a file with a headline a line")
            body = os.read(handle, MOST_BYTES)
        finally:
            os.close(handle)
    except (OSError, RuntimeError, ValueError) as error:  # no such home; what no path can have in it
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
        raise HeadlinesError(f"llm.headlines: {clean(str(place))}: {why}; write a headline a line there, best first, or take the key out") from None
    lines = (clean(line) for line in body.decode("utf-8", "replace").splitlines())
    return [line for line in lines if line][:MOST]
