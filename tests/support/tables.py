"""The tables over which laws are run.  A new codec, aggregator or recipe adds a row here."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import (
    Stateful,
    _tree,
    aggregators,
    algorithms,
    clients,
    compose,
    compressors,
    data,
    privacy,
    rounds,
    samplers,
    servers,
)

c = compressors


DEFAULT, CI, SLOW = (), pytest.mark.ci, pytest.mark.slow
"""When a row of a law runs; see CONTRIBUTING.md."""


def tier(name, default, ci=()):
    """Tier of a row: by default, in CI, or with the slow evidence."""
    return DEFAULT if name in default else CI if name in ci else SLOW


def rows(table, default, ci=()):
    """A law over a table, by name."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=tier(name, default, ci)) for name in table]
    )


def cases(laws, tier=lambda name, law: DEFAULT):
    """A test for each row and law.

    Args:
        laws: for each row by name, its laws by name.
        tier: ``(row, law) -> DEFAULT, CI or SLOW``.
    """
    return pytest.mark.parametrize(
        ("name", "law"),
        [
            pytest.param(name, law, id=f"{name}-{law}", marks=tier(name, law))
            for name, its in laws.items()
            for law in its
        ],
    )


def _is_large(key, message):
    """Whether the squared norm of a message is above 80."""
    parts = [x.astype(jnp.float32) for x in jax.tree.leaves(message) if x.dtype != jnp.int32]
    return sum((jnp.sum(x**2) for x in parts), jnp.zeros((), jnp.float32)) > 80


COMPRESSORS = {
    "identity": c.identity(),
    "bfloat16": c.cast(jnp.bfloat16),
    "float16": c.cast(jnp.float16),
    "float8_e4m3fn": c.cast(jnp.float8_e4m3fn),
    "float8_e5m2": c.cast(jnp.float8_e5m2),
    "quantize_2": c.quantize(bits=2),
    "quantize_5": c.quantize(bits=5),
    "quantize_8": c.quantize(bits=8),
    "quantize_12": c.quantize(bits=12),
    "qsgd": c.qsgd(levels=5),
    "absmax": c.absmax(bits=4),
    "fixed_step": c.fixed_step(0.25),
    "k_level": c.k_level(levels=5),
    "subtractive_dither": c.subtractive_dither(bits=4),
    "terngrad": c.terngrad(),
    "mx": c.mx(jnp.float4_e2m1fn),
    "stochastic_cast": c.stochastic_cast(jnp.float8_e5m2),
    "product_quantize": c.product_quantize(codebook=4, block=2),
    "natural": c.natural(),
    "natural_dithering": c.natural_dithering(levels=3),
    "scaled_sign": c.scaled_sign(),
    "one_bit_sgd": c.one_bit_sgd(),
    "top_k": c.top_k(0.25),
    "rand_k": c.rand_k(0.25),
    "importance_sampling": c.importance_sampling(0.25),
    "rand_p": c.rand_p(0.25),
    "bernoulli": c.bernoulli(0.5),
    "stc": c.stc(0.25),
    "threshold": c.threshold(0.5),
    "power_sgd": c.power_sgd(1),
    "count_sketch": c.count_sketch(rows=1, columns=8),
    "random_projection": c.random_projection(0.5),
    "rotated_quantize": c.rotated(c.quantize(bits=4)),
    "rotated_in_blocks": c.rotated(c.quantize(bits=4), block=8),
    "lloyd_max": c.lloyd_max(bits=3),
    "drive": c.drive(),
    "eden": c.eden(bits=3),
    "eden_mixed": c.eden(bits=1.5, block=16),
    "kashin": c.kashin(bits=4),
    "quic_fl": c.quic_fl(bits=2),
    "chain_top_k_quantize": c.chain(c.top_k(0.25), c.quantize(bits=8)),
    "chain_rand_k_quantize": c.chain(c.rand_k(0.5), c.quantize(bits=4)),
    "chain_top_k_bfloat16": c.chain(c.top_k(0.25), c.cast(jnp.bfloat16)),
    "chain_quantize_twice": c.chain(c.quantize(bits=4), c.quantize(bits=4)),
    "chain_top_k_twice": c.chain(c.top_k(0.5), c.top_k(0.5)),
    "chain_of_nothing": c.chain(),
    "flatten_top_k": c.flatten(c.top_k(0.25)),
    "per_leaf_flatten": c.per_leaf(c.flatten(c.quantize(bits=8))),
    "blockwise": c.blockwise(c.chain(c.top_k(0.5), c.qsgd(levels=7)), size=4),
    "on_matrix": c.on("matrix", c.quantize(bits=8)),
    "chain_on_flatten": c.chain(c.on("matrix", c.top_k(0.5)), c.flatten(c.quantize(bits=8))),
    "scaled": c.scaled(c.rand_k(0.25), 0.25),
    "induced": c.induced(c.top_k(0.25), c.quantize(bits=3)),
    "repeat": c.repeat(c.scaled_sign(), times=2),
    "entropy": c.entropy(c.chain(c.top_k(0.25), c.qsgd(levels=3)), "golomb"),
    "mixture": c.mixture(c.quantize(bits=2), c.natural(), probabilities=(0.5, 0.5)),
    "switch": c.switch(_is_large, c.quantize(bits=4), c.natural()),
    "momentum_correction": c.momentum_correction(c.top_k(0.25)),
    "error_feedback": c.error_feedback(c.chain(c.top_k(0.25), c.quantize(bits=8))),
    "shifted": c.shifted(c.quantize(bits=4), lam=0.5),
}
"""Every public compressor, and the compositions in which something could go wrong."""

