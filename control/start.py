"""Entry of both commands. A Ctrl-C ends either like any other program, without a traceback; trader-launch takes over once something runs."""

from __future__ import annotations

import signal
import sys


def launch() -> None:
    """trader-launch."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from control.supervise.launch import main

    main()


def ctl() -> None:
    """trader-ctl."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from control.serve.ctl import main

    sys.exit(main())
