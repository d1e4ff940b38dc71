"""Noise of a large deployment in a small simulation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx.privacy._accounting.claim import Epsilon
from fjx.privacy._accounting.epsilon import epsilon as epsilon_of
from fjx.privacy._types import Mechanism
from fjx.samplers._types import Sampler


class Rescaled(NamedTuple):
    """Two mechanisms whose means are equally noisy, made by :func:`rescaled`.

    Attributes:
        simulation: the mechanism for the simulation; it adds little noise, because cohorts are small.
        deployment: the mechanism that a deployment would run; it is the one that is accounted.
        simulated: cohort size of the simulation.
        deployed: cohort size of the deployment.
    """

    simulation: Mechanism
    deployment: Mechanism
    simulated: float
    deployed: float

    def epsilon(self, sampler: Sampler, **how: Any) -> Epsilon:
        """Return the epsilon of the *deployment*, with a caveat that says so.

        Args:
            sampler: the sampler that would draw the deployment's cohorts.
            **how: further arguments of :func:`fjx.privacy.epsilon`.
        """
        return epsilon_of(self.deployment, sampler, **how).but(
            f"This is the epsilon of a deployment with cohorts of {self.deployed:g} clients, and not of "
            f"the simulation, whose cohorts of {self.simulated:g} had "
            f"{self.simulated / self.deployed:.4g} of its noise"
        )


def rescaled(
    mechanism: Callable[[float], Mechanism],
    *,
    noise_multiplier: float,
    simulated: float,
    deployed: float,
) -> Rescaled:
    """Pair of mechanisms that gives a small simulation the signal-to-noise ratio of a large deployment.

    A mean of M clients' updates has noise z C / M.  A mean of m < M clients has the same noise with the
    noise multiplier z m / M.  A simulation with that multiplier shows the effect of the deployment's
    noise.  The epsilon is that of the deployment: the simulated run itself is far less private.

    This requires the same bound in both.  An adaptive bound follows a noised count.  The noise of that
    count depends on the cohort, and so does the multiplier on the sum, which is then not proportional to
    z.

    Args:
        mechanism: ``(noise_multiplier) -> Mechanism`` whose noise is proportional to the multiplier, and
            whose state holds past noise or nothing.
        noise_multiplier: noise multiplier z of the deployment, positive.
        simulated: cohort size m of the simulation, by which its aggregator divides.
        deployed: cohort size M of the deployment, at least m.

    Returns:
        A :class:`Rescaled`.

    Raises:
        TypeError: an argument is not a real number, or ``mechanism`` returns something else.
        ValueError: an argument is not positive, or the deployment's cohort is smaller; or the mechanism
            has a state that is not past noise, such as an adaptive bound.

    Examples:
        >>> from fjx import privacy, samplers
        >>> both = rescaled(
        ...     lambda z: privacy.gaussian(clip_norm=1.0, noise_multiplier=z),
        ...     noise_multiplier=2.0, simulated=50, deployed=5000)
        >>> both.simulation.noise_multiplier
        0.02
        >>> print(both.epsilon(samplers.poisson(0.005), rounds=10, delta=1e-7, method="rdp"))
        epsilon = 0.2797 at delta = 1e-07
        (client-level, add-or-remove-one, Poisson rate 0.005, 10 rounds, RDP). This is the epsilon of a
        deployment with cohorts of 5000 clients, and not of the simulation, whose cohorts of 50 had 0.01
        of its noise

    References:
        Granqvist, Song, Cahill, van Dalen, Pelikan, Chan, Feng, Krishnaswami, Jina, Chitnis,
        *pfl-research: Simulation Framework for Accelerating Research in Private Federated Learning*,
        NeurIPS 2024 (arXiv:2404.06430).
        McMahan, Ramage, Talwar, Zhang, ICLR 2018 (arXiv:1710.06963).
    """
    noise_multiplier = _validate.static_number("noise_multiplier", noise_multiplier, above=0)
    simulated = _validate.static_number("simulated", simulated, above=0)
    deployed = _validate.static_number("deployed", deployed, at_least=simulated)
    both = mechanism(noise_multiplier * simulated / deployed), mechanism(noise_multiplier)
    for one in both:
        if not isinstance(one, Mechanism):
            raise TypeError(f"mechanism must make a fjx.privacy.Mechanism, got {one!r}")
        if one.correlation is None and jax.tree.leaves(one.init(jnp.zeros(()))):
            raise ValueError(
                "mechanism makes one with a state, such as a bound that follows a noised count: in the "
                "simulation that count's noise, and so the bound, would not be those of the "
                "deployment; pass one with a fixed bound, such as "
                "lambda z: privacy.gaussian(clip_norm=1.0, noise_multiplier=z)"
            )
    return Rescaled(*both, simulated, deployed)
