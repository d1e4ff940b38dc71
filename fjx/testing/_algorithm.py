"""The laws of algorithms: of a round, whatever is in its slots."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import data, simulation
from fjx._base import Algorithm, Tree
from fjx.rounds._metrics import UNNOISED, metric_of
from fjx.testing import _laws
from fjx.testing._algorithm_trial import BASE, RUNS, Trial, padded
from fjx.testing._laws import Law, attempt, require
from fjx.testing._problem import linear_regression


def check_algorithm(
    algorithm: Algorithm,
    params: Tree | None = None,
    dataset: data.FederatedData | None = None,
    *,
    by_rank: bool = False,
) -> None:
    """Checks every law of an algorithm, up to the first that does not hold.

    Two rounds of all clients come first.  A third round is then played in many ways: with slots in
    another order, with padding, in chunks, with a client that drops out, with one whose examples are
    NaN, without anybody.  Results must be equal where the participants are.

    Args:
        algorithm: the algorithm, made with a loss for this model and these data.
        params: the model; None for that of :func:`linear_regression`.
        dataset: at least four clients with examples; None for that of :func:`linear_regression`.  An
            empty client and ragged ones say most.
        by_rank: that a client's part in a round follows from its rank in the cohort.  The part of a
            client that drops out is then missing, while padding gives it to others; the laws compare
            that client's row alone.

    Raises:
        TypeError: ``algorithm`` is not a :class:`fjx.Algorithm`.
        ValueError: the dataset has too few clients with examples.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> from fjx import algorithms, testing
        >>> problem = testing.linear_regression()
        >>> algorithm = algorithms.fedsgd(problem.loss_fn, learning_rate=0.1)
        >>> free = algorithm._replace(traffic=lambda params: (0, 0))
        >>> testing.check_algorithm(free)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'traffic_is_known_from_shapes' does not hold
    """
    _laws.run(algorithm_laws(algorithm, params, dataset, by_rank=by_rank))


def algorithm_laws(
    algorithm: Algorithm,
    params: Tree | None = None,
    dataset: data.FederatedData | None = None,
    *,
    by_rank: bool = False,
) -> list[Law]:
    """The laws of an algorithm, to be checked one by one.

    Args:
        algorithm: the algorithm.
        params: the model; None for that of :func:`linear_regression`.
        dataset: the clients' examples; None for those of :func:`linear_regression`.
        by_rank: that a client's part in a round follows from its rank in the cohort.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``algorithm`` is not a :class:`fjx.Algorithm`.
        ValueError: the dataset has too few clients with examples.

    Examples:
        >>> from fjx import algorithms, testing
        >>> problem = testing.linear_regression()
        >>> laws = testing.algorithm_laws(algorithms.fedsgd(problem.loss_fn, learning_rate=0.1))
        >>> laws[0].check()  # by tracing alone
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be a fjx.Algorithm, got {algorithm!r}")
    problem = linear_regression()
    params = problem.params if params is None else params
    dataset = problem.dataset if dataset is None else dataset
    return _laws.bind(Trial(algorithm, params, dataset, by_rank), LAWS)


SAME = (
    "tell clients apart by id: keys from fold_in(key, id), shares of weight zero are zeros, sums over "
    "clients do not depend on the slot"
)


def _equal(given: str, found: Any, wanted: Any, remedy: str = SAME) -> None:
    """To the bit: state, table."""
    for words, a, b in zip(("state", "table"), found[:2], wanted[:2], strict=True):
        difference = _laws.different(a, b)
        require(difference is None, given, f"the {words} has {difference}", remedy)


def _as_if_not_invited(
    trial: Trial, given: str, client: int, found: Any, without: Any, remedy: str
) -> None:
    """A client's row is as before, bit for bit; all the rest is as if its slot had been padding."""
    rows = [jax.tree.map(lambda x: x[client], table) for table in (found[1], trial.before[1])]
    difference = _laws.different(*map(_laws.numpy, rows))
    require(difference is None, given, f"the row of client {client} has {difference}", remedy)
    if not trial.by_rank:
        _close(given, found[:2], without[:2], remedy=remedy)


def _close(
    given: str, found: Any, wanted: Any, tolerance: float = 1e-6, remedy: str = SAME
) -> None:
    """To rounding: state, table, metrics."""
    for words, a, b in zip(("state", "table", "metrics"), found, wanted, strict=False):
        difference = _laws.far(_laws.numpy(a), _laws.numpy(b), tolerance)
        require(difference is None, given, f"the {words} has {difference}", remedy)


def keeps_the_structure_of_state_and_rows(trial: Trial) -> None:
    """A round keeps the structure, shapes and dtypes of state and rows; metrics are scalars."""
    remedy = "make init and init_client return what round returns"
    state, table = trial.fresh
    with attempt("all clients", remedy):
        after = jax.eval_shape(
            trial.on_table, jax.eval_shape(jax.random.key, 0), state, table, trial.cohort()
        )
    for words, a, b in zip(("state", "table"), after, (state, table), strict=False):
        difference = _laws.unlike(a, b)
        require(difference is None, "all clients", f"the {words} has {difference}", remedy)
    for name, value in after[2].items():
        require(
            value.shape == (), "all clients", f"metric {name!r} has axes", "metrics are scalars"
        )


