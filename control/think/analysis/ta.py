"""TA-Lib over numpy arrays alone. Its package would load polars and pandas where they are installed, to take their series, too: 23 MB and a third
of a second in a process that has neither."""

from __future__ import annotations

import sys

_ASIDE = [name for name in ("polars", "pandas") if name not in sys.modules]
for _name in _ASIDE:
    sys.modules[_name] = None  # type: ignore[assignment]  # Python's own word for "not to be found"
try:
    import talib
finally:
    for _name in _ASIDE:
        del sys.modules[_name]

__all__ = ["talib"]
