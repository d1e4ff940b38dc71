"""Renyi differential privacy: the curve of each release, their sum, and its epsilon."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fjx.privacy._accounting.bins import bins_curve
from fjx.privacy._accounting.releases import Release, Run
from fjx.privacy._curves import Curve, fixed_size_bound, poisson_bound
from fjx.privacy._types import Relation, RenyiCurve
from fjx.samplers._types import BallsInBins, FixedSize, Poisson


def renyi_epsilon(runs: Sequence[Run], delta: float, relation: Relation) -> float:
    """Epsilon of the sum of the runs' curves over dp-accounting's orders; 0 without runs.

    Raises:
        ValueError: a run has no such curve; the message says what is possible instead.
    """
    from dp_accounting.rdp import compute_epsilon
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

    orders = np.asarray(DEFAULT_RDP_ORDERS, np.float64)
    with _quiet():
        curves = [curve_of(run.release, relation)(orders) for run in runs]
        counted = [run.times * curve for run, curve in zip(runs, curves, strict=True) if run.times]
        if not counted:
            return 0.0
        total = np.sum(counted, axis=0)
        # An order without a known bound supports no claim.
        return float(compute_epsilon(orders, np.where(np.isnan(total), np.inf, total), delta)[0])


def curve_of(release: Release, relation: Relation) -> Curve:
    """Curve of one release.

    Raises:
        ValueError: there is none; the message says what is possible instead.
    """
    replace = relation == "replace_one"
    event = release.twice if replace else release.once
    plain = unsampled(event, relation)
    match release.amplified_by:
        case None:
            return plain
        case FixedSize(size):
            return _without_replacement(event, size, release.num_clients, relation, plain)
        case BallsInBins(bins):
            return _in_bins(event, bins, relation, plain)
        case Poisson(_, cap) if cap is not None:
            raise ValueError(
                "capped Poisson cohorts can be accounted for Gaussian noise and by method='pld' "
                "only, got method='rdp'; pass that, or sample without a cap"
            )
    if replace:
        raise ValueError(
            "Poisson cohorts cannot be accounted by method='rdp' under relation='replace_one'; "
            "pass method='pld', or relation='add_or_remove_one'"
        )
    return _poisson(event, release.amplified_by.rate, relation, plain)


def unsampled(event: Any, relation: Relation) -> Curve:
    """Curve of an event without sampling.

    Raises:
        ValueError: dp-accounting does not know one.
    """
    if isinstance(event, RenyiCurve):
        return event.rdp
    if getattr(event, "noise_multiplier", None) == 0:
        return lambda orders: np.full(orders.shape, np.inf)
    if not _supports(event, relation):
        raise ValueError(
            f"no Renyi bound is known for {event} under relation={relation!r}; "
            "pass method='pld', or another relation"
        )
    return lambda orders: _accountant(orders, relation).compose(event).rdp


def _poisson(event: Any, rate: float, relation: Relation, plain: Curve) -> Curve:
    """Curve on Poisson cohorts: by dp-accounting if it knows the mixture, else by the general bound."""
    import dp_accounting

    if not isinstance(event, RenyiCurve):
        sampled = dp_accounting.PoissonSampledDpEvent(rate, event)
        if _supports(sampled, relation):
            return lambda orders: _accountant(orders, relation).compose(sampled).rdp
    if rate == 1:
        return plain
    added = isinstance(event, dp_accounting.LaplaceDpEvent | dp_accounting.GaussianDpEvent)
    bound = poisson_bound(plain, rate, symmetric=added or getattr(event, "symmetric", False))
    # A mixture is no farther away than the farther of its parts, so sampling never costs.
    return lambda orders: np.fmin(bound(orders), plain(orders))


def _without_replacement(
    event: Any, size: int, num_clients: int | None, relation: Relation, plain: Curve
) -> Curve:
    import dp_accounting

    rate = fraction_of(size, num_clients, relation)
    if isinstance(event, RenyiCurve):
        bound = fixed_size_bound(plain, rate)
        return lambda orders: np.fmin(bound(orders), plain(orders))
    sampled = dp_accounting.SampledWithoutReplacementDpEvent(num_clients, size, event)
    if not _supports(sampled, relation):
        raise ValueError(
            "cohorts of fixed size can be accounted for Gaussian noise only, got "
            f"{words_of_event(event)}; sample with samplers.poisson"
        )
    # The bound with sampling can exceed the one without, which holds for every sampling.
    return lambda orders: np.fmin(_accountant(orders, relation).compose(sampled).rdp, plain(orders))


def _in_bins(event: Any, bins: int, relation: Relation, plain: Curve) -> Curve:
    import dp_accounting

    if relation != "add_or_remove_one" or not isinstance(event, dp_accounting.GaussianDpEvent):
        raise ValueError(refusal_of_bins(relation, event))
    if not event.noise_multiplier:
        return plain
    bound = bins_curve(bins, 1 / event.noise_multiplier)
    # A mixture is no farther away than the farther of its parts.
    return lambda orders: np.fmin(bound(orders), plain(orders))


def refusal_of_bins(relation: Relation, event: Any) -> str:
    """Message for balls in bins with another relation or noise."""
    return (
        "balls in bins can be accounted for Gaussian noise with relation='add_or_remove_one' only, got "
        f"{words_of_event(event)} and {relation!r}; pass these, or sample with samplers.cyclic"
    )


def fraction_of(size: int, num_clients: int | None, relation: Relation) -> float:
    """Fraction of the population in a cohort of fixed size.

    Raises:
        ValueError: the population is not known or too small, or the relation is not replace-one.
    """
    if relation != "replace_one":
        raise ValueError(
            "cohorts of fixed size can be accounted with relation='replace_one' only, got "
            f"{relation!r}; pass that, or sample with samplers.poisson"
        )
    n = known(num_clients, "cohorts of fixed size")
    if size > n:
        raise ValueError(f"num_clients must be at least the cohort's size {size}, got {n}")
    return size / n


def known(num_clients: int | None, sampling: str) -> int:
    """Population size N.

    Raises:
        ValueError: it was not given.
    """
    if num_clients is None:
        raise ValueError(f"num_clients is needed to account for {sampling}: pass num_clients=")
    return num_clients


def words_of_event(event: Any) -> str:
    """Event in words, for messages."""
    return event.words if isinstance(event, RenyiCurve) else str(event)


def neighbours(relation: Relation) -> Any:
    """Name of the relation in dp-accounting."""
    import dp_accounting

    return dp_accounting.NeighboringRelation[relation.upper()]


def _supports(event: Any, relation: Relation) -> bool:
    return _accountant(np.array([2.0]), relation).supports(event)


def _accountant(orders: np.ndarray, relation: Relation) -> Any:
    """New accountant for every number, because accountants are mutable."""
    from dp_accounting.rdp import RdpAccountant

    return RdpAccountant(orders, neighbours(relation))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence dp-accounting's warnings: leaving out an order makes the bound looser, not wrong."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