LEVELS = {
    "quantize_2": 3,
    "quantize_5": 31,
    "qsgd": 11,
    "absmax": 15,
    "k_level": 5,
    "terngrad": 3,
    "product_quantize": 8,
    "natural_dithering": 7,
    "scaled_sign": 2,
    "one_bit_sgd": 2,
    "lloyd_max": 8,
}
"""How many values a leaf may decode to, of quantisers of single coordinates with few levels."""


def message(seed: int = 0, dtype: jnp.dtype = jnp.float32) -> dict:
    """A message with every kind of leaf: 2^m and 2^m + 1 coordinates, one, none, integers, nested."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "matrix": jax.random.normal(keys[0], (8, 8)).astype(dtype),
        "nested": {"vector": jax.random.normal(keys[1], (17,)).astype(dtype)},
        "scalar": jax.random.normal(keys[2], ()).astype(dtype),
        "empty": jnp.zeros((0, 3), dtype),
        "count": jnp.array([3, -4], jnp.int32),
    }


SAMPLERS = {
    "uniform": samplers.uniform(4),
    "poisson": samplers.poisson(0.3),
    "poisson_rare": samplers.poisson(0.05),
    "poisson_certain": samplers.poisson(1.0),
    "poisson_capped": samplers.poisson(0.5, cap=4),
    "full": samplers.full(),
    "clustered": samplers.clustered([0, 1, 1, 0, 2, 2, 1, 0, 2, 2], each=2),
    "cyclic": samplers.cyclic(3),
    "cyclic_poisson": samplers.cyclic_poisson(3, rate=0.4),
    "balls_in_bins": samplers.balls_in_bins(3),
    "min_separation": samplers.min_separation(3, period=5),
    "random_check_in": samplers.random_check_in(3, window=4),
    "available": samplers.available(
        lambda key, round, n: jax.random.bernoulli(jax.random.fold_in(key, round), 0.5, (n,)),
        3,
        separation=2,
    ),
    "dropout": samplers.dropout(samplers.poisson(0.5, cap=4), 0.3),
}
"""Every public sampler, for ten clients."""

_model = {
    "w": jax.ShapeDtypeStruct((3, 2), jnp.float32),
    "b": jax.ShapeDtypeStruct((), jnp.float32),
}

SERVERS = {
    "sgd": (servers.from_optax(optax.sgd(0.5, momentum=0.9)),),
    "adam": (servers.from_optax(servers.adaptive(servers.adam(0.99), learning_rate=0.1)),),
    "adagrad": (servers.from_optax(servers.adaptive(servers.adagrad, learning_rate=0.1)),),
    "yogi": (servers.from_optax(servers.adaptive(servers.yogi(0.99), learning_rate=0.1)),),
    "projected": (
        servers.projected(optax.sgd(0.5), lambda m: jax.tree.map(lambda x: jnp.clip(x, -99, 99), m)),
    ),
    "mapped": (servers.mapped(lambda m: jax.tree.map(lambda x: x / 2, m), optax.sgd(0.5)),),
    "scaffold": (
        servers.scaffold(optax.sgd(1.0)), _model, {"params": _model, "control": _model},
    ),
}  # fmt: skip
"""Every public server, and the templates of its model and its message where it needs others."""

_clipped_and_noised = {"clip_norm": 1.0, "noise_multiplier": 1.0}
_shared = {**_clipped_and_noised, "granularity": 0.05, "bits": 16, "clients": 6, "dimension": 16}

MECHANISMS = {
    "gaussian": privacy.gaussian(**_clipped_and_noised),
    "laplace": privacy.laplace(clip_norm=2.0, noise_multiplier=1.0),
    "discrete_gaussian": privacy.discrete_gaussian(
        **_clipped_and_noised, granularity=2.0**-8, dimension=17
    ),
    "adaptive_gaussian": privacy.adaptive_gaussian(
        initial_clip=0.5, noise_multiplier=1.0, cohort_size=20
    ),
    "bounds": privacy.gaussian(
        clip_norm=privacy.zeroed(
            privacy.weighted(
                privacy.grouped({"matrix": privacy.normalized(0.5), "vector": 1.0}), most=2.0
            ),
            above=9.0,
        ),
        noise_multiplier=1.0,
    ),
    "tree": privacy.correlated(privacy.tree(4), **_clipped_and_noised),
    "honaker_tree": privacy.correlated(privacy.honaker_tree(4), **_clipped_and_noised),
    "toeplitz": privacy.correlated(privacy.toeplitz([1.0, 0.5]), **_clipped_and_noised),
    "buffered_toeplitz": privacy.correlated(
        privacy.buffered_toeplitz([0.3, 0.1], [0.9, 0.5]), **_clipped_and_noised
    ),
    "distributed_gaussian": privacy.distributed_gaussian(**_shared),
    "distributed_skellam": privacy.distributed_skellam(**_shared),
    "poisson_binomial": privacy.poisson_binomial(
        bound=1.0, theta=0.25, trials=15, clients=6, dimension=4
    ),
    "local_gaussian": privacy.local_gaussian(**_clipped_and_noised),
    "local_laplace": privacy.local_laplace(epsilon=2.0, clip_norm=1.0),
    "priv_unit": privacy.priv_unit(epsilon=3.0, clip_norm=1.0),
    "randomized_response": privacy.randomized_response(
        4, epsilon=20.0, low=-1.0, high=1.0, coordinates=17
    ),
}
"""Every public mechanism, central, distributed and local, and every bound and strategy in one."""

_normal = np.random.default_rng(0).normal
_choices = np.array([2, 0, 1, 2, 1], np.uint8)
_pairs = _normal(size=(5, 2)).astype(np.float32)


def _expanded(choice, coordinates, like):
    """Two coordinates of six, from twice the choice on."""
    return (
        jnp.zeros(6, coordinates.dtype)
        .at[2 * choice.astype(jnp.int32) + jnp.arange(2)]
        .set(coordinates)
    )


def _held(choice, like):
    """The first two, four or all of six coordinates."""
    return jnp.arange(6) < 2 * (choice.astype(jnp.int32) + 1)


_six = jax.ShapeDtypeStruct((6,), jnp.float32)
_structured = {
    "update": jax.vmap(_expanded, in_axes=(0, 0, None))(_choices, _pairs, None),
    "coordinates": _pairs,
    "choice": _choices,
}
_told = {
    "update": _normal(size=(5, 6)).astype(np.float32),
    "loss": _normal(size=5).astype(np.float32),
}
_submodels = {
    "update": _normal(size=(5, 6)).astype(np.float32)
    * np.asarray(jax.vmap(_held, (0, None))(_choices, None)),
    "choice": _choices,
}

AGGREGATORS = {
    "mean": (aggregators.mean(), {}),
    "uniform_mean": (aggregators.uniform(aggregators.mean()), {}),
    "scaled_sum": (aggregators.scaled_sum(7.0), {}),
    "median": (aggregators.median(), {}),
    "trimmed_mean": (aggregators.trimmed_mean(1), {}),
    "mean_around_median": (aggregators.mean_around_median(1), {}),
    "krum": (aggregators.krum(1), {}),
    "multi_krum": (aggregators.multi_krum(1), {}),
    "geometric_median": (aggregators.geometric_median(), {}),
    "nearest_neighbour_mixing": (
        aggregators.nearest_neighbour_mixing(aggregators.trimmed_mean(1), 1),
        {},
    ),
    "bucketing": (aggregators.bucketing(aggregators.mean(), 2), {}),
    "bulyan": (aggregators.bulyan(0), {}),
    "mda": (aggregators.mda(1), {}),
    "smea": (aggregators.smea(1), {}),
    "autogm": (aggregators.autogm(), {}),
    "caf": (aggregators.caf(1), {}),
    "dnc": (aggregators.dnc(1), {}),
    "sign_guard": (aggregators.sign_guard(), {}),
    "centered_clipping": (aggregators.centered_clipping(1.0, iterations=2), {}),
    "adaptive_clipping": (aggregators.adaptive_clipping(aggregators.median(), 1), {}),
    "norm_bounding": (aggregators.norm_bounding(aggregators.mean(), 1.0), {}),
    "fltrust": (
        # The server's message is the state, which a recipe sets.
        aggregators.fltrust()._replace(
            init=lambda like: jax.tree.map(jnp.ones_like, _tree.wide_zeros_like(like))
        ),
        {},
    ),
    "majority_vote": (aggregators.majority_vote(), {}),
    "per_field": (
        aggregators.per_field(a=aggregators.mean(), b=aggregators.uniform(aggregators.mean())),
        {},
    ),
    "private": (
        aggregators.private(
            privacy.adaptive_gaussian(initial_clip=1.0, noise_multiplier=0.0, cohort_size=4),
            denominator=4,
        ),
        {},
    ),
    "private_with_noise": (
        aggregators.private(privacy.gaussian(**_clipped_and_noised), denominator=4),
        {},
    ),
    "distributed": (
        aggregators.distributed(privacy.distributed_gaussian(**_shared, dropped=2), 5.0),
        {},
    ),
    "integer_mean": (aggregators.integer_mean(0.1, bits=8, clients=5), {}),
    "correlated_quantization": (
        aggregators.correlated_quantization(5, low=-3.0, high=3.0),
        {},
    ),
    "perm_k": (aggregators.perm_k(5), {}),
    "shared_rand_k": (aggregators.shared_rand_k(0.5), {}),
    "rotated": (aggregators.rotated(aggregators.compressed(c.quantize(bits=4))), {}),
    "compressed": (aggregators.compressed(c.chain(c.top_k(0.5), c.quantize(bits=8))), {}),
    "sketched": (aggregators.sketched(rows=1, columns=16), {}),
    "fetch_sgd": (aggregators.fetch_sgd(0.5, rows=1, columns=16), {}),
    "assigned_mean": (aggregators.assigned_mean(clients=5, owners=3), {}),
    "structured_mean": (
        aggregators.structured_mean(_expanded),
        {"messages": _structured, "result": _six},
    ),
    "submodel_mean": (
        aggregators.submodel_mean(_held),
        {"messages": _submodels, "result": _six},
    ),
    "grouped": (
        aggregators.grouped(aggregators.mean(), 2),
        {
            "messages": {"update": _pairs, "group": np.array([0, 1, 1, 0, 1], np.uint8)},
            "result": jax.ShapeDtypeStruct((2, 2), jnp.float32),
        },
    ),
    "weighted_sum": (aggregators.weighted_sum(7.0), {}),
    "counted": (
        aggregators.counted(aggregators.mean()),
        {
            "messages": _told["update"],
            "result": {"aggregate": _six, "participants": jax.ShapeDtypeStruct((), jnp.float32)},
        },
    ),
    "reweighted": (
        aggregators.reweighted(lambda x, w, state: (w * jnp.exp(x["loss"]), state)),
        {"messages": _told, "result": _six},
    ),
    "as_vector": (aggregators.as_vector(aggregators.mean()), {}),
    "around": (
        aggregators.around(
            aggregators.mean(),
            before=lambda x, public: jax.tree.map(lambda leaf: 2 * leaf, x),
            after=lambda x, public: jax.tree.map(lambda leaf: leaf / 2, x),
        ),
        {},
    ),
    "switch": (
        aggregators.switch(
            lambda public: public.round % 2, aggregators.mean(), aggregators.scaled_sum(10.0)
        ),
        {},
    ),
}
"""Every public aggregator, and the messages and the result of those whose messages have a form."""


SIZES = (3, 5, 0, 7, 2, 1)
"""Examples of each client of :func:`federated`: ragged, one empty, one with a single example."""


def federated(broken: int | None = None, value: float = np.nan) -> data.FederatedData:
    """Linear regression on ragged clients; the features of client ``broken`` are ``value``."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 4)).astype(np.float32) for n in SIZES]
    y = [(a @ rng.normal(size=4) + 1).astype(np.float32) for a in x]
    if broken is not None:
        x[broken] = np.full_like(x[broken], value)
    return data.from_clients([{"x": a, "y": b} for a, b in zip(x, y, strict=True)])