def traffic_is_known_from_shapes(trial: Trial) -> None:
    """``traffic(params)`` gives the bits of an uplink and of a downlink, from shapes alone."""
    remedy = "price payloads by fjx.wire.bits of jax.eval_shape; bits are Python integers"
    with attempt("the template of the model", remedy):
        uplink, downlink = trial.algorithm.traffic(_laws.template(trial.params))
    whole = all(isinstance(bits, int) and bits >= 0 for bits in (uplink, downlink))
    found = f"uplink is {uplink!r} and downlink {downlink!r}"
    require(whole and uplink + downlink > 0, "the template of the model", found, remedy)


def a_round_moves_the_model_and_counts(trial: Trial) -> None:
    """Rounds move every floating leaf of the model or of a client's own, and count who took part."""
    metrics = trial.base[2]
    came = int((trial.sizes > 0).sum()) - 1
    wanted = {"invited": trial.n, "participants": came, "nonfinite": 0, "rejected": 0}
    for name, number in wanted.items():
        value = metric_of(metrics, name)
        found = f"metric {name} is {value}, and {number} it should be"
        remedy = "report invited, participants, nonfinite and rejected, as fjx.compose does"
        require(value is not None and int(value) == number, BASE, found, remedy)
    state, table = trial.before
    after = _laws.floats(_numbers(state))
    own = dict(_laws.floats(_model_of(trial, state, table)))
    for (name, x), (_, y) in zip(_laws.floats(trial.params), after, strict=True):
        # A leaf that stays on the clients moves there.
        moved = any(not np.array_equal(np.asarray(x), np.asarray(z)) for z in (y, own.get(name, y)))
        remedy = "return a state whose params are the moved model"
        require(moved, "two rounds of all clients", f"the model is as before at {name}", remedy)


def _numbers(state: Any) -> Tree:
    """The model of a state, as the model given to init has it."""
    return state.params


def _model_of(trial: Trial, state: Any, table: Tree) -> Tree:
    """The model of a client with examples; nothing, if all use the common one."""
    if trial.algorithm.personal is None:
        return ()
    row = jax.tree.map(lambda x: x[int(np.argmax(trial.sizes))], table)
    return trial.algorithm.personal(state, row)


def the_order_of_slots_does_not_matter(trial: Trial) -> None:
    """With its slots in another order a cohort gives the same state, rows and metrics."""
    for order in (np.arange(trial.n)[::-1], np.roll(np.arange(trial.n), 2)):
        given = f"{BASE}, in the order {order.tolist()}"
        _close(given, trial.play(given, trial.cohort(order, trial.dropped)), trial.base)


def padding_changes_nothing(trial: Trial) -> None:
    """With slots of padding in between a cohort gives the same state, rows and metrics."""
    given = f"{BASE}, with three slots of padding"
    _close(given, trial.play(given, trial.cohort(padded(trial), trial.dropped)), trial.base)


def chunks_change_nothing(trial: Trial) -> None:
    """In chunks, the last of which is filled up, a cohort gives the same state, rows and metrics.

    To rounding: a scalar product may be added in another order at another width.
    """
    given = f"{BASE}, in chunks of four slots"
    chunked = functools.partial(trial.on_table, executor=simulation.chunked(4))
    with attempt(given, RUNS):
        cohort = trial.cohort(padded(trial), trial.dropped)
        found = _laws.jit(chunked)(jax.random.key(7), *trial.before, cohort)
    _close(given, found, trial.base, tolerance=1e-5)


def _require_finite_metrics(trial: Trial, given: str, metrics: Any, remedy: str) -> None:
    """A metric that is NaN in a sound round, because only other rounds report it, may be NaN."""
    for name, value in metrics.items():
        reported = np.isfinite(np.asarray(trial.base[2][name], np.float64))
        finite = np.isfinite(np.asarray(value, np.float64))
        require(finite or not reported, given, f"metric {name!r} is {value}", remedy)


def a_client_that_drops_out_was_never_invited(trial: Trial) -> None:
    """A client that drops out keeps its row, and the model moves as if its slot had been padding."""
    given = "all clients but one, whose slot is padding"
    without = trial.play(given, trial.cohort(trial.without(trial.dropped)))
    remedy = "use cohort.weights > 0 for who takes part; select rows by it with jnp.where"
    _as_if_not_invited(trial, BASE, trial.dropped, trial.base, without, remedy)


