"""Private leaves stay on their client: nobody sends, noises or bills them, and no codec sees them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import Stateful, aggregators, algorithms, clients, compressors, privacy, rounds, servers
from tests.support import tables

WIDE = 13  # no other axis has this length
PARAMS = {"body": jnp.linspace(-1.0, 1.0, 4), "head": {"kernel": jnp.ones((4, WIDE))}}
LOCAL = {"client_lr": 0.1, "batch_size": 2}
STATEFUL = Stateful(tables.weights(), {"mean": jnp.zeros(4), "batches": jnp.int32(0)})


def loss_fn(params, batch, key):
    features = batch["x"] * params["body"][None]
    return jnp.mean((jnp.mean(features @ params["head"]["kernel"], axis=1) - batch["y"]) ** 2)


def parts(pattern, **others):
    client = clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2)
    return rounds.private_leaves(
        client=client, server=others.pop("server", optax.sgd(1.0)), pattern=pattern
    )


NOISED = aggregators.private(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), denominator=3)
FEEDBACK = compressors.error_feedback(
    compressors.chain(compressors.top_k(0.5), compressors.quantize(bits=8))
)

COMPOSED = {
    "codec with memory": {"uplink": FEEDBACK},
    "downlink": {"downlink": FEEDBACK},
    "noise": {"aggregator": NOISED},
    "one vector": {"aggregator": aggregators.as_vector(aggregators.rotated(aggregators.mean()))},
    "stacked": {"aggregator": aggregators.median()},
    "adaptive server": {"server": servers.adaptive(servers.adam(0.99), learning_rate=0.1)},
}


@pytest.mark.parametrize("name", COMPOSED)
def test_only_the_state_of_a_client_has_private_leaves(name):
    """By shapes: the server holds them once, as they were at first, and the table for each client."""
    others = dict(COMPOSED[name])
    ends = parts("^head/", **others)
    others.pop("server", None)
    algorithm = fjx.compose(**ends, **others)
    state = jax.eval_shape(algorithm.init, PARAMS)
    row = jax.eval_shape(algorithm.init_client, PARAMS)

    def private(tree):
        return sum(WIDE in leaf.shape for leaf in jax.tree.leaves(tree))

    assert private(state) == 1
    assert private(state.server.first) == 1
    assert private(row) == 1
    assert private(row.client.own) == 1
    whole = fjx.compose(
        client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2), **others
    )
    less, more = algorithm.traffic(PARAMS), whole.traffic(PARAMS)
    assert less.uplink < more.uplink / 3
    assert less.downlink < more.downlink / 3


def test_the_bill_is_that_of_the_shared_leaves():
    assert fjx.compose(**parts("^head/")).traffic(PARAMS) == (128, 128)


def test_fedbn_is_a_word_of_the_pattern_of_fedrep():
    """Which leaves stay on a client is the pattern's business alone."""
    model = Stateful(
        {"conv": jnp.zeros(3), "BatchNorm_0": {"scale": jnp.ones(2)}, "head": jnp.zeros(5)},
        {"batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(2)}}},
    )
    loss = clients.whole_batch(lambda model, x, mask, key: (0.0, {}, model.state))
    kept = {
        name: sorted(
            fjx._tree.name_of(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(
                jax.eval_shape(algorithm.init_client, model).client.own
            )
        )
        for name, algorithm in {
            "fedrep": algorithms.fedrep(loss, pattern="^params/head", **LOCAL),
            "fedbn": algorithms.fedbn(loss, **LOCAL),
            "both": algorithms.fedrep(loss, pattern="^params/head|BatchNorm", **LOCAL),
        }.items()
    }
    norms = ["params/BatchNorm_0/scale", "state/batch_stats/BatchNorm_0/mean"]
    assert kept == {
        "fedrep": ["params/head"],
        "fedbn": norms,
        "both": ["params/BatchNorm_0/scale", "params/head", "state/batch_stats/BatchNorm_0/mean"],
    }


def test_nothing_private_is_the_algorithm_itself():
    client = clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2)
    server = servers.from_optax(optax.sgd(1.0))
    ends = rounds.private_leaves(client=client, server=server, pattern=None)
    assert ends["client"] is client
    assert ends["server"] is server


def test_noise_may_be_added_if_the_mutable_state_is_private():
    """Noise makes a running variance negative; one that is not sent has none."""
    loss = clients.whole_batch(tables.centred_error)
    with pytest.raises(TypeError, match="without mutable state"):
        algorithms.fedavg(loss, aggregator=NOISED, **LOCAL).init(STATEFUL)
    state = algorithms.fedbn(loss, pattern="^state", aggregator=NOISED, **LOCAL).init(STATEFUL)
    np.testing.assert_array_equal(state.params.state["mean"], np.zeros(4))


def test_a_client_uses_shared_leaves_of_the_server_and_its_own():
    algorithm = fjx.compose(**parts("^head/"))
    state = algorithm.init(PARAMS)
    row = algorithm.init_client(jax.tree.map(lambda x: 2 * x, PARAMS))
    model = algorithm.model_of(state, row)
    np.testing.assert_array_equal(model["body"], PARAMS["body"])
    np.testing.assert_array_equal(model["head"]["kernel"], 2 * PARAMS["head"]["kernel"])


def test_frozen_and_private_leaves_compose():
    """Frozen leaves are in nobody's state; the model of a client has all three kinds."""
    params = {**PARAMS, "table": jnp.arange(3)}
    algorithm = rounds.frozen(
        lambda params, batch, key: loss_fn(params, batch, key),
        lambda loss: algorithms.fedper(loss, pattern="^head/", **LOCAL),
        pattern="^table$",
    )
    row = algorithm.init_client(params)
    model = algorithm.model_of(algorithm.init(params), row)
    assert jax.tree.structure(model) == jax.tree.structure(params)
    assert algorithm.traffic(params) == (128, 128)
    assert len(jax.tree.leaves(row)) == 1


@pytest.mark.parametrize("recipe", [algorithms.fedper, algorithms.fedrep, algorithms.lg_fedavg])
def test_patterns_that_are_refused(recipe):
    algorithm = recipe(loss_fn, pattern="^tail", **LOCAL)
    for function in (algorithm.init, algorithm.init_client, algorithm.traffic):
        with pytest.raises(ValueError, match=r"'\^tail' matches no leaf among .*head/kernel"):
            function(PARAMS)
    with pytest.raises(ValueError, match=r"matches every floating parameter .* left to share"):
        recipe(loss_fn, pattern="", **LOCAL).init(PARAMS)
    with pytest.raises(re.error):
        recipe(loss_fn, pattern="(", **LOCAL)
    with pytest.raises(ValueError, match="matches no leaf"):
        algorithms.fedbn(loss_fn, **LOCAL).init(PARAMS)


def test_a_client_that_hears_of_its_message_is_refused():
    client = clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2)
    hears = client._replace(on_sent=lambda received, state, public: state)
    with pytest.raises(ValueError, match="no on_sent and no on_aggregate"):
        rounds.private_leaves(client=hears, server=optax.sgd(1.0), pattern="^head/")
