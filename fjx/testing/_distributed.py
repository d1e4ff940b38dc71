"""The laws of mechanisms whose clients add the noise."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Key
from fjx.privacy import DistributedMechanism
from fjx.testing import _laws
from fjx.testing._attack import ACCOUNT, DELTAS, attacked, epsilon_of, grows_with_rounds
from fjx.testing._laws import SIGMAS, attempt, require


class Distributed:
    """A mechanism whose clients add their noise: sums of all clients' codes."""

    def __init__(self, mechanism: DistributedMechanism) -> None:
        self.mechanism = mechanism
        self.d, self.n = mechanism.dimension, mechanism.clients
        self.draws = max(20, min(2000, 2_000_000 // (self.d * self.n)))

    @functools.cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        size = float(self.mechanism.sensitivity("add_or_remove_one")) / (2 * math.sqrt(self.d))
        x = size * np.random.default_rng(0).uniform(-1, 1, self.d).astype(np.float32)
        nan = x.copy()
        nan[self.d // 3] = np.nan
        return {
            "a vector of zeros": np.zeros(self.d, np.float32),
            "a vector within the bound": x,
            "a vector with NaN": nan,
            "a vector of numbers around 1e30": np.float32(1e30) * np.sign(x),
        }

    @functools.cached_property
    def encoded(self) -> dict[str, Any]:
        """Of each vector: the codes of one client, and ``f64[draws, d]``, decoded sums of n clients."""

        def one_round(key: Key, vector: jax.Array) -> tuple[Any, jax.Array]:
            keys = jax.random.split(key, self.n)
            own = jax.vmap(lambda k: self.mechanism.encode(k, vector))(keys)
            total = jnp.sum(own.codes, axis=0, dtype=jnp.uint32) & jnp.uint32(
                2**self.mechanism.bits - 1
            )
            return jax.tree.map(lambda x: x[0], own), self.mechanism.decode(
                total, jnp.int32(self.n)
            )

        keys = jax.random.split(jax.random.key(5), self.draws)

        def rounds(vector: jax.Array) -> Any:
            # One round after another: a round of a hundred clients is large enough.
            return jax.lax.map(lambda key: one_round(key, vector), keys)

        with attempt(
            "vectors under jax.vmap", "encode and decode run inside jax.jit: use jax.numpy"
        ):
            outputs = _laws.numpy(
                _laws.jit(jax.vmap(rounds))(np.stack(list(self.vectors.values())))
            )
        return {given: _laws.row(outputs, i) for i, given in enumerate(self.vectors)}


def codes_have_the_declared_bits(trial: Distributed) -> None:
    """Codes are ``u32[d]`` below 2^bits."""
    for given, (own, _) in trial.encoded.items():
        codes, bits = own.codes, trial.mechanism.bits
        shaped = codes.shape[1:] == (trial.d,) and codes.dtype == np.uint32
        found = (
            f"codes are {codes.dtype}{list(codes.shape[1:])}, up to {codes.max()}, bits = {bits}"
        )
        remedy = "return jnp.uint32 codes modulo 2^bits: codes & (2**bits - 1)"
        require(shaped and int(codes.max()) < 2**bits, given, found, remedy)


def a_broken_vector_sends_noise_alone(trial: Distributed) -> None:
    """A vector with a NaN is reported as not finite, and sends what a vector of zeros sends."""
    given = "a vector with NaN"
    broken, zeros = (trial.encoded[g][0] for g in (given, "a vector of zeros"))
    same = np.array_equal(broken.codes, zeros.codes) and not broken.finite.any()
    found = f"finite is {bool(broken.finite.any())}, other codes than of zeros: {not same}"
    require(same, given, found, "replace the vector by zeros, and add the noise all the same")


def a_sum_decodes_to_the_sum(trial: Distributed) -> None:
    """The decoded sum of n clients is n x on average, up to a tenth of its deviation."""
    given = "a vector within the bound"
    decoded = np.asarray(trial.encoded[given][1], np.float64)
    off = np.abs(decoded.mean(0) - trial.n * trial.vectors[given]).max()
    std = math.sqrt(trial.n * trial.mechanism.variance)
    bound = SIGMAS * np.sqrt(decoded.var(0).max() / trial.draws) + 0.1 * std
    found = f"the mean is off by {off:.4g}; the deviation is {std:.4g}"
    require(off <= bound, given, found, "decode(sum, clients) inverts encode, modulo 2^bits")


def noise_is_as_wide_as_declared(trial: Distributed) -> None:
    """The sum's noise has the variance of all clients together, and at least z C of it is sure."""
    decoded = np.asarray(trial.encoded["a vector of zeros"][1], np.float64)
    squares = (decoded - decoded.mean(0)) ** 2 * trial.draws / (trial.draws - 1)
    error = SIGMAS * squares.std() / math.sqrt(squares.size)
    declared = trial.n * trial.mechanism.variance
    found = f"the variance is {squares.mean():.5g}, and n variance = {declared:.5g}"
    given, remedy = (
        "n vectors of zeros",
        "variance is that of one client's noise, in units of messages",
    )
    require(abs(squares.mean() - declared) <= error + 1e-3 * declared, given, found, remedy)


def is_accounted(trial: Distributed) -> None:
    """Epsilon can be accounted; it is positive, finite where there is noise, and grows with rounds."""
    grows_with_rounds(trial.mechanism)


def an_attack_on_the_sum_finds_no_more_than_epsilon(trial: Distributed) -> None:
    """Tests for one client's data succeed at most as often as epsilon and delta allow.

    As for central mechanisms, on the noise of a coordinate, which the client moves by its share of a
    flat message.
    """
    decoded = np.asarray(trial.encoded["a vector of zeros"][1], np.float64)
    score = decoded.sum(1) / math.sqrt(trial.d)  # the direction of a flat message
    moved = np.asarray(trial.encoded["a vector of numbers around 1e30"][1], np.float64)
    moved = (moved * np.sign(trial.vectors["a vector within the bound"])).sum(1).mean() / trial.n
    for delta in DELTAS:
        epsilon = epsilon_of(trial.mechanism, 1, delta)
        found = attacked(score + moved / math.sqrt(trial.d), score, epsilon, delta)
        require(found is None, f"one client of n, delta = {delta}", found or "", ACCOUNT)


LAWS = (
    codes_have_the_declared_bits,
    a_broken_vector_sends_noise_alone,
    a_sum_decodes_to_the_sum,
    noise_is_as_wide_as_declared,
    is_accounted,
    an_attack_on_the_sum_finds_no_more_than_epsilon,
)
"""Every law of a distributed mechanism, in the order in which they are checked."""