def an_empty_client_does_not_take_part(trial: Trial) -> None:
    """A client without examples keeps its row, and the model moves as if it had not come."""
    if trial.empty is None:
        return
    given, remedy = "all clients, one without examples", "its weight is zero: see cohort.weights"
    found = trial.play(given, trial.cohort())
    without = trial.play("all but one", trial.cohort(trial.without(trial.empty)))
    _as_if_not_invited(trial, given, trial.empty, found, without, remedy)
    came = int((trial.sizes > 0).sum())
    counted = int(metric_of(found[2], "participants"))
    require(counted == came, given, f"participants are {counted}, and {came} have examples", remedy)


def an_empty_round_leaves_a_fresh_model(trial: Trial) -> None:
    """A first round without anybody leaves the model and all rows as they were.

    The noise of central privacy is added all the same.  Counts are zero, and a mean over nobody, such
    as the loss, is NaN: a zero would be read as a loss of zero.
    """
    given = "padding alone, in a first round"
    found = trial.play(given, trial.cohort([trial.n] * trial.n), fresh=True)
    remedy = "the sum over nobody is zeros; a mean divides by jnp.where(weight > 0, weight, 1)"
    difference = _laws.different(found[1], _laws.numpy(trial.fresh[1]))
    require(difference is None, given, f"the table has {difference}", remedy)
    difference = _laws.different(_numbers(found[0]), _laws.numpy(_numbers(trial.fresh[0])))
    require(trial.noisy or difference is None, given, f"the model has {difference}", remedy)
    remedy = "report jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)"
    for name, value in found[2].items():
        number = np.asarray(value, np.float64)
        right = np.isnan(number) if name.removeprefix(UNNOISED) == "loss" else not np.isinf(number)
        require(right, given, f"metric {name!r} is {value}", remedy)
    counts = {
        name: int(metric_of(found[2], name)) for name in ("invited", "participants", "nonfinite")
    }
    require(not any(counts.values()), given, f"counts are {counts}", "padding is not counted")


def a_broken_client_is_left_out_and_counted(trial: Trial) -> None:
    """A client whose message is not finite keeps its row, moves nothing and is counted as nonfinite."""
    without = trial.play("all but one", trial.cohort(trial.without(trial.broken)))
    for value in (np.nan, np.inf):
        given = f"all clients, one of which has {value} in its examples"
        found = trial.play(given, trial.cohort(broken=value))
        remedy = (
            "a client counts only if its message and what the server decodes are finite; NaN times zero "
            "is NaN, so select with jnp.where"
        )
        _as_if_not_invited(trial, given, trial.broken, found, without, remedy)
        failed = int(metric_of(found[2], "nonfinite"))
        require(failed == 1, given, f"metric nonfinite is {failed}", remedy)
        _require_finite_metrics(trial, given, found[2], remedy)


def traces_once(trial: Trial) -> None:
    """Later rounds do not trace the program again."""
    given = "rounds of other cohorts of the same size"
    trial.play(given, trial.cohort(trial.without(0)))
    times = trial.traces.count((trial.n,))
    remedy = "give state and rows strong dtypes: jnp.zeros((), jnp.float32) and not 0.0"
    require(times == 1, given, f"round was traced {times} times", remedy)


def is_a_pure_function(trial: Trial) -> None:
    """Equal keys, states and cohorts give equal rounds."""
    remedy = (
        "draw from the key with jax.random, and keep what changes from round to round in the state"
    )
    again = trial.play(BASE, trial.cohort(dropped=trial.dropped))
    _equal(f"{BASE}, again with the same key", again, trial.base, remedy)


def uses_each_key_once(trial: Trial) -> None:
    """No key is drawn from twice."""
    state, table = trial.fresh
    cohort = trial.cohort()
    _laws.require_fresh_keys(lambda key: trial.on_table(key, state, table, cohort))


def vmap_over_seeds_is_a_loop(trial: Trial) -> None:
    """Several seeds in one program give the rounds of each."""
    state, table = trial.before
    cohort, seeds = trial.cohort(dropped=trial.dropped), (7, 8)
    with attempt("two seeds under jax.vmap", RUNS):
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))
        mapped = _laws.jit(jax.vmap(lambda key: trial.on_table(key, state, table, cohort)))(keys)
    for i, seed in enumerate(seeds):
        alone = trial.play(BASE, cohort, seed)
        _close(f"seed {seed} of two", _laws.row(_laws.numpy(mapped), i), alone, tolerance=1e-5)


LAWS = (
    keeps_the_structure_of_state_and_rows,
    traffic_is_known_from_shapes,
    uses_each_key_once,
    a_round_moves_the_model_and_counts,
    the_order_of_slots_does_not_matter,
    a_client_that_drops_out_was_never_invited,
    an_empty_client_does_not_take_part,
    an_empty_round_leaves_a_fresh_model,
    a_broken_client_is_left_out_and_counted,
    traces_once,
    is_a_pure_function,
    padding_changes_nothing,
    chunks_change_nothing,
    vmap_over_seeds_is_a_loop,
)
"""Every law of an algorithm, in the order in which they are checked."""
