"""The one way to compile a kernel: `from ipc.jit import kernel`.

numba's cache does not see a change in a callee's file, so its folder is named after a hash of every kernel source, the layout, and
the versions of numba and Python. Import this before anything else that imports numba.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_ROOT = Path(__file__).resolve().parent.parent


def kernel_sources() -> list[Path]:
    """Every file whose text can change a compiled kernel."""
    return sorted([*(_ROOT / "ipc").glob("*.py"), *(_ROOT / "hotpath" / "kernel").glob("*.py")])


def cache_dir() -> Path:
    """Folder of the compiled kernels of exactly these sources; honours XDG_CACHE_HOME."""
    digest = hashlib.sha256(f"{version('numba')}|{version('llvmlite')}|{version('numpy')}|{sys.version}".encode())
    for source in kernel_sources():
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "trader" / "kernels" / digest.hexdigest()[:20]


os.environ["NUMBA_CACHE_DIR"] = str(cache_dir())

import numba  # noqa: E402  (the cache folder must be set before)

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # another library may have imported numba before


def kernel(function: F) -> F:
    """Compile `function` for the hot path: no GIL, cached, C division (no exception), no bounds checks."""
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)(function)
    return compiled
