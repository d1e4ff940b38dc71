"""Server updates that break one law each."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import ServerUpdate, servers, testing
from fjx.testing import _server

SGD = servers.from_optax(optax.sgd(1.0))


class State(NamedTuple):
    params: Any
    extra: Any


def moving(step, extra=lambda params: ()):
    """A server that moves each leaf to ``step(x, message)``."""

    def update(state, message):
        return state._replace(params=jax.tree.map(step, state.params, message))

    return ServerUpdate(lambda params: State(params, extra(params)), lambda s: s.params, update)


def typed(function):
    return lambda x, m: function(x, m.astype(x.dtype))


@jax.custom_batching.custom_vmap
def doubled_in_a_batch(x):
    return x


@doubled_in_a_batch.def_vmap
def _(axis_size, batched, x):
    return 2 * x, True


BROKEN = {
    "state_has_the_model": (
        SGD._replace(init=lambda params: SGD.init(jax.tree.map(jnp.zeros_like, params))),
        "a model",
        "state.params has other bits",
    ),
    "state_is_made_of_arrays": (
        moving(typed(jnp.add), extra=lambda params: jax.random.key(0)),
        "the fresh state",
        ".extra",
    ),
    "keeps_the_structure_of_its_state": (
        moving(lambda x, m: x.astype(m.dtype) + m),
        "in bfloat16",
        "float32",
    ),
    "an_empty_round_leaves_a_fresh_model": (
        moving(typed(lambda x, m: 0.99 * x + m)),
        "a message of zeros",
        "other bits at ['matrix']",
    ),
    "a_message_moves_the_model": (
        moving(lambda x, m: x),
        "the message of seed 1",
        "as before at ['matrix']",
    ),
    "sound_messages_keep_the_model_finite": (
        moving(typed(lambda x, m: x + m / jnp.sqrt(jnp.sum(m**2)))),
        "a message of zeros",
        "NaN or infinity",
    ),
    "traces_once": (
        SGD._replace(
            init=lambda params: State(params, 0.0),
            update=lambda s, m: State(
                SGD.update(SGD.init(s.params), m).params, s.extra + jnp.float32(1)
            ),
        ),
        "four messages",
        "traced 2 times",
    ),
    "is_a_pure_function": (
        moving(typed(lambda x, m: x + m * jnp.asarray(np.random.default_rng().normal(), m.dtype))),
        "two traces",
        "different programs",
    ),
    "vmap_is_a_loop": (
        moving(typed(lambda x, m: x + doubled_in_a_batch(m))),
        "the message of seed 1",
        "in a batch",
    ),
}


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _server.LAWS}


@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_server_is_found(law):
    server, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.server_laws(server)}
    with pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found
