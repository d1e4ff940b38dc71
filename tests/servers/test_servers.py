"""Server steps worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import Stateful, servers


def test_the_aggregate_message_is_a_descent_and_the_optimiser_sees_its_negative():
    server = servers.from_optax(optax.sgd(0.5, momentum=0.9))
    state = server.init({"w": jnp.array([1.0, 2.0])})
    for _ in range(2):
        state = jax.jit(server.update)(state, {"w": jnp.array([1.0, -1.0])})
    # v_1 = 1, v_2 = 1.9; the model moves by 0.5 (1 + 1.9) along the message.
    np.testing.assert_allclose(server.broadcast(state)["w"], [2.45, 0.55], rtol=1e-6)


def test_integer_leaves_get_the_rounded_message_and_are_hidden_from_the_optimiser():
    server = servers.from_optax(optax.sgd(0.1, momentum=0.9))
    model = {"w": jnp.array([1.0]), "count": jnp.array([5, 5, 5], jnp.int32), "flag": jnp.int32(1)}
    state = server.init(model)
    assert [x.shape for x in jax.tree.leaves(state.optimizer)] == [(1,)]  # momentum of w alone
    message = {
        "w": jnp.array([2.0]),
        "count": jnp.array([1.4, -1.6, 0.0]),
        "flag": jnp.float32(-1.0),
    }
    after = jax.jit(server.update)(state, message).params
    assert after["count"].tolist() == [6, 3, 5]
    assert int(after["flag"]) == 0
    assert after["count"].dtype == jnp.int32
    np.testing.assert_allclose(after["w"], [1.2], rtol=1e-6)


def test_mutable_state_is_added_to_and_not_optimised():
    """Whatever the server's learning rate, running statistics become the clients' mean."""
    server = servers.from_optax(optax.sgd(0.1))
    model = Stateful({"w": jnp.array(1.0)}, {"mean": jnp.array(2.0), "n": jnp.int32(3)})
    message = Stateful({"w": jnp.array(1.0)}, {"mean": jnp.array(0.5), "n": jnp.array(2.0)})
    after = jax.jit(server.update)(server.init(model), message).params
    np.testing.assert_allclose(after.params["w"], 1.1, rtol=1e-6)
    assert float(after.state["mean"]) == 2.5
    assert int(after.state["n"]) == 5


def test_bfloat16_models_keep_their_dtype():
    server = servers.from_optax(optax.sgd(1.0))
    state = server.init({"w": jnp.ones(2, jnp.bfloat16)})
    after = jax.jit(server.update)(state, {"w": jnp.full(2, 0.5)}).params["w"]
    assert after.dtype == jnp.bfloat16
    assert after.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("second_moment", "v"),
    [
        pytest.param(servers.adagrad, [4.01, 0.26], id="adagrad"),
        pytest.param(servers.adam(0.9), [0.409, 0.034], id="adam"),
        # v_{-1} = 0.01 is below Delta^2, so Yogi adds 0.1 Delta^2.
        pytest.param(servers.yogi(0.9), [0.41, 0.035], id="yogi"),
    ],
)
def test_one_adaptive_step_by_hand(second_moment, v):
    """Delta = (2, -0.5), beta_1 = 0.8, tau = 0.1: m = 0.2 Delta; x += m / (sqrt(v) + tau)."""
    rule = servers.adaptive(second_moment, learning_rate=1.0, beta1=0.8, tau=0.1)
    server = servers.from_optax(rule)
    state = jax.jit(server.update)(server.init(jnp.zeros(2)), jnp.array([2.0, -0.5]))
    np.testing.assert_allclose(state.optimizer.v, v, rtol=1e-5)
    np.testing.assert_allclose(state.optimizer.m, [0.4, -0.1], rtol=1e-5)
    expected = np.array([0.4, -0.1]) / (np.sqrt(v) + 0.1)
    np.testing.assert_allclose(state.params, expected, rtol=1e-5)


def test_yogi_comes_down_slower_than_adam():
    """After a large message v falls by a share of the new square, not of v: additive, controlled."""
    yogi, adam = servers.yogi(0.9), servers.adam(0.9)
    np.testing.assert_allclose(yogi(jnp.float32(100.0), jnp.float32(1.0)), 99.9, rtol=1e-6)
    np.testing.assert_allclose(adam(jnp.float32(100.0), jnp.float32(1.0)), 90.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta1": -0.1}, "beta1"),
        ({"tau": 0.0}, "tau"),
    ],
)
def test_adaptive_refuses_numbers_out_of_range(bad, match):
    with pytest.raises(ValueError, match=match):
        servers.adaptive(servers.adagrad, **{"learning_rate": 0.1, **bad})


@pytest.mark.parametrize("rule", [servers.adam, servers.yogi])
def test_second_moments_refuse_decays_out_of_range(rule):
    with pytest.raises(ValueError, match="beta2"):
        rule(1.0)


@pytest.mark.parametrize("make", [servers.from_optax, servers.scaffold])
@pytest.mark.parametrize("wrong", [0.1, optax.sgd, None])
def test_what_is_no_transformation_is_refused(make, wrong):
    with pytest.raises(TypeError, match="optax"):
        make(wrong)


def test_scaffold_moves_model_and_control():
    """Lines 16 and 17: x += eta_g mean(y_i - x); c += (1/N) sum (c_i^+ - c_i), which is its message."""
    server = servers.scaffold(optax.sgd(0.5))
    state = server.init({"w": jnp.zeros(2)})
    message = {"params": {"w": jnp.array([1.0, 2.0])}, "control": {"w": jnp.array([0.3, -0.3])}}
    for _ in range(2):
        state = jax.jit(server.update)(state, message)
    sent = server.broadcast(state)
    np.testing.assert_allclose(sent["params"]["w"], [1.0, 2.0])
    np.testing.assert_allclose(sent["control"]["w"], [0.6, -0.6], rtol=1e-6)


@pytest.mark.parametrize("rule", [servers.adam, servers.yogi])
def test_adaptive_moves_narrow_models_by_arrays_of_hyper_parameters(rule):
    """Moments stay in float32, where squares of small updates do not vanish."""
    number = jnp.float32
    server = servers.from_optax(
        servers.adaptive(
            rule(number(0.9)), learning_rate=number(0.5), beta1=number(0.5), tau=number(1e-3)
        )
    )

    @jax.jit
    def moved(params):
        return server.update(server.init(params), jnp.full_like(params, 2**-9)).params

    narrow, wide = moved(jnp.zeros(3, jnp.bfloat16)), moved(jnp.zeros(3))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, rtol=2**-8)


def test_messages_that_are_not_the_model_s_are_refused():
    server = servers.from_optax(optax.sgd(1.0))
    state = server.init({"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match="aggregate message must have the structure of the model"):
        server.update(state, {"params": {"w": jnp.zeros(2)}, "control": {"w": jnp.zeros(2)}})
    with pytest.raises(ValueError, match=r"at \['w'\] got \[3\], wanted \[2\]"):
        server.update(state, {"w": jnp.zeros(3)})
    scaffold = servers.scaffold(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"which clients\.scaffold sends"):
        scaffold.update(scaffold.init(jnp.zeros(2)), jnp.zeros(2))


def test_a_projected_model_stays_in_its_set():
    """A random half of a difference, twice as large, makes a variance negative; the set does not."""

    def positive(model):
        return model._replace(state=jax.tree.map(lambda x: jnp.maximum(x, 0.0), model.state))

    model = Stateful(jnp.zeros(2), {"var": jnp.ones(3)})
    message = Stateful(jnp.array([-5.0, 1.0]), {"var": jnp.array([-2.0, 0.0, 0.5])})
    server = servers.projected(optax.sgd(0.5), positive)
    state = jax.jit(server.update)(server.init(model), message)
    np.testing.assert_array_equal(state.params.params, [-2.5, 0.5])
    np.testing.assert_array_equal(state.params.state["var"], [0.0, 1.0, 1.5])
    free = servers.from_optax(optax.sgd(0.5))
    assert free.update(free.init(model), message).params.state["var"][0] == -1


@pytest.mark.parametrize(
    "project", [lambda m: m["w"], lambda m: {"w": m["w"].astype(jnp.bfloat16)}]
)
def test_a_projection_keeps_the_form_of_the_model(project):
    server = servers.projected(optax.sgd(0.5), project)
    with pytest.raises(ValueError, match="the projected model must"):
        server.update(server.init({"w": jnp.zeros(2)}), {"w": jnp.ones(2)})
    with pytest.raises(TypeError, match="project must be a function"):
        servers.projected(optax.sgd(0.5), 1.0)
