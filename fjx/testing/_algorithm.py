"""The laws of algorithms: of a round, whatever is in its slots."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import data, simulation
from fjx._base import Algorithm, Cohort, Executor, Key, Tree
from fjx._tree import is_float
from fjx.testing import _laws
from fjx.testing._laws import Law, attempt, require
from fjx.testing._problem import linear_regression


def check_algorithm(
    algorithm: Algorithm, params: Tree | None = None, dataset: data.FederatedData | None = None
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
    _laws.run(algorithm_laws(algorithm, params, dataset))


def algorithm_laws(
    algorithm: Algorithm, params: Tree | None = None, dataset: data.FederatedData | None = None
) -> list[Law]:
    """The laws of an algorithm, to be checked one by one.

    Args:
        algorithm: the algorithm.
        params: the model; None for that of :func:`linear_regression`.
        dataset: the clients' examples; None for those of :func:`linear_regression`.

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
    return _laws.bind(
        Trial(algorithm, params, problem.dataset if dataset is None else dataset), LAWS
    )


class Trial:
    """An algorithm, its compiled round, and what two rounds have made of its state and table."""

    def __init__(self, algorithm: Algorithm, params: Tree, dataset: data.FederatedData) -> None:
        self.algorithm, self.dataset = algorithm, dataset
        self.params = jax.tree.map(jnp.asarray, params)
        self.n = dataset.num_clients
        window = dataset.cohort(np.arange(self.n, dtype=np.int32)).examples
        self.sizes, self.offsets = np.asarray(window.size), np.asarray(window.offset)
        full = np.flatnonzero(self.sizes)
        if len(full) < 4:
            raise ValueError(
                f"dataset must have at least four clients with examples, got {len(full)} of {self.n}"
            )
        self.broken, self.dropped = int(full[1]), int(full[2])
        empty = np.flatnonzero(self.sizes == 0)
        self.empty = int(empty[0]) if len(empty) else None
        self.traces: list[tuple[int, ...]] = []

    # What is played.

    def cohort(
        self, ids: Any = None, dropped: int | None = None, broken: float | None = None
    ) -> Cohort:
        """A cohort, in which one client drops out, or one has no sound example."""
        ids = np.arange(self.n, dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        cohort = self.dataset.cohort(ids, None if dropped is None else ids != dropped)
        if broken is None:
            return cohort
        start = int(self.offsets[self.broken])
        end = start + int(self.sizes[self.broken])

        def spoil(x: Any) -> Any:
            x = jnp.asarray(x)
            return x.at[start:end].set(broken) if is_float(x) else x

        arrays = jax.tree.map(spoil, cohort.examples.arrays)
        return cohort._replace(examples=cohort.examples._replace(arrays=arrays))

    def without(self, client: int | None) -> np.ndarray:
        """All ids, with padding in the place of one client's."""
        ids = np.arange(self.n, dtype=np.int32)
        return np.where(ids == client, self.n, ids)

    def on_table(
        self, key: Key, state: Tree, table: Tree, cohort: Cohort, executor: Executor | None = None
    ) -> tuple[Tree, Tree, Any]:
        """A round on the table of all clients."""
        rows = simulation.gather(table, cohort.ids)
        state, rows, metrics = self.algorithm.round(key, state, rows, cohort, executor=executor)
        return state, simulation.scatter(table, cohort.ids, rows), metrics

    @functools.cached_property
    def round(self) -> Any:
        def traced(key: Key, state: Tree, table: Tree, cohort: Cohort) -> Any:
            self.traces.append(cohort.ids.shape)
            return self.on_table(key, state, table, cohort)

        return _laws.jit(traced)

    @functools.cached_property
    def fresh(self) -> tuple[Tree, Tree]:
        """The state and the table before the first round."""
        with attempt("the model", "init and init_client make the state and a row from the model"):
            state = self.algorithm.init(self.params)
            return state, simulation.make_table(self.algorithm.init_client(self.params), self.n)

    @functools.cached_property
    def before(self) -> tuple[Tree, Tree]:
        """The state and the table after two rounds of all clients."""
        state, table = self.fresh
        for t in range(2):
            with attempt(f"round {t}, of all clients", RUNS):
                ids = np.roll(np.arange(self.n), t)
                state, table, _ = self.round(jax.random.key(t), state, table, self.cohort(ids))
        return state, table

    def play(self, given: str, cohort: Cohort, seed: int = 7, fresh: bool = False) -> Any:
        """The third round, or a first one: the state, the table and the metrics."""
        state, table = self.fresh if fresh else self.before
        with attempt(given, RUNS):
            return _laws.numpy(self.round(jax.random.key(seed), state, table, cohort))

    @functools.cached_property
    def base(self) -> Any:
        """The third round, of all clients but one that drops out."""
        return self.play(BASE, self.cohort(dropped=self.dropped))

    @property
    def noisy(self) -> bool:
        """Whether noise is added though nobody came."""
        aggregator = self.algorithm.aggregator
        return aggregator is not None and bool(aggregator.mechanisms)


BASE = "all clients, one of which drops out"
RUNS = (
    "round runs inside jax.jit: use jax.numpy, and cohort.ids and cohort.weights as traced arrays"
)
SAME = (
    "tell clients apart by id: keys from fold_in(key, id), shares of weight zero are zeros, sums over "
    "clients do not depend on the slot"
)


def _equal(given: str, found: Any, wanted: Any, remedy: str = SAME) -> None:
    """To the bit: state, table."""
    for words, a, b in zip(("state", "table"), found[:2], wanted[:2], strict=True):
        difference = _laws.different(a, b)
        require(difference is None, given, f"the {words} has {difference}", remedy)


def _close(
    given: str, found: Any, wanted: Any, tolerance: float = 1e-6, remedy: str = SAME
) -> None:
    """To rounding: state, table, metrics."""
    names = ("state", "table", "metrics")
    for words, a, b in zip(names, found, wanted, strict=True):
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
    """Rounds move every floating leaf of the model, and metrics count who took part."""
    metrics = trial.base[2]
    came = int((trial.sizes > 0).sum()) - 1
    wanted = {"invited": trial.n, "participants": came, "nonfinite": 0, "rejected": 0}
    for name, number in wanted.items():
        found = f"metric {name} is {metrics.get(name)}, and {number} it should be"
        remedy = "report invited, participants, nonfinite and rejected, as fjx.compose does"
        require(name in metrics and int(metrics[name]) == number, BASE, found, remedy)
    before, after = _laws.floats(trial.params), _laws.floats(_numbers(trial.before[0]))
    for (name, x), (_, y) in zip(before, after, strict=True):
        moved = not np.array_equal(np.asarray(x), np.asarray(y))
        remedy = "return a state whose params are the moved model"
        require(moved, "two rounds of all clients", f"the model is as before at {name}", remedy)


def _numbers(state: Any) -> Tree:
    """The model of a state, as the model given to init has it."""
    return state.params


def the_order_of_slots_does_not_matter(trial: Trial) -> None:
    """With its slots in another order a cohort gives the same state, rows and metrics."""
    for order in (np.arange(trial.n)[::-1], np.roll(np.arange(trial.n), 2)):
        given = f"{BASE}, in the order {order.tolist()}"
        _close(given, trial.play(given, trial.cohort(order, trial.dropped)), trial.base)


def padding_changes_nothing(trial: Trial) -> None:
    """With slots of padding in between a cohort gives the same state, rows and metrics."""
    given = f"{BASE}, with three slots of padding"
    _close(given, trial.play(given, trial.cohort(_padded(trial), trial.dropped)), trial.base)


def _padded(trial: Trial) -> list[int]:
    ids, pad = list(range(trial.n)), trial.n
    middle = trial.n // 2
    return [pad, *ids[:middle], pad, *ids[middle:], pad]


def chunks_change_nothing(trial: Trial) -> None:
    """In chunks, the last of which is filled up, a cohort gives the same state, rows and metrics.

    To rounding: a scalar product may be added in another order at another width.
    """
    given = f"{BASE}, in chunks of four slots"
    chunked = functools.partial(trial.on_table, executor=simulation.chunked(4))
    with attempt(given, RUNS):
        cohort = trial.cohort(_padded(trial), trial.dropped)
        found = _laws.jit(chunked)(jax.random.key(7), *trial.before, cohort)
    _close(given, found, trial.base, tolerance=1e-5)


def a_client_that_drops_out_was_never_invited(trial: Trial) -> None:
    """A client that drops out keeps its row, and the model moves as if its slot had been padding."""
    given = "all clients but one, whose slot is padding"
    without = trial.play(given, trial.cohort(trial.without(trial.dropped)))
    remedy = "use cohort.weights > 0 for who takes part; select rows by it with jnp.where"
    _equal(given, without, trial.base, remedy)
    rows = [jax.tree.map(lambda x: x[trial.dropped], t) for t in (trial.base[1], trial.before[1])]
    difference = _laws.different(*map(_laws.numpy, rows))
    require(difference is None, BASE, f"its row has {difference}", remedy)


def an_empty_client_does_not_take_part(trial: Trial) -> None:
    """A client without examples keeps its row, and the model moves as if it had not come."""
    if trial.empty is None:
        return
    given, remedy = "all clients, one without examples", "its weight is zero: see cohort.weights"
    found = trial.play(given, trial.cohort())
    _equal(given, trial.play(given, trial.cohort(trial.without(trial.empty))), found, remedy)
    came = int((trial.sizes > 0).sum())
    words = f"participants are {int(found[2]['participants'])}, and {came} have examples"
    require(int(found[2]["participants"]) == came, given, words, remedy)


def an_empty_round_leaves_a_fresh_model(trial: Trial) -> None:
    """A first round without anybody leaves the model and all rows as they were.

    The noise of central privacy is added all the same.
    """
    given = "padding alone, in a first round"
    found = trial.play(given, trial.cohort([trial.n] * trial.n), fresh=True)
    remedy = "the sum over nobody is zeros; a mean divides by jnp.where(weight > 0, weight, 1)"
    difference = _laws.different(found[1], _laws.numpy(trial.fresh[1]))
    require(difference is None, given, f"the table has {difference}", remedy)
    difference = _laws.different(_numbers(found[0]), _laws.numpy(_numbers(trial.fresh[0])))
    require(trial.noisy or difference is None, given, f"the model has {difference}", remedy)
    for name, value in found[2].items():
        finite = np.isfinite(np.asarray(value, np.float64))
        require(finite, given, f"metric {name!r} is {value}", "divide by jnp.maximum(count, 1)")


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
        _equal(given, found, without, remedy)
        words = f"metric nonfinite is {int(found[2]['nonfinite'])}"
        require(int(found[2]["nonfinite"]) == 1, given, words, remedy)
        for name, metric in found[2].items():
            finite = np.isfinite(np.asarray(metric, np.float64))
            require(finite, given, f"metric {name!r} is {metric}", remedy)


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
