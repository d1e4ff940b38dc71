"""Algorithms that break one law each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, testing
from fjx.testing import _algorithm

LOSS = testing.linear_regression().loss_fn
SOUND = algorithms.fedsgd(LOSS, learning_rate=0.1, batch_size=2)


def playing(change):
    """The sound algorithm with ``change(inner, key, state, rows, cohort)`` around its round."""

    def play(key, state, rows, cohort, *, executor=None):
        def inner(key, state, rows, cohort):
            return SOUND.round(key, state, rows, cohort, executor=executor)

        return change(inner, key, state, rows, cohort)

    return SOUND._replace(round=play)


def moved(state, by):
    """The state with another bias."""
    server = state.server
    params = {**server.params, "b": server.params["b"] + by}
    return state._replace(server=server._replace(params=params))


def adding(amount):
    """The bias moves by ``amount(key, state, cohort)`` more than it should."""

    def change(inner, key, state, rows, cohort):
        after, rows, metrics = inner(jax.random.clone(key), state, rows, cohort)
        return moved(after, amount(key, state, cohort)), rows, metrics

    return playing(change)


def there(cohort):
    return jnp.sum(cohort.ids < cohort.population).astype(jnp.float32)


def metric_with_axes(inner, key, state, rows, cohort):
    state, rows, metrics = inner(key, state, rows, cohort)
    return state, rows, {**metrics, "loss": jnp.zeros(2)}


def still(inner, key, state, rows, cohort):
    _, rows, metrics = inner(key, state, rows, cohort)
    return state, rows, metrics


def sound_but_uncounted(inner, key, state, rows, cohort):
    state, rows, metrics = inner(key, state, rows, cohort)
    return state, rows, {**metrics, "nonfinite": jnp.zeros((), jnp.int32)}


@jax.custom_batching.custom_vmap
def doubled_in_a_batch(x):
    return x


@doubled_in_a_batch.def_vmap
def _(axis_size, batched, x):
    return 2 * x, True


def chunked_otherwise():
    """With an executor that is given, the bias moves by one more."""

    def play(key, state, rows, cohort, *, executor=None):
        state, rows, metrics = SOUND.round(key, state, rows, cohort, executor=executor)
        return moved(state, 0.0 if executor is None else 1.0), rows, metrics

    return SOUND._replace(round=play)


def weakly():
    """A state whose number of rounds is a Python integer at first."""

    def change(inner, key, state, rows, cohort):
        after, rows, metrics = inner(key, state, rows, cohort)
        return after._replace(round=after.round + jnp.int32(0)), rows, metrics

    return playing(change)._replace(init=lambda params: SOUND.init(params)._replace(round=0))


def called_back(key, state, cohort):
    return jax.pure_callback(
        counter, jax.ShapeDtypeStruct((), jnp.float32), jax.random.key_data(key)
    )


class Counter:
    """A number that goes up when the program runs."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        return np.float32(self.calls)


counter = Counter()


BROKEN = {
    "keeps_the_structure_of_state_and_rows": (
        playing(metric_with_axes),
        "all clients",
        "metric 'loss' has axes",
    ),
    "traffic_is_known_from_shapes": (
        SOUND._replace(traffic=lambda params: (32.0, 32.0)),
        "template",
        "uplink is 32.0",
    ),
    "uses_each_key_once": (
        playing(lambda inner, key, *rest: (*inner(key, *rest)[:2], {"x": jax.random.normal(key)})),
        "jax_debug_key_reuse",
        "KeyReuseError",
    ),
    "a_round_moves_the_model_and_counts": (playing(still), "two rounds", "as before at"),
    "the_order_of_slots_does_not_matter": (
        adding(lambda key, state, cohort: cohort.ids[0].astype(jnp.float32)),
        "in the order",
        "the state has",
    ),
    "a_client_that_drops_out_was_never_invited": (
        adding(lambda key, state, cohort: there(cohort)),
        "one of which drops out",
        "the state has",
    ),
    "an_empty_client_does_not_take_part": (
        adding(lambda key, state, cohort: there(cohort)),
        "without examples",
        "the state has",
    ),
    "an_empty_round_leaves_a_fresh_model": (
        adding(lambda key, state, cohort: jnp.float32(1)),
        "padding alone",
        "the model has",
    ),
    "a_broken_client_is_left_out_and_counted": (
        playing(sound_but_uncounted),
        "nan in its examples",
        "metric nonfinite is 0",
    ),
    "traces_once": (weakly(), "same size", "traced 2 times"),
    "is_a_pure_function": (adding(called_back), "again with the same key", "the state has"),
    "padding_changes_nothing": (
        adding(lambda key, state, cohort: jnp.float32(cohort.ids.shape[0])),
        "three slots of padding",
        "the state has",
    ),
    "chunks_change_nothing": (chunked_otherwise(), "in chunks", "the state has"),
    "vmap_over_seeds_is_a_loop": (
        adding(lambda key, state, cohort: doubled_in_a_batch(jax.random.normal(key))),
        "seed 7 of two",
        "the state has",
    ),
}


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _algorithm.LAWS}


@pytest.mark.few(4)
@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_algorithm_is_found(law):
    algorithm, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.algorithm_laws(algorithm)}
    with jax.debug_key_reuse(False), pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found


def test_too_few_clients_are_refused():
    dataset = fjx.data.from_clients([np.ones((2, 1), np.float32)] * 3)
    with pytest.raises(ValueError, match="at least four clients"):
        testing.algorithm_laws(SOUND, jnp.zeros(1), dataset)