def weights() -> dict:
    """A linear model."""
    return {"w": jnp.linspace(-1.0, 1.0, 4), "b": jnp.zeros(())}


def squared_error(model, batch, key):
    """Half the mean squared error, and a random slope that a client's key decides."""
    error = batch["x"] @ model["w"] + model["b"] - batch["y"]
    slope = 0.1 * jax.random.normal(key) * jnp.sum(model["w"])
    return jnp.mean(error**2) / 2 + slope, {"absolute": jnp.mean(jnp.abs(error))}


def centred_error(model, batch, mask, key):
    """The error with features centred by the batch's mean; the state is its running mean."""
    count = jnp.maximum(jnp.sum(mask, dtype=batch["x"].dtype), 1.0)
    mean = jnp.sum(jnp.where(mask[:, None], batch["x"], 0.0), axis=0) / count
    error = (batch["x"] - mean[None]) @ model.params["w"] + model.params["b"] - batch["y"]
    state = {"mean": 0.9 * model.state["mean"] + 0.1 * mean, "batches": model.state["batches"] + 1}
    return jnp.sum(jnp.where(mask, error**2, 0.0)) / (2 * count), {}, state


def _ring(n):
    """Each of n clients mixes with its two neighbours."""
    return (np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)) / 3


def integer_leaves() -> dict:
    """A linear model beside a table of integers that no gradient moves."""
    return {**weights(), "table": jnp.array([3, 1, 2], jnp.int32)}


