"""The metrics of a round: counts, averages over participants, and bytes."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate, wire
from fjx._base import Array, Cohort, Metrics, Tree
from fjx.rounds._state import invited
from fjx.wire._bits import is_ragged

UNNOISED = "unnoised_"
"""Prefix of a metric that depends on the clients or on their data in a round whose result is noised."""


def unnoised(metrics: Metrics) -> Metrics:
    """The same metrics under names that say that they are without noise."""
    return {f"{UNNOISED}{name.removeprefix(UNNOISED)}": value for name, value in metrics.items()}


def metric_of(metrics: Metrics, name: str) -> Any:
    """A metric by its name, with or without the prefix; None if it is not reported."""
    return metrics.get(name, metrics.get(f"{UNNOISED}{name}"))


def tally_of(counts: Array, failed: Array, size: Array, metrics: Metrics) -> dict[str, Any]:
    """One client's part of the sums over a cohort from which a round's metrics are made."""
    examples = jnp.where(counts, size, 0).astype(jnp.float32)
    sums = {name: _tree.scale(examples, value) for name, value in metrics.items()}
    return {
        "participants": counts.astype(jnp.int32),
        "nonfinite": failed.astype(jnp.int32),
        "examples": examples,
        "sums": _tree.where(counts, sums, _tree.zeros_like(sums)),
    }


def report(
    cohort: Cohort,
    tally: dict[str, Any],
    down: Tree,
    own: Metrics,
    *,
    heard: Tree = (),
    noised: bool = False,
) -> Metrics:
    """The metrics of a round.

    If the result of the round is noised, the names of all that clients told are marked, and of all that
    depends on who was drawn.  Sampling amplifies a claim only while that is secret.

    Args:
        cohort: cohort of the round.
        tally: sum of :func:`tally_of` over the cohort.
        down: payloads that each invited client is sent.
        own: metrics of the aggregator.
        heard: payload that each participant is sent at the end of the round.
        noised: True if the aggregate message is a private release.
    """
    told = {"invited": invited(cohort), "rejected": cohort.rejected, **_averages(tally)}
    if jax.tree.leaves(heard):
        # Absent clients are sent the broadcast, and not what becomes of the round.
        sent = bytes_sent(down, invited(cohort)), bytes_sent(heard, tally["participants"])
        told["downlink_bytes"] = bytes_of_a_cohort(*_tree.add(*sent))
    elif is_ragged(down):
        told["downlink_bytes"] = bytes_of_a_cohort(*bytes_sent(down, invited(cohort)))
    return _validate.disjoint(unnoised(told) if noised else told, own)


def _averages(tally: dict[str, Any]) -> Metrics:
    """Means over the examples of the participants; NaN if there are none."""
    means = {name: _tree.mean_of(x, tally["examples"]) for name, x in tally["sums"].items()}
    counts = {name: tally[name] for name in ("participants", "nonfinite")}
    if "sent" in tally:
        counts["uplink_bytes"] = bytes_of_a_cohort(*tally["sent"])
    return _validate.disjoint(counts, means)


def bytes_sent(payload: Tree, times: Array) -> tuple[Array, Array]:
    """Total bytes of ``times`` copies of a payload as (low 16 bits, high bits).

    So sums over a cohort of fewer than 2^16 clients cannot overflow uint32.
    """
    bits = wire.measured_bits(payload) if is_ragged(payload) else wire.bits(payload)
    size, times = bits // 8, times.astype(jnp.uint32)
    rest, many = jnp.asarray(size & 0xFFFF, jnp.uint32), times >> 16
    low, high = rest * (times & 0xFFFF), jnp.asarray(size >> 16, jnp.uint32) * times
    return low & 0xFFFF, high + rest * many + (low >> 16)


def bytes_of_a_cohort(low: Array, high: Array) -> Array:
    """The number of bytes that sums of :func:`bytes_sent` stand for, or 2^32 - 1 if it is larger."""
    high = high + (low >> 16)
    whole = high << 16 | low & 0xFFFF
    return jnp.where(high < 1 << 16, whole, jnp.uint32(0xFFFFFFFF))
