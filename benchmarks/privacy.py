"""Privacy claims of fjx beside those of other libraries, as a table.

    python -m benchmarks.privacy

The table is printed, and written to ``benchmarks/results/privacy.md``.  dp-accounting is a dependency of
fjx; jax-privacy, pfl and Opacus are asked where they are installed, and their column is left empty where
they are not.  Lower is better for epsilon, noise and error, and higher for the bounds of audits.
"""

import importlib.metadata
import importlib.util
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from benchmarks.records import RESULTS
from fjx import privacy, samplers
from fjx.privacy import auditing

LIBRARIES = ("fjx", "dp-accounting", "jax-privacy", "pfl", "opacus")
REPLACE = dp_accounting.NeighboringRelation.REPLACE_ONE


class Row(NamedTuple):
    """One claim, by library: a function that computes it, or None if the library has no such claim."""

    what: str
    fjx: Callable[[], float]
    dp_accounting: Callable[[], float] | None = None
    jax_privacy: Callable[[], float] | None = None
    pfl: Callable[[], float] | None = None
    opacus: Callable[[], float] | None = None


def gaussian(z: float) -> privacy.Mechanism:
    return privacy.gaussian(clip_norm=1.0, noise_multiplier=z)


def poisson_event(z: float, rate: float, rounds: int) -> Any:
    noise = dp_accounting.GaussianDpEvent(z)
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(rate, noise), rounds
    )


def accounted(event: Any, delta: float, accountant: Any) -> float:
    return float(accountant.compose(event).get_epsilon(delta))


def pfl_epsilon(z: float, rate: float, rounds: int, delta: float) -> float:
    from pfl.privacy.privacy_accountant import PLDPrivacyAccountant

    return PLDPrivacyAccountant(
        num_compositions=rounds,
        sampling_probability=rate,
        mechanism="gaussian",
        delta=delta,
        noise_parameter=z,
    ).epsilon


def opacus_epsilon(z: float, rate: float, rounds: int, delta: float) -> float:
    """By its Renyi analysis, the file itself: the package would import torch."""
    (folder,) = importlib.util.find_spec("opacus").submodule_search_locations
    file = pathlib.Path(folder) / "accountants" / "analysis" / "rdp.py"
    spec = importlib.util.spec_from_file_location("opacus_rdp", file)
    analysis = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(analysis)
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))  # those of its accountant
    curve = analysis.compute_rdp(q=rate, noise_multiplier=z, steps=rounds, orders=orders)
    return float(analysis.get_privacy_spent(orders=orders, rdp=curve, delta=delta)[0])


def poisson(z: float, rate: float, rounds: int, delta: float) -> Row:
    def peer() -> float:
        from jax_privacy.experimental import accounting

        event = accounting.dpsgd_event(z, rounds, sampling_prob=rate)
        return accounted(event, delta, PLDAccountant())

    return Row(
        f"epsilon, Poisson rate {rate}, z = {z}, {rounds} rounds, delta {delta:g}",
        lambda: privacy.epsilon(gaussian(z), samplers.poisson(rate), rounds=rounds, delta=delta),
        lambda: accounted(poisson_event(z, rate, rounds), delta, PLDAccountant()),
        peer,
        lambda: pfl_epsilon(z, rate, rounds, delta),
        lambda: opacus_epsilon(z, rate, rounds, delta),
    )


def capped(z: float, rate: float, cap: int, n: int, rounds: int, delta: float) -> Row:
    def ours() -> float:
        sampler = samplers.poisson(rate, cap)
        return privacy.epsilon(gaussian(z), sampler, rounds=rounds, delta=delta, num_clients=n)

    def theirs() -> float:
        event = dp_accounting.TruncatedSubsampledGaussianDpEvent(n, rate, cap, z)
        return accounted(dp_accounting.SelfComposedDpEvent(event, rounds), delta, PLDAccountant())

    def peer() -> float:
        from jax_privacy.experimental import accounting

        event = accounting.truncated_dpsgd_event(
            z, rounds, sampling_prob=rate, num_examples=n, truncated_batch_size=cap
        )
        return accounted(event, delta, PLDAccountant())

    what = (
        f"epsilon, Poisson rate {rate} of {n}, cap {cap}, z = {z}, {rounds} rounds, delta {delta:g}"
    )
    return Row(what, ours, theirs, peer)