N = len(SIZES)
_local = {"client_lr": 0.05, "batch_size": 2, "epochs": 2}
_step = {"learning_rate": 0.1, "batch_size": 2}
_memory = {"num_clients": N, **_step}
_local_sgd = clients.local_sgd(squared_error, optax.sgd(0.05), epochs=2, batch_size=2)
_feedback = c.error_feedback(c.chain(c.top_k(0.5), c.quantize(bits=8)))
_TOP, _RAND, _FINE = c.top_k(0.5), c.rand_k(0.5), c.quantize(bits=8)


def _sgd(loss):
    return clients.local_sgd(loss, optax.sgd(0.05), epochs=2, batch_size=2)


def _per_example(model, batch, key):
    return jnp.mean((batch["x"] @ model["w"] + model["b"] - batch["y"]) ** 2) / 2


def _matrix_error(model, batch, key):
    """The loss of a model with a matrix, whose rows are added up."""
    summed = {"w": jnp.sum(model["w"], axis=1), "b": model["b"]}
    return squared_error(summed, batch, key)


def _features(model, batch):
    """Two features of each example."""
    return batch["x"].reshape(-1, 2, 2) @ model["w"].reshape(2, 2)[0] + model["b"]


_sgd_lr = optax.sgd(0.05)
_axes = {"w": ("features",), "b": ()}

