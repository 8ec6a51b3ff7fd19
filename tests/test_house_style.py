"""The rules of the house that matter are tests: import direction, room size, names, who may know memory ordering."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ipc", "hotpath", "control")
#: lines of a room at most; the layout is one file by its nature: who reads shared bytes looks nowhere else
MOST_LINES = {"ipc/layout.py": 450}
MOST_LINES_ELSEWHERE = 400
#: names that say nothing
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
#: what the watchdog loads while it supervises; children load the rest
WATCHDOG = ("control.config", "control.serve.control", "control.serve.screen", "control.supervise.launch", "control.supervise.front",
            "control.supervise.session")
#: heavy libraries that only the process that needs them loads
HEAVY = ("numba", "llvmlite", "ccxt", "openai", "polars", "talib")


def modules(*packages: str) -> list[Path]:
    found = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert found
    return sorted(found)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    above = (*PACKAGES[own + 1:], "tests")
    assert not [name for name in imports_of(path) if name.partition(".")[0] in above]


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=name_of)
def test_a_room_fits_on_a_few_pages(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES.get(name_of(path), MOST_LINES_ELSEWHERE)


def test_every_name_says_something() -> None:
    assert [name_of(path) for path in modules(*PACKAGES, "tests") if path.stem in EMPTY_NAMES] == []


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=name_of)
def test_a_room_says_at_its_door_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert path.name == "__init__.py" or ast.get_docstring(tree)


def test_only_atomics_knows_memory_ordering() -> None:
    ordering = re.compile(r"load_atomic|store_atomic|atomic_rmw|cmpxchg|\.fence\(")
    assert [name_of(path) for path in modules(*PACKAGES) if ordering.search(path.read_text())] == ["ipc/atomics.py"]


def test_the_watchdog_loads_nothing_heavy() -> None:
    code = f"import sys, {', '.join(WATCHDOG)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_only_one_room_talks_to_an_llm() -> None:
    assert [name_of(path) for path in modules(*PACKAGES) if "openai" in imports_of(path)] == ["control/think/llm/wire.py"]


def test_nothing_names_a_path_of_one_machine() -> None:
    path_of_a_machine = re.compile(r"(^|[^.\w])/(work|root|home)/")
    files = [*modules(*PACKAGES, "tests"), *(ROOT / "scripts").iterdir(), *ROOT.glob("*.md"), ROOT / ".ci" / "run"]
    assert [name_of(path) for path in files if path.is_file() and path.name != "test_house_style.py"
            and path_of_a_machine.search(path.read_text())] == []