def fixed_size(z: float, m: int, n: int, rounds: int, delta: float) -> Row:
    """A client is replaced, so the sum moves by twice the clip norm: dp-accounting is given z / 2."""

    def ours() -> float:
        return privacy.epsilon(
            gaussian(z), samplers.uniform(m), rounds=rounds, delta=delta, num_clients=n
        )

    def theirs() -> float:
        noise = dp_accounting.GaussianDpEvent(z / 2)
        event = dp_accounting.SampledWithoutReplacementDpEvent(n, m, noise)
        return accounted(
            dp_accounting.SelfComposedDpEvent(event, rounds),
            delta,
            RdpAccountant(neighboring_relation=REPLACE),
        )

    def peer() -> float:
        from jax_privacy.experimental import accounting

        event = accounting.fixed_dpsgd_event(z / 2, rounds, dataset_size=n, batch_size=m)
        return accounted(event, delta, RdpAccountant(neighboring_relation=REPLACE))

    what = f"epsilon, {m} of {n} clients, one replaced, z = {z}, {rounds} rounds, delta {delta:g}"
    return Row(what, ours, theirs, peer)


def banded(z: float, bands: int, rate: float, rounds: int, delta: float) -> Row:
    """The noise multiplier z is that of columns of norm 1."""
    c = privacy.square_root_coefficients(bands)
    mechanism = privacy.correlated(
        privacy.toeplitz(c), clip_norm=1.0, noise_multiplier=z * float(np.linalg.norm(c))
    )

    def peer() -> float:
        from jax_privacy.experimental import accounting

        event = accounting.amplified_bandmf_event(z, rounds, num_bands=bands, sampling_prob=rate)
        return accounted(event, delta, PLDAccountant())

    return Row(
        f"epsilon, {bands} bands and blocks, rate {rate}, z = {z}, {rounds} rounds, delta {delta:g}",
        lambda: privacy.epsilon(
            mechanism, samplers.cyclic_poisson(bands, rate=rate), rounds=rounds, delta=delta
        ),
        None,
        peer,
    )


def bins(z: float, count: int, rounds: int, delta: float) -> Row:
    """jax-privacy: the epsilon whose delta 20,000 samples estimate, without a confidence."""

    def peer() -> float:
        from jax_privacy import batch_selection
        from jax_privacy.experimental.monte_carlo import delta_calculation, sample_generation
        from scipy import optimize

        strategy = batch_selection.BallsInBinsSampling(iterations=rounds, cycle_length=count)
        losses = [
            sample_generation.get_privacy_loss_sample(
                strategy, z, np.ones(1), seed=0, positive_sample=positive, num_samples=20_000
            )[0]
            for positive in (True, False)
        ]

        def excess(epsilon: float) -> float:
            found = (
                delta_calculation.delta_from_epsilon_and_samples(epsilon, one) for one in losses
            )
            return math.log(max(*found, 1e-12) / delta)

        return float(optimize.brentq(excess, 0.0, 20.0, xtol=1e-3))

    return Row(
        f"epsilon, balls in {count} bins, z = {z}, {rounds} rounds, delta {delta:g}",
        lambda: privacy.epsilon(
            gaussian(z), samplers.balls_in_bins(count), rounds=rounds, delta=delta
        ),
        None,
        peer,
    )


def discrete(z: float, rate: float, rounds: int, delta: float) -> Row:
    mechanism = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=z, granularity=2.0**-6, dimension=16
    )
    return Row(
        f"epsilon, discrete Gaussian, Poisson rate {rate}, z = {z}, {rounds} rounds, delta {delta:g}",
        lambda: privacy.epsilon(
            mechanism, samplers.poisson(rate), rounds=rounds, delta=delta, method="rdp"
        ),
    )


