"""The laws of codecs that are private by themselves."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Key, Tree, TreeLike
from fjx.privacy import LocalMechanism
from fjx.testing import _codec_laws, _codec_trial, _laws
from fjx.testing._attack import DELTAS, attacked, flat
from fjx.testing._laws import attempt, require


class Local(_codec_trial.Trial):
    """A codec that is private by itself, on trial as a codec, and against an attack."""

    def __init__(self, mechanism: LocalMechanism, like: TreeLike) -> None:
        super().__init__(mechanism.codec, like, {})
        self.mechanism = mechanism

    @functools.cached_property
    def scores(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Two messages with opposite signs: how far what is decoded points into the direction of one.

        Noise that hides an L1 norm is weakest in one coordinate, coins for each coordinate in all.
        """
        state, size = self.state, flat(_laws.stack([_laws.zeros(self.like)])).shape[1]
        directions = {
            "one large number": np.eye(1, size, dtype=np.float32)[0],
            "large numbers": np.ones(size, np.float32),
        }

        def score(key: Key, vector: jax.Array, sign: jax.Array) -> jax.Array:
            payload = self.codec.encode(key, self.tree(1e3 * sign * vector), state)[0]
            decoded = [x.reshape(-1) for x in jax.tree.leaves(self.codec.decode(payload))]
            return jnp.sum(jnp.concatenate(decoded).astype(jnp.float32) * vector)

        keys = jax.random.split(jax.random.key(9), (2, 20_000))
        program = _laws.jit(jax.vmap(score, in_axes=(0, None, None)))
        found = {}
        for words, vector in directions.items():
            with attempt(f"messages of {words}, encoded 20000 times", _codec_trial.RUNS):
                high = np.asarray(program(jax.random.clone(keys[0]), vector, jnp.float32(1)))
                low = np.asarray(program(jax.random.clone(keys[1]), vector, jnp.float32(-1)))
            found[words] = high, low
        return found

    def tree(self, vector: jax.Array) -> Tree:
        """A message from all of its coordinates."""
        leaves, treedef = jax.tree.flatten(self.like)
        ends = np.cumsum([math.prod(x.shape) for x in leaves])
        parts = jnp.split(vector, ends[:-1])
        pairs = zip(parts, leaves, strict=True)
        return treedef.unflatten([part.reshape(x.shape).astype(x.dtype) for part, x in pairs])


def a_broken_message_is_sent_as_a_sound_one(trial: Local) -> None:
    """A message with a NaN or an infinity decodes to finite numbers: that it is broken is private.

    This is the opposite of what other codecs do.
    """
    for name in trial.tried:
        for word in ("NaN", "+inf", "-inf"):
            given = _codec_trial.bad(word, name)
            finite = all(np.isfinite(x).all() for _, x in _laws.floats(trial.received(given)))
            require(
                finite, given, "it decodes to NaN or infinity", "bound the message with a Bound"
            )


def an_attack_on_a_message_finds_no_more_than_epsilon(trial: Local) -> None:
    """Tests between two messages succeed at most as often as epsilon, or the event, allows."""
    remedy = "noise of a message hides the difference of any two: 2 C, not C"
    for delta in (0.0,) if math.isfinite(trial.mechanism.epsilon) else DELTAS:
        epsilon = trial.mechanism.epsilon if delta == 0 else _of_event(trial.mechanism, delta)
        for words, (high, low) in trial.scores.items():
            found = attacked(high, low, epsilon, delta)
            given = f"messages of {words}, with opposite signs, delta = {delta}"
            require(found is None, given, found or "", remedy)


def event_costs_no_less_than_epsilon_says(trial: Local) -> None:
    """``event`` can be accounted, and ``epsilon`` is positive."""
    epsilon, of_event = trial.mechanism.epsilon, _of_event(trial.mechanism, 1e-3)
    found = f"epsilon = {epsilon:.4g}, and the event gives {of_event:.4g} at delta = 1e-3"
    remedy = (
        "event() is one message, between any two; epsilon holds for delta = 0, and is inf otherwise"
    )
    require(0 < of_event < math.inf and epsilon > 0, "one message", found, remedy)


def _of_event(mechanism: LocalMechanism, delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    with attempt(f"one message, delta = {delta}", "event() returns a DpEvent of dp-accounting"):
        relation = dp_accounting.NeighboringRelation.REPLACE_ONE
        accountant = RdpAccountant(neighboring_relation=relation)
        return float(accountant.compose(mechanism.event()).get_epsilon(delta))


LAWS = (
    _codec_laws.keeps_structure_and_dtypes,
    _codec_laws.keeps_the_structure_of_its_state,
    _codec_laws.uses_each_key_once,
    _codec_laws.sound_messages_stay_finite,
    _codec_laws.decodes_from_the_bytes_alone,
    _codec_laws.costs_the_bits_of_its_bytes,
    _codec_laws.is_a_pure_function,
    a_broken_message_is_sent_as_a_sound_one,
    event_costs_no_less_than_epsilon_says,
    an_attack_on_a_message_finds_no_more_than_epsilon,
)
"""Every law of a local mechanism, in the order in which they are checked."""
