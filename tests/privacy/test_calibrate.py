"""Rounds and rates that meet a target, and mechanisms other than one Gaussian a round."""

import math

import numpy as np
import pytest

from fjx import privacy, samplers

ONE = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)


def test_the_rounds_that_are_documented():
    """jax-privacy's documentation: q = 0.1, sigma = 3, delta = 1e-6 allow epsilon = 2 for 155 rounds."""
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=3.0)
    at, beyond = (
        privacy.epsilon(mechanism, samplers.poisson(0.1), rounds=rounds, delta=1e-6)
        for rounds in (155, 156)
    )
    assert at <= 2 < beyond


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("mechanism", "sampler", "target", "expected"),
    [
        (ONE, samplers.poisson(0.01), 2.0, 531),
        (ONE, samplers.cyclic(10), 5.0, 10),  # one release is 4.73, two are more than 5
        (ONE, samplers.full(), 4.0, 0),
    ],
)
def test_rounds_meet_the_target_and_not_more(mechanism, sampler, target, expected):
    how = {"delta": 1e-6 if expected == 531 else 1e-5, "method": "rdp"}
    rounds = privacy.calibrate_rounds(mechanism, sampler, epsilon=target, **how)
    assert rounds == expected
    assert privacy.epsilon(mechanism, sampler, rounds=rounds, **how) <= target
    assert privacy.epsilon(mechanism, sampler, rounds=rounds + 1, **how) > target


def test_rounds_without_a_limit_are_refused():
    forever = samplers.full()._replace(
        subsampling=samplers.Scheduled("once and for all", 1, lambda rounds: min(rounds, 1))
    )
    with pytest.raises(ValueError, match=r"any number of rounds meets epsilon = 6\.0"):
        privacy.calibrate_rounds(ONE, forever, epsilon=6.0, delta=1e-5, method="rdp")


@pytest.mark.parametrize(
    ("target", "rounds"),
    [
        (2.0, 531),
        pytest.param(0.5, 50, marks=pytest.mark.slow),
        pytest.param(3.0, 5, marks=pytest.mark.slow),
    ],
)
def test_rates_meet_the_target_and_not_more(target, rounds):
    how = {"rounds": rounds, "delta": 1e-6, "method": "rdp"}
    rate = privacy.calibrate_rate(ONE, epsilon=target, **how)
    assert privacy.epsilon(ONE, samplers.poisson(rate), **how) <= target
    assert privacy.epsilon(ONE, samplers.poisson(rate * (1 + 1e-3)), **how) > target
    if rounds == 531:
        assert rate == pytest.approx(0.01, rel=1e-3)


def test_rates_of_the_generous_and_of_the_impossible():
    how = {"delta": 1e-5, "method": "rdp"}
    assert privacy.calibrate_rate(ONE, epsilon=5.0, rounds=1, **how) == 1.0
    with pytest.raises(ValueError, match=r"no rate reaches epsilon = 1\.0"):
        privacy.calibrate_rate(ONE, epsilon=1.0, rounds=100, delta=1e-12, method="rdp")


def test_correlated_noise_is_calibrated_by_its_participation():
    """Three participations as one sequence are calibrated like one release of sqrt(3)."""

    def make(z):
        independent = privacy.gaussian(clip_norm=1.0, noise_multiplier=z)
        return independent._replace(correlation=lambda often: math.sqrt(often.most))

    how = {"epsilon": 2.0, "delta": 1e-6, "method": "rdp"}
    three = privacy.calibrate(samplers.cyclic(10), rounds=30, mechanism=make, **how)
    one = privacy.calibrate(samplers.full(), rounds=1, **how)
    assert three == pytest.approx(math.sqrt(3) * one, rel=5e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: privacy.calibrate_rounds(ONE, samplers.full(), epsilon=0.0, delta=1e-5),
        lambda: privacy.calibrate_rate(ONE, epsilon=0.0, delta=1e-5, rounds=1),
    ],
)
def test_a_target_is_positive(call):
    with pytest.raises(ValueError, match="epsilon must be greater than 0"):
        call()


def test_noise_that_the_mechanism_refuses_is_too_much():
    """An adaptive bound has no noise left for the sum where z >= 2 sigma_b."""
    how = {"rounds": 1, "delta": 1e-5, "method": "rdp"}

    def adaptive(count_noise):
        return lambda z: privacy.adaptive_gaussian(
            initial_clip=1.0, noise_multiplier=z, cohort_size=10, count_noise=count_noise
        )

    for target, count_noise in ((8.0, 0.4), (2.0, 1.5), (2.0, 10.0)):
        z = privacy.calibrate(
            samplers.full(), epsilon=target, mechanism=adaptive(count_noise), **how
        )
        assert z == pytest.approx(
            privacy.calibrate(samplers.full(), epsilon=target, **how), rel=2e-3
        )
        assert privacy.epsilon(adaptive(count_noise)(z), samplers.full(), **how) <= target
    with pytest.raises(
        ValueError, match=r"accepts reaches epsilon = 2.*count_noise must be greater"
    ):
        privacy.calibrate(samplers.full(), epsilon=2.0, mechanism=adaptive(0.5), **how)


def test_an_epsilon_that_does_not_depend_on_the_noise_is_refused():
    how = {"epsilon": 2.0, "rounds": 1, "delta": 1e-5, "method": "rdp"}
    nobody = samplers.available(np.zeros((3, 4), bool), 2)
    with pytest.raises(ValueError, match=r"no noise multiplier to calibrate: .*met even by 1e-09"):
        privacy.calibrate(nobody, **how)

    def broken(z):
        raise ValueError("clip_norm must be greater than 0")

    with pytest.raises(ValueError, match="refuses every one: clip_norm must be"):
        privacy.calibrate(samplers.full(), mechanism=broken, **how)
