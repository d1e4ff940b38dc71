"""A sweep over seeds and hyper-parameters: one compiled program, and many runs of it."""

import contextlib
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fjx import _tree, _validate
from fjx._base import Algorithm, Executor, Key, Traffic, Tree
from fjx.data import FederatedData
from fjx.evaluation._runs import Chunk, play_all
from fjx.samplers import Sampler
from fjx.simulation import Evaluate, History, SimulationState, Timing
from fjx.simulation._program import require_parts, require_scheduled

Make = Callable[..., Algorithm]
"""A function of the hyper-parameters, given by name, that returns an algorithm."""


class Sweep(NamedTuple):
    """Result of :func:`sweep`: many runs, by setting of the hyper-parameters and by seed.

    Attributes:
        settings: the hyper-parameters of each setting by name, as they are printed.
        seeds: seeds of the runs, the same for every setting.
        history: NumPy arrays ``[settings, seeds, ...]``; see :class:`fjx.simulation.History`.  A metric
            that only some settings report is NaN for the others.
        traffic: bits of a client in a round, for each setting.
        run_seconds: ``f64[settings, seeds]``, time of each run.  Runs of a chunk share its time, and
            chunks that run side by side slow each other down.
        seconds: compiling and running time of the whole sweep.
        programs: number of programs that were compiled.
        kept: what ``keep`` returned for each run, ``[settings, seeds, ...]``.
    """

    settings: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    history: History
    traffic: tuple[Traffic, ...]
    run_seconds: np.ndarray
    seconds: Timing
    programs: int
    kept: Tree = ()

    def scores(self, metric: str) -> np.ndarray:
        """Scores of all evaluations, or the metric of all rounds: ``[settings, seeds, points, ...]``.

        Args:
            metric: name of a score of ``evaluate``, or of a metric of the rounds.

        Raises:
            KeyError: there is neither.
        """
        for arrays in (self.history.evaluations, self.history.rounds):
            if metric in arrays:
                return np.asarray(arrays[metric])
        known = sorted({*self.history.evaluations, *self.history.rounds})
        raise KeyError(f"no score or metric {metric!r}; there are {', '.join(known)}")

    def final(self, metric: str) -> np.ndarray:
        """The last entry of :meth:`scores`: ``[settings, seeds, ...]``.

        Raises:
            KeyError: there is no such score or metric.
        """
        return self.scores(metric)[:, :, -1]

    def evaluated(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of rounds ``[points]``, and the scores or metrics after them."""
        values = self.scores(metric)
        at = np.asarray(self.history.evaluated_at)[0, 0]
        if metric not in self.history.evaluations:
            at = np.arange(1, values.shape[2] + 1)
        return at, values

    def __str__(self) -> str:
        runs = len(self.settings) * len(self.seeds)
        return (
            f"{runs} runs, {len(self.settings)} settings of {len(self.seeds)} seeds: "
            f"{self.seconds.running:.1f} s of running and {self.seconds.compiling:.1f} s of "
            f"compiling {self.programs} program{'' if self.programs == 1 else 's'}"
        )


def sweep(
    make: Make,
    params: Tree | Callable[[Key], Tree],
    dataset: FederatedData,
    *,
    sampler: Sampler,
    rounds: int,
    grid: Mapping[str, Sequence[float]] | None = None,
    static: Mapping[str, Any] | None = None,
    seeds: int | Iterable[int] = 5,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 10,
    executor: Executor | None = None,
    at_a_time: int | None = None,
    participant_ids: bool = False,
    keep: Callable[[SimulationState], Tree] | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Run an algorithm for every seed and every setting of its hyper-parameters.

    The numbers of ``grid`` are arguments of one compiled program, so ``make`` is called inside it with
    traced numbers.  Hyper-parameters that decide shapes or parts, such as a batch size or a codec, are
    those of ``static``: each combination of them is a program of its own.

    On a CPU each run goes by itself, because one client's matrices are faster than batched ones, and
    as many runs as there are cores go side by side.  On an accelerator as many runs as fit into its
    memory are one batch.

    Guarantees:
        - A run is that of :func:`fjx.simulate` with ``jax.random.key(seed)``, up to the order of
          floating sums.
        - Runs of one seed share the initial model, the cohorts and the batches, for
          :func:`paired_difference`.  If the aggregate is noised they share the initial model alone:
          with the same noise, the difference of two models would have none.

    Args:
        make: function ``make(**hyper_parameters) -> algorithm``.
        params: initial model, or function ``(key) -> params`` for one of each seed, such as
            ``model.init``; its key is ``init_key(seed)``.
        dataset: clients' examples, on the device.
        sampler: sampler of the participants of a round.
        rounds: number of rounds of each run.
        grid: numbers to try, by name of the hyper-parameter; all combinations run.
        static: other values to try, by name: a list, or a dict of values by the name that is printed,
            such as ``{"uplink": {"none": identity(), "top-k": top_k(0.1)}}``.
        seeds: number of seeds, for 0, 1, ..., or the seeds.
        evaluate: traced evaluation ``(params) -> {name: scores}``, as for :func:`fjx.simulate`.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        executor: executor of a cohort; by default one that suits many runs.
        at_a_time: number of runs that are one batch, under ``vmap``; by default as above.
        participant_ids: True to keep the ids of each round's participants.
        keep: traced function of the last state of a run, such as ``lambda state: state.params``, whose
            results are kept.
        progress: True for a progress bar on stderr; None shows it if stderr is a terminal.

    Returns:
        A :class:`Sweep`.

    Raises:
        TypeError: an argument has a wrong type; a number of ``grid`` must be static.
        ValueError: an argument is out of range; two seeds are equal; a list is empty; a name is in
            both ``grid`` and ``static``; ``make`` refuses a setting, or a schedule is shorter than the
            run; the dataset is on the host; a loss function or metric is not a mean over examples.
        MemoryError: not even one run fits.

    Examples:
        >>> import jax.numpy as jnp, fjx
        >>> from fjx import evaluation
        >>> dataset = fjx.data.from_clients([jnp.array([1.0]), jnp.array([3.0])])
        >>> def make(lr):
        ...     return fjx.algorithms.fedavg(
        ...         lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=lr, batch_size=1)
        >>> result = evaluation.sweep(
        ...     make, jnp.array(0.0), dataset, sampler=fjx.samplers.uniform(1), rounds=3,
        ...     grid={"lr": [0.1, 0.5]}, seeds=2, evaluate=lambda w: {"gap": jnp.abs(w - 2)})
        >>> result.final("gap").shape, result.programs
        ((2, 2), 1)
    """
    if not callable(make):
        raise TypeError(f"make must be a function that returns an algorithm, got {make!r}")
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    evaluate_every = _validate.static_integer("evaluate_every", evaluate_every, at_least=1)
    if at_a_time is not None:
        at_a_time = _validate.static_integer("at_a_time", at_a_time, at_least=1)
    numbers, parts = _grid(grid or {}), _static(static or {})
    if both := sorted({*numbers} & {*parts}):
        raise ValueError(f"{both[0]!r} is in grid and in static; choose one")
    seeds = _seeds(seeds)
    _validate.key("the key of a seed", init_key(seeds[0]))
    traced = [dict(zip(numbers, x, strict=True)) for x in itertools.product(*numbers.values())]
    # Everything that can be wrong is, before the first program is compiled.
    programs = []
    for chosen in itertools.product(*(choices.items() for choices in parts.values())):
        names = {name: shown for name, (shown, _) in zip(parts, chosen, strict=True)}
        values = {name: value for name, (_, value) in zip(parts, chosen, strict=True)}
        # A traced number has no value that could be checked.
        made = [make(**values, **setting) for setting in traced]
        for one in made:
            require_parts(one, dataset, sampler)
            require_scheduled(one, rounds)
        programs.append((names, values, made[0]))
    if dataset.hosted:
        raise ValueError("a sweep needs its dataset on the device: data.on_device(dataset)")
    sampler.capacity(dataset.num_clients)  # raises if there are too few clients

    began, compiling = time.perf_counter(), 0.0
    settings, traffic, results = [], [], []
    total = len(programs) * len(traced) * len(seeds)
    with _bar(progress, total) as advance:
        for number, (names, values, one) in enumerate(programs):
            noised = one.aggregator is not None and bool(one.aggregator.mechanisms)
            first = number * len(traced)
            chunk = Chunk(
                make=make,
                values=values,
                params=params,
                dataset=dataset,
                sampler=sampler,
                rounds=rounds,
                evaluate=evaluate,
                evaluate_every=evaluate_every,
                executor=executor,
                participant_ids=participant_ids,
                keep=keep,
            )
            runs = [
                (init_key(seed), _key(seed, first + i if noised else None), setting)
                for i, setting in enumerate(traced)
                for seed in seeds
            ]
            played, spent = play_all(chunk, runs, at_a_time, advance)
            compiling += spent
            results.append(jax.tree.map(lambda x: _by_seed(x, len(seeds)), played))
            settings += [{**names, **setting} for setting in traced]
            template = _tree.like(params) if not callable(params) else _shapes(params, seeds[0])
            traffic += [one.traffic(template)] * len(traced)
    history, kept, run_seconds = _joined(results)
    running = time.perf_counter() - began - compiling
    return Sweep(
        settings=tuple(settings),
        seeds=tuple(seeds),
        history=history,
        traffic=tuple(traffic),
        run_seconds=run_seconds,
        seconds=Timing(compiling, running),
        programs=len(programs),
        kept=kept,
    )


def init_key(seed: int) -> Key:
    """Key of the initial model of a seed; no round of the run draws from it.

    Args:
        seed: seed of a run.

    Returns:
        A typed key.

    Examples:
        >>> import jax
        >>> from fjx import evaluation, models
        >>> model = models.logistic_regression(features=2, classes=2)
        >>> params = model.init(evaluation.init_key(3))  # that of seed 3 in sweep(make, model.init, ...)
    """
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 2)


