"""Every recipe with the codec and with the privacy of others: it runs, or it says why not.

The table is complete: a recipe without a row fails.  Rows are traced, so they cost no compilation; a few
of each kind are compiled as well.
"""

import inspect
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import aggregators, algorithms, compressors, privacy, simulation
from tests.support import tables

RUNS, REFUSES = "runs", "refuses"

CODEC = compressors.error_feedback(
    compressors.chain(compressors.top_k(0.5), compressors.quantize(bits=8))
)
PRIVATE = aggregators.private(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), denominator=4)
N = len(tables.SIZES)
DATASET = tables.federated()

OWN_CODEC = {
    *("fetch_sgd", "onebit_adam", "power_sgd", "sign_sgd", "tamuna", "compressed_scaffnew"),
    *("ef14", "double_squeeze", "marina", "pp_marina", "scaffnew"),
    *("dsgd", "gradient_tracking"),
}
"""Recipes that do not take error-fed-back top-k in 8 bits, and say so.

Those of the first line compress in their own way.  EF14 and DoubleSqueeze add the error feedback
themselves; MARINA needs a codec without memory; corrections of Scaffnew follow what arrives as it is.
Averages of compressed models, as in DSGD, do not converge: that is what CHOCO is for.
"""

PRIVATELY = {
    *("fedsgd", "fedavg", "fedavgm", "fedprox", "fedadam", "fedadagrad", "fedyogi"),
    *("fedsam", "fedshuffle", "moon", "mimelite", "fedadmm"),
    *("ditto", "mr_mtl", "apfl", "pfedme", "per_fedavg", "fedper", "lg_fedavg", "fedrep", "fedbn"),
    *("ifca", "hypcluster", "fedem"),
}
"""Recipes whose message may be clipped, summed and noised: all else is computed from the result."""


def with_codec(name):
    """The recipe with the codec: in its slot for one if it has that, or else in its uplink."""
    recipe = tables.RECIPES[name]
    signature = inspect.signature(recipe.func)
    given = dict(signature.bind_partial(*recipe.args).arguments) | recipe.keywords
    slot = "codec" if "codec" in signature.parameters else "uplink"
    return recipe.func(**given | {slot: CODEC})


def with_privacy(name):
    """The recipe with a private aggregator."""
    return tables.RECIPES[name](aggregator=PRIVATE)


def traced(algorithm, name):
    """Shapes of a round's state, rows and metrics, and of those before it."""
    params = tables.params_of(name)
    state = jax.eval_shape(algorithm.init, params)
    rows = jax.eval_shape(lambda p: simulation.make_table(algorithm.init_client(p), N), params)
    cohort = DATASET.cohort(np.arange(N, dtype=np.int32))
    key = jax.random.key(0)
    after, kept, metrics = jax.eval_shape(algorithm.round, key, state, rows, cohort)
    return (state, rows), (after, kept), metrics


def outcome(compose, name):
    """Whether a composition runs, or the reason for which it is refused."""
    try:
        algorithm = compose(name)
        before, after, metrics = traced(algorithm, name)
    except (TypeError, ValueError) as error:
        reason = str(error)
    else:
        reason = None
    if reason is not None:
        assert "unexpected keyword" not in reason  # Python's own words give no reason
        assert re.search(r"\b(use|give|choose|needs?|must)\b", reason), reason
        return REFUSES, None, None
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    return RUNS, algorithm, metrics


DEFAULT = {"fedavg", "fednova", "scaffold", "term"}
KINDS = {
    *(
        "fedsgd",
        "fedadam",
        "fedsam",
        "fedexp",
        "qffl",
        "fedmgda",
        "power_of_choice",
        "ef21",
        "marina",
    ),
    *("fetch_sgd", "fedlin", "feddyn", "moon", "mime", "mimelite", "choco_sgd", "dp_fedavg"),
}
every_recipe = tables.rows(tables.RECIPES, DEFAULT, KINDS)


def test_every_recipe_has_a_row():
    recipes = {
        name
        for name in algorithms.__all__
        if isinstance(getattr(algorithms, name), types.FunctionType)
    }
    assert recipes - tables.RECIPES.keys() == {"choco_gossip"}  # it has no data, hence no messages
    assert recipes >= OWN_CODEC | PRIVATELY


@every_recipe
def test_with_error_fed_back_top_k_in_8_bits(name):
    said, algorithm, _ = outcome(with_codec, name)
    assert said == (REFUSES if name in OWN_CODEC else RUNS)
    if algorithm is not None:
        params = tables.params_of(name)
        plain = sum(32 * np.size(x) for x in jax.tree.leaves(params))
        sent = algorithm.traffic(params).uplink
        messages = 2 if name in {"scaffold", "mimelite"} else 1
        # Of the four weights two are sent, of a bias one: less than half of the floats, and numbers
        # that travel as they are.
        assert sent < messages * (plain + 2 * 32)


@every_recipe
def test_with_a_private_aggregator(name):
    said, algorithm, metrics = outcome(with_privacy, name)
    assert said == (RUNS if name in PRIVATELY else REFUSES)
    if algorithm is not None:
        assert algorithm.aggregator.mechanisms
        assert algorithm.runs_its_aggregator
        assert "unnoised_loss" in metrics
        assert "loss" not in metrics


@pytest.mark.ci
@pytest.mark.parametrize(
    ("compose", "name"),
    [(with_codec, "fednova"), (with_codec, "term"), (with_privacy, "mimelite")],
)
def test_a_composition_moves_the_model_by_finite_steps(compose, name):
    algorithm, params = compose(name), tables.params_of(name)
    rows = simulation.make_table(algorithm.init_client(params), N)
    cohort = DATASET.cohort(np.arange(N, dtype=np.int32))
    state, rows, _ = jax.jit(algorithm.round)(
        jax.random.key(1), algorithm.init(params), rows, cohort
    )
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, params)
    assert all(np.isfinite(x) and x > 0 for x in jax.tree.leaves(moved))
