"""Exit codes of `trader-ctl`, stable."""

from __future__ import annotations

#: done, for parity: no difference; parity found differences; wrong usage; no such instance is running; refused (a faulty configuration too);
#: timed out, or the process that knows is not there
EXIT_DONE, EXIT_DIFFERENT, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_REFUSED, EXIT_TIMED_OUT = range(6)
#: a backtest whose books do not reconcile; one whose data could not be read to their end
EXIT_NOT_RECONCILED, EXIT_DATA_UNREAD = 6, 7