CLIENTS = {
    "local_sgd": (_local_sgd, {}),
    "gradient": (clients.gradient(squared_error, batch_size=2), {}),
    "averaged": (clients.averaged(clients.gradient(squared_error, batch_size=2), eta=0.5), {}),
    "by_round": (
        clients.by_round(
            lambda round: clients.scaffold(
                squared_error, learning_rate=0.05 * 0.9**round, epochs=2, batch_size=2
            )
        ),
        {"broadcast": {"params": weights(), "control": weights()}},
    ),
    "proximal": (
        clients.local_sgd(
            clients.per_example(squared_error),
            optax.chain(clients.proximal(1.0), optax.sgd(0.05)),
            steps=3,
            batch_size=2,
        ),
        {},
    ),
    "whole_batch": (
        _sgd(clients.whole_batch(centred_error)),
        {"params": Stateful(weights(), {"mean": jnp.zeros(4), "batches": jnp.int32(0)})},
    ),
    "dp_sgd": (
        clients.dp_sgd(
            _per_example,
            optax.sgd(0.05),
            clip_norm=1.0,
            noise_multiplier=0.5,
            sampling_rate=0.5,
            steps=2,
            batch_size=2,
            capacity=8,
        ),
        {},
    ),
    "scaffold": (
        clients.scaffold(squared_error, learning_rate=0.05, epochs=2, batch_size=2),
        {"broadcast": {"params": weights(), "control": weights()}},
    ),
    "contrastive": (
        clients.contrastive(
            squared_error, _sgd_lr, features=_features, mu=1.0, epochs=2, batch_size=2
        ),
        {},
    ),
    "dual": (clients.dual(squared_error, _sgd_lr, rho=1.0, epochs=2, batch_size=2), {}),
    "telling": (
        clients.telling(
            _local_sgd,
            lambda done: (
                done.update,
                {
                    "loss": clients.mean_loss(squared_error, batch_size=2)(
                        done.key, done.broadcast, done.examples
                    ),
                    "norm": clients.gradient_norm(squared_error, batch_size=2)(
                        jax.random.clone(done.key), done.broadcast, done.examples
                    ),
                },
            ),
            loss=jnp.float32,
            norm=jnp.float32,
        ),
        {},
    ),
    "sharpness_aware": (_sgd(clients.sharpness_aware(squared_error, rho=0.1)), {}),
    "structured_random_mask": (
        clients.structured(squared_error, _sgd, subspace=clients.random_mask(0.5)),
        {},
    ),
    "structured_low_rank": (
        clients.structured(squared_error, _sgd, subspace=clients.random_low_rank(1)),
        {},
    ),
    "structured_fixed_mask": (
        clients.structured(
            squared_error,
            _sgd,
            subspace=clients.fixed_mask({"w": np.array([True, False, True, False]), "b": np.True_}),
        ),
        {},
    ),
    "submodel_ordered_dropout": (
        clients.submodel(
            squared_error, _sgd, axes=_axes, units=clients.ordered_dropout([0.5, 1.0])
        ),
        {},
    ),
    "submodel_federated_dropout": (
        clients.submodel(squared_error, _sgd, axes=_axes, units=clients.federated_dropout(0.5)),
        {},
    ),
}
"""Every public client update, and the model and the broadcast of those that need others."""


