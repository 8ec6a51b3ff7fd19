"""Knowledge of another run, for an instance whose journal begins anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import lmdb

from control.learn.knowledge import Knowledge, KnowledgeError


def adopt(source: Path | str, target: Path | str) -> None:
    """Copy it: what was learned stays; what is open, and up to which record of the old journal it was learned, goes. Raises KnowledgeError."""
    target = Path(target)
    origin = Knowledge(source)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=False)
    except OSError as error:
        origin.close()
        raise KnowledgeError(f"{target}: {error}") from error
    try:
        origin.env.copy(str(target), compact=True)
        copy = Knowledge(target, writable=True)
        try:
            copy.begin_journal()
        finally:
            copy.close()
    except (lmdb.Error, OSError, KnowledgeError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise KnowledgeError(f"{source} → {target}: {error}") from error
    finally:
        origin.close()
