"""Epsilon of the mechanism and the sampler that ran, computed on the host.

dp-accounting does the arithmetic.  This package does three things around it: it decides which of its
events describes a round (``releases``), it converts between the conventions of its accountants
(``renyi``, ``losses``), and it refuses whatever cannot be accounted.  A run is a pair {release: count};
nothing is composed round by round.
"""

import dataclasses
import hashlib
from typing import Any, get_args

import jax
import numpy as np

from fjx import _validate
from fjx._base import Key
from fjx.privacy._accounting.caveats import apart, caveats_of
from fjx.privacy._accounting.claim import Epsilon, Method, Unit
from fjx.privacy._accounting.lowest import lowest
from fjx.privacy._accounting.releases import Run, require_sampler, run_of
from fjx.privacy._types import Accountable, Relation, require_relation
from fjx.samplers._types import FixedSize, Sampler


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Immutable list of all runs on one population, whose epsilon is computed when asked.

    Put everything that was trained on the same clients into one ledger: phases with other cohorts or
    other mechanisms, and runs that were thrown away.  Nothing is computed before :meth:`epsilon`.

    The sum assumes that noise is independent.  Runs that begin from one key share their noise, so the
    difference of their models has none: give each run a key of its own.

    Guarantees:
        - The order of runs does not matter.
        - Runs with equal releases become one entry.
        - A ledger of one run gives the same epsilon as :func:`fjx.privacy.epsilon`.
        - A run that is not the sum of its phases cannot be added phase by phase.
        - Two runs of one key are refused if the ledger is told the keys; if it is not, its claim says
          that they must differ.

    Attributes:
        runs: the entries, each a release and the number of times it happened.
        keys: the digest of the key of each run that was added; None where it was not told.

    Examples:
        >>> import jax
        >>> from fjx import privacy, samplers
        >>> warm = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
        >>> main = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
        >>> ledger = (
        ...     privacy.Ledger()
        ...     .add(warm, samplers.poisson(0.5), rounds=5, key=jax.random.key(0))
        ...     .add(main, samplers.poisson(0.1), rounds=50, key=jax.random.key(1)))
        >>> print(ledger.epsilon(delta=1e-5))
        epsilon = 2.034 at delta = 1e-05
        (client-level, add-or-remove-one, Poisson rate 0.5, then Poisson rate 0.1, 55 rounds, PLD)
    """

    runs: tuple[Run, ...] = ()
    keys: tuple[str | None, ...] = ()

    def add(
        self,
        mechanism: Accountable,
        sampler: Sampler,
        *,
        rounds: int,
        num_clients: int | None = None,
        restarted: bool = False,
        key: Key | None = None,
    ) -> "Ledger":
        """Return the ledger with one more run.

        Some runs are not the sum of their phases: the noise of a later phase depends on that of an
        earlier one, a client stays in its bin, or a schedule continues.  Add all rounds of such a run as
        one entry.  A second entry of the kind is accounted as a run of its own, so it must have been
        one.

        Args:
            mechanism, sampler, rounds, num_clients: as in :func:`fjx.privacy.epsilon`.
            restarted: True declares that this run began anew, at round 0, from a fresh state and with
                another key.  It is needed if the run has correlated noise, balls in bins or a schedule,
                and the ledger has such a run already.
            key: root key of the run.  Leave it out of a phase that continues a run of the ledger.

        Returns:
            The new ledger.

        Raises:
            TypeError: as in :func:`fjx.privacy.epsilon`.
            ValueError: as in :func:`fjx.privacy.epsilon`; or the run may be a phase of one in the
                ledger, or has the key of one.
        """
        require_sampler(sampler)
        rounds = _validate.static_integer("rounds", rounds, at_least=0)
        if num_clients is not None:
            _validate.integer("num_clients", num_clients, at_least=1)
        new = run_of(mechanism, sampler, rounds, num_clients)
        if not restarted:
            _require_apart(self.runs, new)
        keys = (*self.keys, _require_fresh(self.keys, key))
        runs = list(self.runs)
        for i, run in enumerate(runs):
            if _kind(run) == _kind(new):
                runs[i] = _merged(run, new)
                return Ledger(tuple(runs), keys)
        return Ledger((*runs, new), keys)

    def epsilon(
        self,
        *,
        delta: float,
        method: Method = "pld",
        relation: Relation | None = None,
        unit: Unit = "client",
        grid: float | None = None,
    ) -> Epsilon:
        """Return the epsilon of all runs together; arguments as in :func:`fjx.privacy.epsilon`."""
        _validate.number("delta", delta, above=0, below=1)
        _require_word("method", method, get_args(Method))
        _require_word("unit", unit, get_args(Unit))
        if grid is not None:
            _validate.number("grid", grid, above=0)
        relation = relation_of(relation, unit)
        if relation is None:
            certain = (run.otherwise or run for run in self.runs)
            fixed = any(isinstance(run.release.amplified_by, FixedSize) for run in certain)
            relation = "replace_one" if fixed else "add_or_remove_one"
        require_relation(relation)

        value, method, runs = lowest(self.runs, delta, method, relation, grid)
        return Epsilon(
            value,
            delta=float(delta),
            unit=unit,
            relation=relation,
            sampling=", then ".join(run.words for run in runs) or "nothing was released",
            rounds=sum(run.rounds for run in runs),
            method=method,
            caveats=(*caveats_of(runs, value, delta, relation), *apart(self.keys)),
        )


def epsilon(
    mechanism: Accountable,
    sampler: Sampler,
    *,
    rounds: int,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
    unit: Unit = "client",
    grid: float | None = None,
) -> Epsilon:
    """Epsilon of ``rounds`` rounds of ``mechanism`` on the cohorts of ``sampler``.

    The protected unit is the client: everything that one client id contributes to all rounds together.
    The claim depends on the sampler:

    =========================  ===============================================================
    sampler                    accounted as
    =========================  ===============================================================
    ``poisson(q)``             the Poisson-subsampled mechanism; add-or-remove-one by default,
                               replace-one by PLD.  Cohorts that do not fit are paid by delta.
    ``poisson(q, cap)``        the truncated one; PLD only, ``num_clients`` required (the
                               client in question included).
    ``cyclic_poisson(p, q)``   ceil(rounds / p) rounds of ``poisson(q)``
    ``uniform(m)``             sampling without replacement; replace-one only, ``num_clients``
                               required.  PLD for Gaussian and Laplace noise.
    ``balls_in_bins(b)``       a mixture of b Gaussians, of ceil(rounds / b) releases each;
                               Gaussian noise and add-or-remove-one only.
    ``min_separation(b, L)``   for each period, a mixture of L - b + 1 Gaussians; Gaussian noise and
                               add-or-remove-one only, else not amplified.
    ``full()``                 ``rounds`` releases, not amplified
    ``cyclic(p)``              ceil(rounds / p) releases, not amplified
    any other                  as many releases as one client may take part in
                               (:func:`fjx.privacy.participation`), not amplified
    =========================  ===============================================================

    *Relation and sensitivity.*  The sum moves by C if a client is added or removed, and by 2 C if one is
    replaced.  ``noise_multiplier`` means the same under each relation and method: dp-accounting's PLD
    doubles the sensitivity for replace-one, its RDP does not, and fjx applies the missing factor.
    *Without amplification*, add-or-remove-one is meant in the zero-out sense: an absent client's update
    is zero, and its id keeps its place.

    *Correlated noise* (``mechanism.correlation``).  The whole run is one release of a sequence, which a
    client moves as far as its participation allows.  On Poisson, cyclic Poisson and fixed-size cohorts
    the run is also a release for each round of a client, with less noise (``mechanism.turn``); with
    balls in bins and minimum separation, for each place of a client (``mechanism.place``).  Sampling
    amplifies that account; the claim is the lower of the two.

    *Noise described by a Renyi curve* is accounted by RDP.  Without sampling the curve itself is used.
    Poisson cohorts use the bound of Zhu and Wang at integer orders: with its factor 3 for general
    mechanisms, and without it for noise that is added and symmetric, such as the discrete Gaussian.
    Cohorts of fixed size use theorem 9 of Wang et al.

    *Cohorts of fixed size* are accounted by PLD from the dominating pair of Zhu, Dong and Wang.

    *Charges to delta.*  Delta pays for two deviations from ideal sampling and noise (proofs in
    :doc:`/privacy_proofs`).  Poisson cohorts without a cap may exceed the capacity, with probability at
    most tau a round, the sampler's ``overflow`` (2^-40 by default).  After T rounds, epsilon is that of
    delta - T tau.  Noise is drawn from tables of 192 bits, so that a run is within some total variation
    t of one with ideal draws: at most 2^-138 T for Gaussian and Laplace noise on up to 2^32
    coordinates.  Epsilon is then the least number that is the epsilon of delta - (1 + e^epsilon) t.
    Either charge is a caveat of the claim if it takes more than a hundredth of delta.

    *Floats.*  Sums and noise of the mechanisms of fjx are integers, so nothing is assumed of floats.
    Two exceptions are caveats of the claim: the recursion of correlated noise, and a mechanism of your
    own without ``to_steps``.

    *Idealisations.*  Pseudo-random draws are accounted as ideal ones.  PLD rounds the privacy loss up to
    a grid of 1e-4, or of 1e-5 epsilon if that is coarser.  The result is an upper bound; at ten thousand
    rounds it is about 0.0002 above the limit of fine grids.

    Args:
        mechanism: the mechanism that bounded and noised the sums, as given to the aggregator.
        sampler: the sampler that drew the cohorts.
        rounds: number of rounds, at least 0; empty cohorts count.
        delta: delta in (0, 1); should be well below 1 / num_clients.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.  All are upper bounds.  PLD is the lower one if both
            apply, but for sampled cohorts at a delta near 1e-15, which its float64 numbers do not
            resolve.  ``"best"`` takes the lowest that applies.
        relation: ``"add_or_remove_one"`` or ``"replace_one"``; None for the one that suits the sampler.
        num_clients: population size N, required if the sampling depends on it.  Otherwise it only serves
            to check ``delta``.
        unit: unit of protection.  ``"example"`` is one example of a client: adding or removing it
            *replaces* the client's message, so this is claimed under replace-one.  For clients that draw
            and bound examples one by one, :func:`fjx.privacy.examples_epsilon` can claim more.
        grid: step of the privacy loss in PLD; None to choose it.  A coarser grid is faster, and still an
            upper bound.

    Returns:
        An :class:`Epsilon`, a float with its :meth:`~Epsilon.statement`.  It is inf without noise, or if
        delta cannot pay for the charges above: for delta above 1e-12 and a million rounds, not before
        epsilon is 50.  It is 0 without rounds.

    Raises:
        TypeError: an argument is traced or not a number, or the sampler's subsampling is unknown.
        ValueError: an argument is out of range, or the combination cannot be accounted; the message says
            which ones can.

    Examples:
        >>> from fjx import privacy, samplers
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
        >>> print(epsilon(mechanism, samplers.poisson(0.1), rounds=50, delta=1e-5))
        epsilon = 1.653 at delta = 1e-05
        (client-level, add-or-remove-one, Poisson rate 0.1, 50 rounds, PLD)

    References:
        Koskela, Jalko, Honkela, *Computing Tight Differential Privacy Guarantees Using FFT*, AISTATS
        2020 (arXiv:1906.03049).
        Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, *Connect the Dots: Tighter Discrete
        Approximations of Privacy Loss Distributions*, PoPETs 2022 (arXiv:2207.04380).
        Mironov, Talwar, Zhang, *Renyi Differential Privacy of the Sampled Gaussian Mechanism*, 2019
        (arXiv:1908.10530).
        Zhu, Wang, *Poisson Subsampled Renyi Differential Privacy*, ICML 2019.
        Zhu, Dong, Wang, *Optimal Accounting of Differential Privacy via Characteristic Function*,
        AISTATS 2022 (arXiv:2106.08567), for cohorts of fixed size.
        Wang, Balle, Kasiviswanathan, *Subsampled Renyi Differential Privacy and Analytical Moments
        Accountant*, AISTATS 2019 (arXiv:1808.00087).
        Feldman, Shenfeld, *Privacy Amplification by Random Allocation*, 2025 (arXiv:2502.08202), for
        balls in bins.
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization*, NeurIPS 2023 (arXiv:2306.08153), for cohorts that are Poisson in blocks, and
        theorem 4 for correlated noise on them.
    """
    ledger = Ledger().add(mechanism, sampler, rounds=rounds, num_clients=num_clients)
    return ledger.epsilon(delta=delta, method=method, relation=relation, unit=unit, grid=grid)


def _kind(run: Run) -> tuple[Any, ...]:
    """Runs of one kind are one run with more releases."""
    return run.release, run.words, run.otherwise and run.otherwise.release


def _merged(run: Run, new: Run) -> Run:
    return run._replace(
        times=run.times + new.times,
        rounds=run.rounds + new.rounds,
        slack=run.slack + new.slack,
        whole=run.whole | new.whole,
        distance=run.distance + new.distance,
        assumes=run.assumes or new.assumes,
        otherwise=_merged(run.otherwise, new.otherwise)
        if run.otherwise and new.otherwise
        else None,
    )


def relation_of(relation: Relation | None, unit: Unit) -> Relation | None:
    """Relation between clients that the unit requires; None for the one that suits the sampler.

    Raises:
        ValueError: another relation was asked for.
    """
    if unit != "example":
        return relation
    if relation == "add_or_remove_one":
        raise ValueError(
            "an example that comes or goes replaces what its client sends, which moves the sum by twice "
            "the clip norm: pass relation='replace_one' with unit='example'"
        )
    return "replace_one"


def _require_apart(runs: tuple[Run, ...], new: Run) -> None:
    """Raise unless the new run is separate from the runs before.

    Raises:
        ValueError: the new run may be a phase of one of them.
    """
    if shared := sorted(new.whole & {what for run in runs for what in run.whole}):
        raise ValueError(
            f"a run with {' and '.join(shared)} is in the ledger, and phases of one run do not add up: "
            "add all of its rounds at once; if this one began anew, at round 0, from a fresh state and "
            "with another key, pass restarted=True"
        )


def _require_fresh(keys: tuple[str | None, ...], key: Key | None) -> str | None:
    """The digest of a key, from which the key cannot be read; None if there is none.

    Raises:
        TypeError: it is no typed key.
        ValueError: another run has it.
    """
    if key is None:
        return None
    _validate.key("key", key)
    words = f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}"
    digest = hashlib.sha256(words.encode()).hexdigest()
    if digest in keys:
        raise ValueError(
            "a run in the ledger has this key: two runs from one key share their noise, and the "
            "difference of their models has none, whatever epsilon says; run again with another key.  "
            "Leave the key out of a phase that continues that run"
        )
    return digest


def _require_word(name: str, word: object, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ValueError(f"{name} must be one of {words}, got {word!r}")
