"""Entry of both commands. Imports take a moment; a Ctrl-C meanwhile ends the command like any other program's, without Python's traceback."""

from __future__ import annotations

import signal
import sys


def launch() -> None:
    """trader-launch."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from control.supervise.launch import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


def ctl() -> None:
    """trader-ctl."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from control.serve.ctl import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
