"""The state of the house: what importing costs, what is documented, what the README claims."""

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import fjx

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = load(ROOT / "docs" / "_ext" / "coverage.py")
PACKAGES = coverage.packages()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.ci
def test_importing_brings_nothing_that_jax_and_optax_do_not():
    light = [package for package in PACKAGES if package != "fjx.models"]
    script = f"""
import sys, jax, numpy, optax
before = set(sys.modules)
import {", ".join(light)}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new - sys.stdlib_module_names - {{"fjx", "jax", "jaxlib", "numpy", "optax"}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_and_lists_what_is_public(package):
    module = importlib.import_module(package)
    assert module.__doc__
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    listed = [
        name for name in module.__all__ if not isinstance(getattr(module, name), types.ModuleType)
    ]
    assert sorted(listed) == sorted(public)


def test_public_symbols_have_docstrings_and_functions_examples():
    gaps = [
        gap
        for name, value in coverage.symbols().items()
        for gap in coverage.shortcomings(name, value)
    ]
    assert gaps == []


def test_shortcomings_are_found():
    def bare(): ...

    def described():
        """Does something."""

    assert coverage.shortcomings("bare", bare) == ["bare has no docstring"]
    assert coverage.shortcomings("described", described) != []


def test_no_legacy_keys():
    files = [*ROOT.glob("fjx/**/*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("docs/*.md")]
    assert [str(file) for file in files if "PRNGKey(" in file.read_text()] == []


def test_examples_take_a_number_of_rounds():
    sources = {file.name: file.read_text() for file in ROOT.glob("examples/*.py")}
    assert "quickstart.py" in sources
    assert [name for name, source in sources.items() if '"--rounds"' not in source] == []


def test_ci_runs_the_commands_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text()
    quickstart, tests = blocks("sh")
    assert quickstart.endswith("examples/quickstart.py\n")
    assert "bin/pytest" in tests
    # CI has no copy of its own; its function `readme` reads each block, and each is run.
    # Its own are the examples of docstrings, and the tests that the README's command leaves to it.
    own = re.findall("pytest (.*)", ci)
    assert own[0] == "-n 2 --dist worksteal fjx"
    assert [x.partition(" | ")[0] for x in own[1:]] == [
        '-n 2 --dist worksteal -m "ci and not slow"'
    ]
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert (
        f"`{tests.strip().rpartition('.venv/bin/')[2]}`" in (ROOT / "CONTRIBUTING.md").read_text()
    )
    (function,) = re.findall(r"^readme\(\) .*?^}$", ci, re.MULTILINE | re.DOTALL)
    for number, command in enumerate((quickstart, tests), start=1):
        read = ["bash", "-c", f"{function}\nreadme {number}"]
        assert subprocess.run(read, capture_output=True, text=True, cwd=ROOT).stdout == command
        assert f'"$(readme {number})' in ci


EXAMPLES = [r"^\d+\.\d kB sent by clients$", r"^\d\.\d MB sent by clients, \d\.\d MB to them$"]


@pytest.mark.ci
@pytest.mark.parametrize(("number", "printed"), [*enumerate(EXAMPLES)])
def test_the_examples_of_the_readme_run(number, printed):
    assert len(blocks("python")) == len(EXAMPLES)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks("python")[number]],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout, re.MULTILINE)


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changelog = re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation[1] == changelog[1] == version == fjx.__version__


def test_constraints_are_exact_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    pin = re.compile(r'[\w.-]+==[\w.]+ ; python_version == "3\.1[12]"')
    assert [line for line in pins if not pin.fullmatch(line)] == []
    assert {"jax", "optax", "numpy", "pytest"} <= {line.split("==")[0] for line in pins}
