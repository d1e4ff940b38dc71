"""The text of a reproduction: what was published, what we found, and what differs."""

import argparse
import pathlib
import subprocess
import sys

import jax

from benchmarks.records import RESULTS

FOLDER = RESULTS / "reproduce"


def arguments(module_name: str, docstring: str) -> argparse.Namespace:
    """The arguments that every reproduction takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module_name}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--rounds", type=int, default=None, help="rounds, for a shorter trial")
    parser.add_argument("--record", action="store_true", help="also write the text into results")
    return parser.parse_args()


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(name: str, text: str, record: bool) -> None:
    """Print the text, with the versions that ran, and record it if asked."""
    command = " ".join(["python", "-m", f"benchmarks.reproduce.{name}", *sys.argv[1:]])
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    commit = done.stdout.strip() or "no commit"
    text += f"\n\nMade by `{command}` with JAX {jax.__version__} at {commit}."
    print(text)
    if record:
        pathlib.Path(FOLDER).mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{name}.md").write_text(text + "\n")