def calibrated(rate: float, epsilon: float, delta: float, rounds: int) -> Row:
    def theirs() -> float:
        return dp_accounting.calibrate_dp_mechanism(
            lambda: PLDAccountant(value_discretization_interval=1e-3),
            lambda z: poisson_event(z, rate, rounds),
            epsilon,
            delta,
        )

    def peer() -> float:
        from pfl.privacy.privacy_accountant import PLDPrivacyAccountant

        return PLDPrivacyAccountant(
            num_compositions=rounds,
            sampling_probability=rate,
            mechanism="gaussian",
            delta=delta,
            epsilon=epsilon,
            value_discretization_interval=1e-3,
        ).noise_parameter

    return Row(
        f"z for epsilon {epsilon}, Poisson rate {rate}, {rounds} rounds, delta {delta:g}",
        lambda: privacy.calibrate(
            samplers.poisson(rate), epsilon=epsilon, delta=delta, rounds=rounds
        ),
        theirs,
        None,
        peer,
    )


def buffers(count: int, rounds: int, separation: int, most: int) -> Row:
    often = privacy.Participation(rounds, separation, most)

    def error(scales: Any, decays: Any) -> float:
        return privacy.prefix_error(privacy.buffered_toeplitz(scales, decays), often)

    def peer() -> float:
        from jax_privacy.matrix_factorization import buffered_toeplitz

        found = buffered_toeplitz.optimize(
            n=rounds,
            min_sep=separation,
            max_participations=most,
            error="mean",
            min_buffers=count,
            max_buffers=count,
        )
        return error(np.asarray(found.output_scale), np.asarray(found.buf_decay))

    return Row(
        f"error of {count} buffers, {rounds} rounds, {most} of a client, {separation} apart",
        lambda: error(*privacy.optimal_buffers(count, often)),
        None,
        peer,
    )


def audit(z: float, canaries: int, method: str) -> Row:
    rng = np.random.default_rng(0)
    included = rng.random(canaries) < 0.5
    scores = included + z * rng.standard_normal(canaries)
    gaussian = method == "one run, Gaussian DP"
    how = {"delta": 1e-5, "significance": 0.05}

    def peer() -> float:
        from jax_privacy.auditing import CanaryScoreAuditor

        auditor = CanaryScoreAuditor(scores[included], scores[~included])
        run = auditor.epsilon_one_run_fdp if gaussian else auditor.epsilon_one_run
        return float(run(**how))

    ours = auditing.one_run_gaussian_dp if gaussian else auditing.one_run
    truth = dp_accounting.get_epsilon_gaussian(z, 1e-5)
    return Row(
        f"audit by {method}, {canaries} canaries, z = {z}, true epsilon {truth:.2f}",
        lambda: ours(scores, included, **how),
        None,
        peer,
    )


def rows() -> Iterator[Row]:
    yield poisson(1.0, 0.01, 1000, 1e-5)
    yield poisson(1.0, 0.001, 1000, 1e-5)
    yield poisson(3.0, 0.1, 512, 1e-6)
    yield capped(1.0, 0.01, 150, 10_000, 1000, 1e-6)
    yield fixed_size(4.0, 100, 1000, 100, 1e-5)
    yield fixed_size(2.0, 100, 10_000, 1000, 1e-6)
    yield banded(1.0, 10, 0.1, 1000, 1e-6)
    yield banded(0.8, 20, 0.02, 1000, 1e-6)
    yield bins(1.0, 100, 100, 1e-2)
    yield bins(2.0, 100, 400, 1e-2)
    yield discrete(4.0, 0.1, 200, 1e-5)
    yield calibrated(0.01, 2.0, 1e-6, 1000)
    yield buffers(2, 512, 64, 8)
    yield buffers(3, 256, 256, 1)
    yield audit(1.0, 10_000, "one run")
    yield audit(1.0, 10_000, "one run, Gaussian DP")


def installed(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of the table, with the version of each library in its head."""
    versions = {library: installed(library) for library in LIBRARIES}
    heads = [
        f"{library} {version}" if version else library for library, version in versions.items()
    ]
    heads[0] = "fjx"
    yield "| " + " | ".join(["claim", *heads]) + " |"
    yield "| --- |" + " ---: |" * len(heads)
    for what, *claims in rows:
        known = [
            f"{float(claim()):.3f}" if claim and (library == "fjx" or versions[library]) else ""
            for library, claim in zip(LIBRARIES, claims, strict=True)
        ]
        yield "| " + " | ".join([what, *known]) + " |"


def main() -> None:
    lines = []
    for line in table(rows()):
        print(line, flush=True)
        lines.append(line)
    (RESULTS / "privacy.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