class _Phases(NamedTuple):
    """A step in two rounds: how large gradients are, and then the step."""

    params: Any
    size: Any


_descent = clients.gradient(squared_error, batch_size=2)


def _ask(key, state, memory, examples, turn):
    message, _, metrics = _descent.update(key, state.params, (), examples, turn)
    squares = [jnp.sum(x**2).astype(jnp.float32) for x in jax.tree.leaves(message)]
    return sum(squares, jnp.zeros((), jnp.float32)), memory, metrics


def _move(key, state, memory, examples, turn):
    message, _, metrics = _descent.update(key, state.params, (), examples, turn)
    return message, memory, metrics


def _scalar(params):
    return jax.ShapeDtypeStruct((), jnp.float32)


def _stepped(state, message):
    moved = jax.tree.map(
        lambda x, m: x + 0.1 * m / (1 + state.size).astype(m.dtype), state.params, message
    )
    return state._replace(params=moved)


RECIPES = {
    # Averaging.
    "fedsgd": partial(algorithms.fedsgd, squared_error, **_step),
    "fedavg": partial(algorithms.fedavg, squared_error, **_local),
    "fedavgm": partial(algorithms.fedavgm, squared_error, **_local),
    "fedprox": partial(algorithms.fedprox, squared_error, mu=1.0, **_local),
    "fedadam": partial(algorithms.fedadam, squared_error, **_local, server_lr=0.1),
    "fedadagrad": partial(algorithms.fedadagrad, squared_error, **_local, server_lr=0.1),
    "fedyogi": partial(algorithms.fedyogi, squared_error, **_local, server_lr=0.1),
    "fednova": partial(algorithms.fednova, squared_error, **_local),
    "fedshuffle": partial(algorithms.fedshuffle, squared_error, **_local),
    "fedexp": partial(algorithms.fedexp, squared_error, **_local),
    "fedsam": partial(algorithms.fedsam, squared_error, rho=0.1, **_local),
    "fedprox_adaptive": partial(algorithms.fedprox_adaptive, squared_error, mu=1.0, **_local),
    "power_of_choice": partial(algorithms.power_of_choice, squared_error, cohort_size=N, **_local),
    # Fair.
    "qffl": partial(algorithms.qffl, squared_error, q=1.0, **_local),
    "afl": partial(algorithms.afl, squared_error, num_clients=N, weights_lr=0.1, **_local),
    "term": partial(algorithms.term, squared_error, tilt=1.0, **_local),
    "superquantile": partial(algorithms.superquantile, squared_error, fraction=0.5, **_local),
    "fedmgda": partial(algorithms.fedmgda, squared_error, server_lr=0.1, **_local),
    # Compressed.
    "compressed_gd": partial(algorithms.compressed_gd, squared_error, _RAND, **_step),
    "ef14": partial(algorithms.ef14, squared_error, _TOP, **_step),
    "double_squeeze": partial(algorithms.double_squeeze, squared_error, _TOP, **_step),
    "sign_sgd": partial(algorithms.sign_sgd, squared_error, **_step),
    "ef21": partial(algorithms.ef21, squared_error, _TOP, **_memory),
    "ef21_sgdm": partial(algorithms.ef21_sgdm, squared_error, _TOP, **_memory, eta=0.5),
    "ef_bv": partial(algorithms.ef_bv, squared_error, _RAND, **_memory, lam=0.3, nu=0.7),
    "diana": partial(algorithms.diana, squared_error, c.quantize(bits=3), **_memory, lam=0.5),
    "mcm": partial(algorithms.mcm, squared_error, _RAND, **_memory, lam=0.4),
    "dasha": partial(algorithms.dasha, squared_error, _RAND, **_memory, momentum=0.3),
    "clag": partial(algorithms.clag, squared_error, _TOP, **_memory, zeta=0.5),
    "ef21_bc": partial(algorithms.ef21_bc, squared_error, _TOP, **_memory),
    "artemis": partial(algorithms.artemis, squared_error, _RAND, **_memory, lam=0.5),
    "marina": partial(algorithms.marina, squared_error, _RAND, **_step, p=0.5),
    "pp_marina": partial(
        algorithms.pp_marina, squared_error, _RAND, **_step, participants=N, p=0.5
    ),
    "fedcom": partial(
        algorithms.fedcom, squared_error, _FINE, client_lr=0.05, steps=3, batch_size=2
    ),
    "fedpaq": partial(
        algorithms.fedpaq, squared_error, _FINE, client_lr=0.05, steps=3, batch_size=2
    ),
    "fedcomgate": partial(
        algorithms.fedcomgate, squared_error, _FINE, client_lr=0.05, steps=3, batch_size=2
    ),
    "fetch_sgd": partial(
        algorithms.fetch_sgd, squared_error, **_step, ratio=0.5, rows=1, columns=8
    ),
    "onebit_adam": partial(algorithms.onebit_adam, squared_error, **_step, warmup=1),
    "power_sgd": partial(algorithms.power_sgd, _matrix_error, **_step, rank=1, momentum=0.5),
    # Corrected.
    "scaffold": partial(algorithms.scaffold, squared_error, num_clients=N, **_local),
    "feddyn": partial(algorithms.feddyn, squared_error, num_clients=N, alpha=1.0, **_local),
    "fedadmm": partial(algorithms.fedadmm, squared_error, rho=1.0, server_lr=0.5, **_local),
    "moon": partial(algorithms.moon, squared_error, features=_features, **_local),
    "mime": partial(algorithms.mime, squared_error, **_local),
    "mimelite": partial(algorithms.mimelite, squared_error, **_local),
    "scaffnew": partial(algorithms.scaffnew, squared_error, **_step, p=0.5),
    "fedcomloc": partial(algorithms.fedcomloc, squared_error, **_step, p=0.5, uplink=_TOP),
    "fedlin": partial(algorithms.fedlin, squared_error, **_step, steps=2),
    "tamuna": partial(
        algorithms.tamuna, squared_error, **_memory, clients_per_round=N, owners=2, p=0.5
    ),
    "compressed_scaffnew": partial(
        algorithms.compressed_scaffnew, squared_error, **_memory, owners=2, p=0.5
    ),
    # Personal: own models, private leaves, several models.
    "ditto": partial(algorithms.ditto, squared_error, **_local),
    "mr_mtl": partial(algorithms.mr_mtl, squared_error, **_local),
    "apfl": partial(algorithms.apfl, squared_error, adaptive=True, **_local),
    "pfedme": partial(algorithms.pfedme, squared_error, lam=2.0, personal_steps=2, **_local),
    "per_fedavg": partial(algorithms.per_fedavg, squared_error, **_local),
    "reptile": partial(algorithms.reptile, squared_error, client_lr=0.05, batch_size=2, steps=2),
    "fedper": partial(algorithms.fedper, squared_error, pattern="^w$", **_local),
    "lg_fedavg": partial(algorithms.lg_fedavg, squared_error, pattern="^b$", **_local),
    "fedrep": partial(algorithms.fedrep, squared_error, pattern="^b$", **_local),
    "fedbn": partial(
        algorithms.fedbn, clients.whole_batch(centred_error), pattern="^state", **_local
    ),
    "ifca": partial(algorithms.ifca, squared_error, clusters=2, **_local),
    "hypcluster": partial(algorithms.hypcluster, squared_error, clusters=2, **_local),
    "fedem": partial(algorithms.fedem, squared_error, components=2, **_local),
    # Hierarchical.
    "hierarchical": partial(
        algorithms.hierarchical, squared_error, edges=2, edge_rounds=2, **_local
    ),
    # Decentralised.
    "dsgd": partial(algorithms.dsgd, squared_error, mixing=rounds.ring(N), **_local),
    "gradient_tracking": partial(
        algorithms.gradient_tracking, squared_error, mixing=rounds.torus(2, N // 2), **_step
    ),
    "choco_sgd": partial(
        algorithms.choco_sgd, squared_error, _TOP, mixing=_ring(N), step_size=0.5, **_step
    ),
    # Private.
    "dp_fedavg": partial(
        algorithms.dp_fedavg,
        squared_error,
        clip_norm=0.3,
        noise_multiplier=0.1,
        cohort_size=4,
        **_local,
    ),
    "dp_ftrl": partial(
        algorithms.dp_ftrl,
        squared_error,
        strategy=privacy.honaker_tree(4),
        clip_norm=0.3,
        noise_multiplier=0.1,
        cohort_size=4,
        momentum=0.9,
        **_local,
    ),
    # Robust.
    "fltrust": partial(
        algorithms.fltrust,
        squared_error,
        server_examples={"x": jnp.ones((3, 4)), "y": jnp.ones(3)},
        **_local,
    ),
}
"""Every recipe, as a function of the parts of ``compose`` that it leaves open."""

ALGORITHMS = {
    **{name: recipe() for name, recipe in RECIPES.items()},
    # Rounds that no recipe shows as they are.
    "minibatch": rounds.minibatch(algorithms.fedsgd(squared_error, **_step), 2),
    # As many are chosen as there are candidates, because laws count everybody.
    "selecting_highest": rounds.selecting(
        algorithms.fedavg(squared_error, **_local),
        clients.mean_loss(squared_error, batch_size=2),
        choose=rounds.highest,
        size=N,
    ),
    "selecting_proportional": rounds.selecting(
        algorithms.scaffold(squared_error, num_clients=N, **_local),
        clients.gradient_norm(squared_error, batch_size=2),
        choose=rounds.proportional,
        size=N,
    ),
    "replicated": compose(
        client=_descent,
        **rounds.replicated(_FINE, aggregator=aggregators.mean(), server=optax.sgd(0.1)),
    ),
    "difference": compose(
        client=_local_sgd, server=optax.sgd(1.0), **rounds.difference(_TOP, num_clients=N)
    ),
    "gossip": rounds.gossip(_local_sgd, mixing=np.stack([rounds.ring(N), rounds.exponential(N)])),
    "tracking": rounds.tracking(_descent, mixing=rounds.ring(N), step_size=0.1),
    "edges": rounds.hierarchical(
        client=_local_sgd,
        edges=[0, 0, 1, 2, 1, 2],
        edge_rounds=2,
        uplink=_feedback,
        downlink=c.error_feedback(_FINE),
        edge_uplink=_feedback,
    ),
    "private_leaves": compose(
        uplink=_feedback,
        **rounds.private_leaves(
            client=_local_sgd, server=optax.sgd(1.0, momentum=0.5), pattern="^b$"
        ),
    ),
    "choco": rounds.choco(_local_sgd, _FINE, mixing=_ring(N), step_size=0.5),
    "two_phases": rounds.two_phases(
        rounds.Phase(_ask, _scalar, lambda state, mean: state._replace(size=mean)),
        rounds.Phase(_move, _tree.like, _stepped),
        client=lambda params: (),
        server=lambda params: _Phases(params, jnp.zeros((), jnp.float32)),
        broadcast=lambda state: state,
    ),
    # Each kind of codec, aggregator and model in a slot.
    "top_k_quantize_with_feedback": compose(client=_local_sgd, uplink=_feedback),
    "rand_k": compose(client=_local_sgd, uplink=_RAND),
    "quantized_downlink": compose(client=_local_sgd, downlink=c.error_feedback(c.quantize(bits=8))),
    "median": compose(client=_local_sgd, aggregator=aggregators.median()),
    "mutable_state": algorithms.fedavg(clients.whole_batch(centred_error), **_local),
    "frozen": rounds.frozen(
        squared_error,
        lambda loss: algorithms.scaffold(loss, num_clients=N, **_local),
        pattern="^table$",
    ),
}
"""Every recipe, every kind of round, and each kind of codec, aggregator and model in a slot."""

PARAMS = {
    "mutable_state": Stateful(weights(), {"mean": jnp.zeros(4), "batches": jnp.int32(0)}),
    "frozen": integer_leaves(),
    "fedbn": Stateful(weights(), {"mean": jnp.zeros(4), "batches": jnp.int32(0)}),
    **dict.fromkeys(
        ("ifca", "hypcluster", "fedem"),
        jax.tree.map(lambda x: jnp.stack([x, 0.5 - x]), weights()),
    ),
    "power_sgd": {"w": jnp.linspace(-1.0, 1.0, 20).reshape(4, 5), "b": jnp.zeros(())},
}
"""The models of rows that have another than the linear one."""


def params_of(name):
    """The model of a row of ``ALGORITHMS``."""
    return PARAMS.get(name, weights())
