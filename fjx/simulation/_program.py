"""A whole run as one pure function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fjx import _tree, _validate
from fjx._base import Algorithm, Array, Cohort, Executor, Key, Metrics, Tree
from fjx._kernels.inner import right_options
from fjx.data import FederatedData
from fjx.data._dataset import require_examples
from fjx.rounds._metrics import UNNOISED
from fjx.samplers import Sampler
from fjx.simulation._evaluate import OfState, evaluated, subject_of
from fjx.simulation._history import History as History
from fjx.simulation._nans import played
from fjx.simulation._table import TableOf, gather, make_table, rows_of, scatter

Evaluate = Callable[[Tree], Metrics]
"""A traced function ``(params) -> {name: scores}``; scores are scalars, or one number for each client.

See :func:`fjx.simulation.evaluation` and :func:`fjx.simulation.per_client`.
"""


class SimulationState(NamedTuple):
    """State of a run; together with the root key and the data it determines all later rounds.

    Attributes:
        round: ``i32[]``, rounds done.
        algorithm: state of the server side; ``algorithm.params`` is the model.
        clients: table of client states, ``[num_clients, ...]``.  A table on the host consists of
            NumPy arrays that are changed in place.
    """

    round: Array
    algorithm: Any
    clients: Tree

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.algorithm.params

    def client(self, ids: int | ArrayLike) -> Tree:
        """The own state of one client, or of several, by id; the table may be anywhere.

        An algorithm of :func:`fjx.compose` has a :class:`fjx.rounds.ClientRow`: ``client`` is the
        state of the client update, such as the control variate of SCAFFOLD, and ``uplink`` is that
        of the codec, such as the residual of error feedback.

        Args:
            ids: id of a client, or an array of ids.

        Returns:
            A copy of the client's row; with an array of ids, the rows stacked in their order.

        Raises:
            TypeError: an id is no integer.
            ValueError: there is no client of that id.
        """
        return rows_of(self.clients, ids)


class Run(NamedTuple):
    """Parts of a run except its state; every way to play it plays the same rounds."""

    key: Key
    algorithm: Algorithm
    dataset: FederatedData
    sampler: Sampler
    executor: Executor | None
    evaluate: Evaluate | None
    participant_ids: bool = False

    @property
    def mechanisms(self) -> tuple[Any, ...]:
        """Private mechanisms of the aggregate; none if it is not noised."""
        aggregator = self.algorithm.aggregator
        return aggregator.mechanisms if aggregator is not None else ()


class Program(NamedTuple):
    """A run as two pure functions, made by :func:`program`.

    Attributes:
        init: function ``(params) -> state``.
        run: function ``(key, state, rounds) -> (state, history)`` with ``rounds`` a Python int.
    """

    init: Callable[[Tree], SimulationState]
    run: Callable[[Key, SimulationState, int], tuple[SimulationState, History]]


def program(
    algorithm: Algorithm,
    dataset: FederatedData,
    *,
    sampler: Sampler,
    executor: Executor | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 10,
    participant_ids: bool = False,
) -> Program:
    """Compiled core of :func:`fjx.simulate`: rounds under scan, with the evaluation inside.

    ``run`` is pure, so whole runs can be vmapped over seeds.  ``program`` itself may be called
    inside ``vmap``, with traced hyper-parameters.  Runs of one key share all randomness.  With private
    noise give each a key of its own: else the difference of two models has no noise.

    Guarantees:
        - Round t draws from ``fold_in(key, t)``.  A run that is cut anywhere and resumed from its
          state is therefore bitwise the same run.
        - Like :func:`fjx.simulate` it is compiled without the fusions that XLA:CPU of JAX 0.10.2 to
          0.11 gets wrong, also under ``vmap``; but not inside a ``jax.jit`` or a derivative of yours.

    Args:
        algorithm: algorithm from :func:`fjx.compose`.
        dataset: clients' examples.
        sampler: sampler of the participants.
        executor: executor of a cohort; by default one that usually suits the shapes, on one device.
        evaluate: evaluation ``(params) -> {name: scores}``.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        participant_ids: True to report who took part in each round, as in :class:`History`.

    Returns:
        A :class:`Program`.

    Raises:
        TypeError: ``algorithm``, ``dataset`` or ``sampler`` has a wrong type.
        ValueError: ``evaluate_every`` is below one; no client has an example; the dataset is on the
            host.

    Examples:
        Three seeds and two learning rates in one program:

        >>> import jax, jax.numpy as jnp, fjx
        >>> dataset = fjx.data.from_clients([jnp.array([1.0]), jnp.array([3.0])])
        >>> def final(key, lr):
        ...     algorithm = fjx.algorithms.fedavg(
        ...         lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=lr, batch_size=1)
        ...     p = fjx.simulation.program(algorithm, dataset, sampler=fjx.samplers.uniform(1))
        ...     return p.run(key, p.init(jnp.zeros(())), 5)[0].params
        >>> sweep = jax.vmap(jax.vmap(final, (None, 0)), (0, None))
        >>> sweep(jax.random.split(jax.random.key(0), 3), jnp.array([0.1, 0.2])).shape
        (3, 2)
    """
    require_parts(algorithm, dataset, sampler)
    if dataset.hosted:
        raise ValueError(
            "a program is traced as a whole and cannot read a dataset on the host; "
            "use fjx.simulate, or data.on_device(dataset)"
        )
    play = round_of(algorithm, executor, participant_ids)
    core = rounds_of(whole_round_of(play, sampler), evaluate_every, algorithm.model_of)
    jitted = jax.jit(core, static_argnums=4)
    right = jax.jit(core, static_argnums=4, compiler_options=right_options())

    def init(params: Tree) -> SimulationState:
        return initial_state(algorithm, params, dataset.num_clients)

    def run(key: Key, state: SimulationState, rounds: int) -> tuple[SimulationState, History]:
        _validate.key("key", key)
        rounds = _validate.static_integer("rounds", rounds, at_least=1)
        done = int(state.round) if _validate.concrete(state.round) and state.round.ndim == 0 else 0
        require_scheduled(algorithm, done + rounds)
        arguments = dataset, as_operand(evaluate), key, state, rounds
        # Options are those of a whole program: a run that is part of another has the options of that.
        if right_options() is None or not _validate.concrete(jnp.zeros(())):
            return played(jitted, *arguments)
        try:
            return played(right, *arguments)
        except ValueError as error:
            # JAX refuses options if it differentiates the run.  That cannot be asked before: the number
            # by which it differentiates may be in the algorithm alone, and the only documented call that
            # finds it, jax.closure_convert, traces the whole run once more.
            if "compiler_options" not in str(error):
                raise
            return played(jitted, *arguments)

    return Program(init, run)


def initial_state(
    algorithm: Algorithm, params: Tree, num_clients: int, table: TableOf = make_table
) -> SimulationState:
    """State before the first round."""
    params = jax.tree.map(jnp.asarray, params)
    clients = table(algorithm.init_client(params), num_clients)
    # Copies, because callers donate the state but keep the parameters, and because a state may hold
    # the parameters twice.
    server = jax.tree.map(lambda x: jnp.array(x, copy=True), algorithm.init(params))
    return SimulationState(jnp.int32(0), server, clients)


def as_operand(evaluate: Evaluate | None) -> Tree:
    """Evaluation as a pytree, so that its data is an argument and not a constant of the program."""
    if evaluate is None or isinstance(evaluate, jax.tree_util.Partial | OfState):
        return evaluate
    return jax.tree_util.Partial(evaluate)


def sampling_key(key: Key) -> Key:
    """Key of the sampler, the same in every round of a run."""
    return jax.random.fold_in(key, 2**32 - 1)  # no round has this number


def round_key(key: Key, round: Array) -> Key:
    """Key of everything else in a round."""
    return jax.random.fold_in(key, round)


Play = Callable[..., tuple[SimulationState, Tree, Metrics]]
"""A round made by :func:`round_of`."""


def round_of(
    algorithm: Algorithm, executor: Executor | None, participant_ids: bool = False
) -> Play:
    """One round without the table.

    Its form is ``(key, state, rows, cohort, truncated) -> (state, rows, metrics)``.
    """
    noised = algorithm.aggregator is not None and algorithm.aggregator.mechanisms
    mark = UNNOISED if noised else ""

    def play(
        key: Key, state: SimulationState, rows: Tree, cohort: Cohort, truncated: Array
    ) -> tuple[SimulationState, Tree, Metrics]:
        server, rows, metrics = algorithm.round(
            key, state.algorithm, rows, cohort, executor=executor
        )
        state = state._replace(round=state.round + 1, algorithm=server)
        finite = _tree.all_finite(state.params)
        own = {f"{mark}truncated": truncated, "finite": finite}
        if participant_ids:
            own[f"{mark}participant_ids"] = jnp.where(
                cohort.weights > 0, cohort.ids, cohort.population
            )
        return state, rows, _validate.disjoint(metrics, own)

    return play


OneRound = Callable[[FederatedData, Key, SimulationState], tuple[SimulationState, Metrics]]
"""A round with the table of clients and the sampler; see :func:`whole_round_of`."""


def whole_round_of(play: Play, sampler: Sampler) -> OneRound:
    """One round ``(dataset, key, state) -> (state, metrics)``."""

    def one_round(
        dataset: FederatedData, key: Key, state: SimulationState
    ) -> tuple[SimulationState, Metrics]:
        sample = sampler.sample(sampling_key(key), state.round, dataset.num_clients)
        cohort = dataset.cohort(sample.ids, sample.taking_part)
        rows = gather(state.clients, cohort.ids)
        key_round = round_key(key, state.round)
        state, rows, metrics = play(key_round, state, rows, cohort, sample.truncated)
        return state._replace(clients=scatter(state.clients, cohort.ids, rows)), metrics

    return one_round


def block_of(one_round: OneRound, room: int) -> Callable[..., tuple[SimulationState, Metrics]]:
    """At most ``room`` rounds ``(dataset, key, state, length) -> (state, metrics)``.

    ``length`` is an array, so that one program serves blocks of every length.  Of the metrics,
    ``[room, ...]``, the first ``length`` are filled.
    """
    one_round = jax.jit(one_round, inline=True)  # traced once, for its shapes and for the loop

    def block(
        dataset: FederatedData, key: Key, state: SimulationState, length: Array
    ) -> tuple[SimulationState, Metrics]:
        def step(t: Array, carry: tuple[SimulationState, Metrics]) -> Any:
            state, metrics = one_round(dataset, key, carry[0])
            return state, jax.tree.map(lambda x, new: x.at[t].set(new), carry[1], metrics)

        _, like = jax.eval_shape(one_round, dataset, key, state)
        empty = jax.tree.map(lambda x: jnp.zeros((room, *x.shape), x.dtype), like)
        return jax.lax.fori_loop(0, length, step, (state, empty))

    return block


def rounds_of(
    one_round: OneRound, evaluate_every: int, model_of: Callable[[Any, Tree], Tree]
) -> Callable[..., tuple[SimulationState, History]]:
    """Rounds ``(dataset, evaluate, key, state, rounds) -> (state, history)``; data are arguments."""
    evaluate_every = _validate.static_integer("evaluate_every", evaluate_every, at_least=1)

    def run(
        dataset: FederatedData,
        evaluate: Evaluate | None,
        key: Key,
        state: SimulationState,
        rounds: int,
    ) -> tuple[SimulationState, History]:
        def block(state: SimulationState, length: int) -> tuple[SimulationState, History]:
            state, metrics = jax.lax.scan(
                lambda state, _: one_round(dataset, key, state), state, length=length
            )
            scores: Metrics = {}
            if evaluate is not None:
                scores = evaluated(evaluate, model_of, subject_of(evaluate, state))
            return state, History(metrics, scores, state.round)

        blocks, rest = divmod(rounds, evaluate_every)
        parts = []
        if blocks:
            state, many = jax.lax.scan(
                lambda state, _: block(state, evaluate_every), state, length=blocks
            )
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), many.rounds)
            parts.append(many._replace(rounds=flat))
        if rest:
            state, last = block(state, rest)
            scores, at = jax.tree.map(lambda x: jnp.asarray(x)[None], last[1:])
            parts.append(History(last.rounds, scores, at))
        return state, jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    return run


def require_parts(algorithm: object, dataset: Any, sampler: object) -> None:
    """Raise unless each argument has its type and somebody has examples.

    Raises:
        TypeError: an argument has a wrong type; the error names it.
        ValueError: no client has an example.
    """
    _require("algorithm", algorithm, Algorithm)
    _require("dataset", dataset, FederatedData)
    _require("sampler", sampler, Sampler)
    require_examples(dataset)


def require_scheduled(algorithm: Algorithm, rounds: int) -> None:
    """Raise ValueError if a schedule of the algorithm is shorter than the run."""
    if algorithm.rounds is not None and rounds > algorithm.rounds:
        raise ValueError(
            f"rounds={rounds} is more than the {algorithm.rounds} rounds for which the algorithm has a "
            "step size: give clients.listed a value for each round, or a function of the round"
        )


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be a {kind.__module__.rsplit('.', 1)[0]}.{kind.__name__}, "
            f"got {type(value).__name__}"
        )
