"""Client updates that break one law each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import clients, data, testing
from fjx.testing import _client

LOSS = testing.linear_regression().loss_fn
SOUND = clients.local_sgd(LOSS, optax.sgd(0.1), epochs=1, batch_size=2)


def changing(change):
    """The sound client with ``change(message, state, metrics, key, broadcast, examples)``."""

    def update(key, broadcast, state, examples, turn):
        trained = SOUND.update(jax.random.clone(key), broadcast, state, examples, turn)
        return change(*trained, key, broadcast, examples)

    return SOUND._replace(update=update)


def sums_everything(message, state, metrics, key, broadcast, examples):
    """It reads the packed arrays instead of its window."""
    total = jnp.sum(examples.arrays["x"])
    return jax.tree.map(lambda x: x + total, message), state, metrics


def mean_of_own(message, state, metrics, key, broadcast, examples):
    """A mean over no examples is NaN."""
    batch, mask = examples.batch(0, 8)
    total = jnp.sum(jnp.where(mask, batch["y"], 0.0))
    return {**message, "b": total / examples.size.astype(jnp.float32)}, state, metrics


@jax.custom_batching.custom_vmap
def doubled_in_a_batch(x):
    return x


@doubled_in_a_batch.def_vmap
def _(axis_size, batched, x):
    return 2 * x, True


BROKEN = {
    "message_is_like_its_template": (
        SOUND._replace(message=lambda params: {"w": params["w"]}),
        "client 0",
        "structure",
    ),
    "keeps_the_structure_of_its_state": (
        SOUND._replace(on_aggregate=lambda aggregate, state, public: aggregate),
        "on_aggregate",
        "structure",
    ),
    "metrics_are_scalars": (
        changing(
            lambda message, state, metrics, key, broadcast, examples: (
                message, state, {**metrics, "rate": 1 / examples.size.astype(jnp.float32)},
            )
        ),
        "with 0 examples",
        "metric 'rate' is inf",
    ),
    "uses_its_own_examples_only": (changing(sums_everything), "client 0", "NaN in all other"),
    "every_client_sends_finite_numbers": (changing(mean_of_own), "with 0 examples", "['b']"),
    "training_moves_something": (
        changing(
            lambda message, state, metrics, *rest: (
                jax.tree.map(jnp.zeros_like, message), state, metrics,
            )
        ),
        "with 7 examples",
        "zeros",
    ),
    "vmap_is_a_loop": (
        changing(
            lambda message, state, metrics, *rest: (
                jax.tree.map(doubled_in_a_batch, message), state, metrics,
            )
        ),
        "with 7 examples",
        "in a batch",
    ),
    "equal_keys_give_equal_messages": (
        changing(
            lambda message, state, metrics, *rest: (
                {**message, "b": message["b"] + np.float32(np.random.default_rng().normal())},
                state, metrics,
            )
        ),
        "two traces of update",
        "different programs",
    ),
    "uses_each_key_once": (
        changing(
            lambda message, state, metrics, key, *rest: (
                {**message, "b": jax.random.normal(key) + jax.random.uniform(key)}, state, metrics,
            )
        ),
        "jax_debug_key_reuse",
        "KeyReuseError",
    ),
}  # fmt: skip


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _client.LAWS}


@pytest.mark.ci
@pytest.mark.few(3)
@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_client_is_found(law):
    client, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.client_laws(client)}
    with jax.debug_key_reuse(False), pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found


def test_a_client_of_one_s_own_passes():
    """One gradient step on all examples, written by hand, on data of another shape."""

    def update(key, broadcast, state, examples, turn):
        def loss(w):
            def add(t, total):
                batch, mask = examples.batch(t, 2)
                return total + jnp.sum(jnp.where(mask, (batch - w) ** 2, 0.0))

            return jax.lax.fori_loop(0, (examples.size + 1) // 2, add, 0.0)

        # A sum over the examples, by forward mode.
        gradient = jax.jacfwd(loss)(broadcast)
        count = jnp.maximum(examples.size, 1).astype(jnp.float32)
        return -0.1 * gradient / count, state, {}

    client = SOUND._replace(update=update, message=lambda params: params)

    own = data.from_clients([np.ones(n, np.float32) * n for n in (2, 0, 3, 1)])
    testing.check_client_update(client, jnp.zeros(()), own)
