"""The summary of a run in a few lines."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fjx.rounds._metrics import UNNOISED

if TYPE_CHECKING:
    from fjx.simulation._simulate import Result

_COUNTS = ("finite", "invited", "nonfinite", "participants", "rejected", "truncated")
"""Metrics that every algorithm reports, and that the summary tells in words."""


def summary(result: "Result") -> str:
    """The end of a run, its last scores and metrics, its traffic and its claim of privacy."""
    history, ledger = result.history, result.ledger
    done = int(history.evaluated_at[-1])
    end = "stopped early" if result.stopped == "early" else result.stopped
    end += f" after {done} round{'' if done == 1 else 's'}"
    if result.diverged_at is not None:
        end += f", not finite after round {result.diverged_at}"
    metrics = {
        name: x[-1]
        for name, x in history.rounds.items()
        if np.ndim(x) == 1 and name.removeprefix(UNNOISED) not in _COUNTS
    }
    clients = f"{ledger.delivered[-1]} of {ledger.invited[-1]} clients took part"
    lines = {
        "run": f"{end}; {result.seconds.running:.1f} s of running and "
        f"{result.seconds.compiling:.1f} s of compiling in this call",
        "scores": _numbers({name: x[-1] for name, x in history.evaluations.items()}),
        "last round": "; ".join(filter(None, (_numbers(metrics), clients))),
        "traffic": f"{-(-ledger.uplink // 8):,} bytes up, {-(-ledger.downlink // 8):,} bytes down",
        "privacy": "" if result.privacy is None else str(result.privacy),
    }
    return "\n".join(_block(name, text) for name, text in lines.items() if text)


def _numbers(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(np.asarray(x))}" for name, x in values.items())


def _number(x: np.ndarray) -> str:
    """A scalar, or the least, middle and largest of several numbers that are there."""
    if x.ndim == 0:
        return f"{float(x):.4g}"
    x = x.astype(np.float64)  # NumPy has no median of bfloat16
    there = x[~np.isnan(x)]
    if not there.size:
        return "nan"
    low, middle, high = np.min(there), np.median(there), np.max(there)
    return f"{low:.4g} to {high:.4g} (median {middle:.4g} of {there.size})"


def _block(name: str, text: str) -> str:
    """A named paragraph, its lines indented under the first."""
    indent = " " * 12
    return textwrap.fill(f"{name:<12}{text}", 100, subsequent_indent=indent, break_on_hyphens=False)
