"""The house: which room may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"_base", "_remembered", "_validate"},
    {"_tree", "_kernels"},
    {"wire", "data", "layers", "theory"},
    {"samplers", "servers", "models"},
    {"compressors", "privacy"},
    {"clients", "aggregators"},
    {"rounds", "_plan", "attacks"},
    {"_plan_examples"},
    {"algorithms", "simulation"},
    {"secure", "evaluation"},
    {"testing"},
    {"__init__"},
]
"""From the ground up.  A room imports from floors below its own, and from nobody else."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room(path: Path) -> str:
    """The room of a module: its folder in ``fjx``, or its own name at the root."""
    return path.relative_to(ROOT / "fjx").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a module imports anywhere, in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fjx":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fjx."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found |= {p[1] if len(p) > 1 else "__init__" for p in parts if p[0] == "fjx"}
    return found


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_room_imports_from_below(name):
    for path in ROOT.glob("fjx/**/*.py"):
        if room(path) == name:
            others = imports(path) - {name}
            assert {other for other in others if FLOOR[other] >= FLOOR[name]} == set(), path


def test_every_room_has_a_floor():
    assert {room(path) for path in ROOT.glob("fjx/**/*.py")} <= set(FLOOR)


def test_no_file_is_many_ideas():
    """400 lines are the size at which a second idea is looked for."""
    long = {p.name for p in ROOT.glob("fjx/**/*.py") if p.read_text().count("\n") > 400}
    assert long <= {"_base.py"}  # the words of the library, read as one page