def _key(seed: int, setting: int | None) -> Key:
    """Root key of a run: that of the seed, or one of this setting alone if its noise must be its own."""
    key = jax.random.key(seed)
    if setting is None:
        return key
    return jax.random.fold_in(jax.random.fold_in(key, 2**32 - 3), setting)


def _shapes(params: Callable[[Key], Tree], seed: int) -> Tree:
    return jax.eval_shape(params, init_key(seed))


def _grid(grid: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Numbers of Python, whose type is weak inside the program as it is outside."""
    numbers: dict[str, list[float]] = {}
    for name, values in grid.items():
        values = np.asarray(values).tolist() if hasattr(values, "dtype") else values
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"grid[{name!r}] must be a list of numbers, got {values!r}")
        numbers[name] = list(values)
        if not numbers[name]:
            raise ValueError(f"grid[{name!r}] is empty; give at least one number")
        for value in numbers[name]:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(
                    f"grid[{name!r}] must be numbers, got {value!r}; other values belong into static="
                )
            _validate.number(f"grid[{name!r}]", value)
    return numbers


def _static(static: Mapping[str, Any]) -> dict[str, dict[Any, Any]]:
    """Values by the name that is printed."""
    parts: dict[str, dict[Any, Any]] = {}
    for name, values in static.items():
        if isinstance(values, Mapping):
            parts[name] = dict(values)
        elif isinstance(values, list | tuple) and not hasattr(values, "_fields"):
            parts[name] = {getattr(value, "__name__", value): value for value in map(_word, values)}
        else:
            raise TypeError(f"static[{name!r}] must be a list or a dict of values, got {values!r}")
        if not parts[name]:
            raise ValueError(f"static[{name!r}] is empty; give at least one value")
        if len(parts[name]) < len(values):
            raise ValueError(f"static[{name!r}] has one value twice: {values!r}")
    return parts


def _word(value: Any) -> Any:
    """A value of a list, which must have a name that can be printed."""
    if isinstance(value, str | int | float | None) or hasattr(value, "__name__"):
        return value
    raise TypeError(
        f"a value of static has no name to print: {type(value).__name__}; give a dict of values by "
        "their names"
    )


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        return list(range(_validate.static_integer("seeds", seeds, at_least=1)))
    if isinstance(seeds, bool) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a number of seeds or a list of integers, got {seeds!r}")
    found = [_validate.static_integer("seeds", seed, at_least=0) for seed in seeds]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be different, and at least one; got {found}")
    return found


def _by_seed(x: np.ndarray, seeds: int) -> np.ndarray:
    return x.reshape(-1, seeds, *x.shape[1:])


def _joined(results: list[Any]) -> Any:
    """Results of several programs, one after another; a metric that one lacks is NaN there."""
    histories = [result[0] for result in results]
    for field in ("rounds", "evaluations"):
        known = {name: x for h in histories for name, x in getattr(h, field).items()}
        for i, history in enumerate(histories):
            own = getattr(history, field)
            size = history.evaluated_at.shape[0]
            missing = {
                name: np.full((size, *x.shape[1:]), np.nan)
                for name, x in known.items()
                if name not in own
            }
            whole = {name: {**own, **missing}[name] for name in sorted(known)}
            histories[i] = histories[i]._replace(**{field: whole})
    shapes = {str(jax.tree.map(lambda x: x.shape[1:], history)) for history in histories}
    if len(shapes) > 1:
        raise ValueError(
            "settings report metrics of different shapes and cannot be one table: sweep them apart"
        )
    history = jax.tree.map(lambda *x: np.concatenate(x), *histories)
    kept, seconds = (
        jax.tree.map(lambda *x: np.concatenate(x), *(r[i] for r in results)) for i in (1, 2)
    )
    return history, kept, seconds


@contextlib.contextmanager
def _bar(progress: bool | None, total: int) -> Iterator[Callable[[int], None]]:
    """Context of a progress bar; it gives a function that several threads may call."""
    with warnings.catch_warnings():  # a notebook without widgets shows a text bar
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    lock = threading.Lock()
    with tqdm(total=total, unit="run", disable=None if progress is None else not progress) as bar:

        def advance(runs: int) -> None:
            with lock:
                bar.update(runs)

        yield advance
