"""The fastest executor on this machine, found by timing."""

import functools
import math
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fjx import _validate
from fjx._base import Algorithm, Cohort, Executor, Key, Tree
from fjx.data import FederatedData, on_device, take_clients
from fjx.rounds._executors import by_shapes, chunked, is_small, lanes, sharded, vectorized
from fjx.samplers import Sampler
from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._devices import tell_of_idle_cores
from fjx.simulation._memory import available
from fjx.simulation._program import initial_state, require_parts, sampling_key
from fjx.simulation._table import gather

_SECONDS = 0.15  # a trial round is shortened to about this
_TIMES = 4  # repetitions of a trial, of which the best counts
_GLANCE = 1 / 16  # share of the examples in a first, short trial


class ExecutorChoice(NamedTuple):
    """Result of :func:`fastest`.

    Attributes:
        executor: fastest executor.
        name: name of the executor.
        seconds: time of the trial round by name.  In that round every client has the same share of
            its examples.  An executor that was given up has infinity.
    """

    executor: Executor
    name: str
    seconds: dict[str, float]

    def __str__(self) -> str:
        ranked = sorted(self.seconds.items(), key=lambda item: item[1])
        times = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in ranked if s < math.inf)
        given_up = [name for name, s in ranked if s == math.inf]
        return f"{self.name} is the fastest executor here ({times}" + (
            f"; given up: {', '.join(given_up)})" if given_up else ")"
        )


def fastest(
    key: Key, algorithm: Algorithm, params: Tree, dataset: FederatedData, *, sampler: Sampler
) -> ExecutorChoice:
    """The fastest executor, timed on the real algorithm, model and data.

    Chunks and lanes are widened as long as that helps.  With several devices, every candidate is
    spread over all of them.  The trial is a cohort of the first round in which clients have a share
    of their examples.

    Most of the time is spent on compiling the trial for each candidate.  The choice is remembered
    for the algorithm, the shapes and the devices.

    Guarantees:
        - The choice affects a run only through the order of floating sums.  It depends on the
          clock, so name the executor of runs that must agree bit for bit.

    Args:
        key: root key of the run.
        algorithm: algorithm from :func:`fjx.compose`.
        params: model.
        dataset: clients' examples, on the device or on the host.
        sampler: sampler of the participants of a round.

    Returns:
        An :class:`ExecutorChoice`; its ``str`` explains the choice.

    Raises:
        TypeError: an argument has a wrong type or is traced.
        MemoryError: no executor fits in memory.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import data, samplers, simulation
        >>> dataset = data.from_clients([jnp.ones((n, 2)) for n in (3, 1)])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.1, batch_size=1)
        >>> choice = simulation.fastest(
        ...     jax.random.key(0), algorithm, jnp.zeros((1, 2)), dataset, sampler=samplers.full())
        >>> choice.seconds[choice.name] == min(choice.seconds.values())
        True
    """
    require_parts(algorithm, dataset, sampler)
    _validate.key("key", key)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((key, params, dataset))):
        raise TypeError(
            "executors cannot be timed inside jit, vmap or scan; choose with simulation.fastest "
            "outside, and pass its .executor"
        )
    state, cohort = _trial(key, algorithm, params, dataset, sampler)
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves((state, cohort))]
    about = (str(shapes), jax.tree.structure((state, cohort)), tuple(jax.devices()))
    known = _CHOICES.setdefault(algorithm.round, {})
    if about not in known:
        slots = cohort.ids.shape[0]
        share = -(-slots // jax.device_count())
        player = functools.partial(_player, key, algorithm, state, cohort)
        known[about] = _search((_chunks(share), _lanes(share)), player, slots)
    return known[about]


# Keyed weakly by the algorithm's round function, so that a choice disappears with its algorithm.
_CHOICES: Any = weakref.WeakKeyDictionary()


def usual(params: Tree, slots: int, data: Tree) -> Executor:
    """An executor that is good without timing, chosen by shapes so that a run can be repeated.

    It is :func:`fjx.rounds._executors.by_shapes`, spread over all devices if the cohort is large.  A
    device without a client of its own is left out, and so are CPU devices whose copies of the examples
    would take more than half of the memory that is free.
    """
    inner = by_shapes(params, slots)
    if is_small(params, slots):
        return inner
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return spread(inner)
    tell_of_idle_cores()
    copy, free = sum(x.nbytes for x in jax.tree.leaves(data)), available()
    fitting = slots if free is None or not copy else max(1, free // (2 * copy))
    return spread(inner, at_most=min(slots, fitting))


def spread(inner: Executor, at_most: int | None = None) -> Executor:
    """The executor over all devices of all processes, or over the first few."""
    devices = jax.devices()[:at_most]
    if len(devices) == 1:
        return inner
    return sharded(Mesh(np.asarray(devices), ("clients",)), inner)


def _trial(
    key: Key, algorithm: Algorithm, params: Tree, dataset: FederatedData, sampler: Sampler
) -> tuple[Any, Cohort]:
    """A state and a cohort for timing rounds."""
    ids = sampler.sample(sampling_key(key), jnp.int32(0), dataset.num_clients).ids
    if dataset.hosted:  # put only the cohort's examples on the device
        real = [int(i) for i in np.asarray(ids) if i < dataset.num_clients]
        dataset = on_device(take_clients(dataset, real or [0]))
        places = jnp.arange(ids.shape[0], dtype=jnp.int32)
        ids = jnp.minimum(places, dataset.num_clients)
    state = initial_state(algorithm, params, 1)
    return state, dataset.cohort(jnp.sort(ids))


Play = Callable[[float, int], float]
"""A function ``(fraction, clients) -> seconds``.

It times a round in which the first ``clients`` clients have this fraction of their examples.
"""


def _search(
    ladders: Iterable[Iterable[tuple[str, Executor]]],
    player: Callable[[Executor], Play],
    clients: int,
) -> ExecutorChoice:
    """Fastest executor; each ladder is climbed as long as that helps."""
    found: dict[str, Executor] = {}
    seconds: dict[str, float] = {}
    glances: list[float] = []
    fraction = 1.0
    for ladder in ladders:
        for name, executor in ladder:
            best = min(seconds.values(), default=math.inf)
            found[name], seconds[name] = executor, math.inf
            try:
                play = player(executor)
            except MemoryError:
                break
            # Some forms of XLA are slower by orders of magnitude; a short trial detects them early.
            glances.append(play(_GLANCE, 8))
            if glances[-1] > max(2 * min(glances), 3 * _SECONDS):
                break
            if len(seconds) == 1:
                whole = play(_GLANCE, clients) / _GLANCE
                fraction = min(1.0, max(_GLANCE, _SECONDS / whole))
            seconds[name] = min(play(fraction, clients) for _ in range(_TIMES))
            if seconds[name] >= best:
                break
    name = min(seconds, key=lambda name: seconds[name])
    if seconds[name] == math.inf:
        raise MemoryError(f"not even {name} fits in the memory left; use a smaller model or batch")
    return ExecutorChoice(found[name], name, seconds)


def _chunks(slots: int) -> Iterable[tuple[str, Executor]]:
    """Chunks from one client at a time to all at once; in reverse order on an accelerator."""
    widths = [width for width in (1, 8, 32, 128, 512) if width < slots]
    ladder = [_named(f"chunked({width})", chunked(width)) for width in widths]
    ladder.append(_named("vectorized()", vectorized()))
    return ladder if jax.default_backend() == "cpu" else ladder[::-1]


def _lanes(slots: int) -> Iterable[tuple[str, Executor]]:
    return [_named(f"lanes({k})", lanes(k)) for k in (2, 4, 8) if k <= slots]


def _named(name: str, inner: Executor) -> tuple[str, Executor]:
    return (name if jax.device_count() == 1 else f"sharded(mesh, {name})"), spread(inner)


def _player(key: Key, algorithm: Algorithm, state: Any, cohort: Cohort, executor: Executor) -> Play:
    """Timing function of a round with an executor; compiles the round."""

    def play(key: Key, state: Any, cohort: Cohort) -> Tree:
        rows = gather(state.clients, jnp.zeros_like(cohort.ids))
        server, rows, _ = algorithm.round(key, state.algorithm, rows, cohort, executor=executor)
        return server, rows

    trial = Once(jax.jit(play, keep_unused=True))
    compiled, _ = Compiler()("trial", trial, key, state, cohort)
    on_key, on_state, on_cohort = compiled.input_shardings[0]
    key, state, cohort = place(key, on_key), place(state, on_state), place(cohort, on_cohort)
    sizes = np.asarray(cohort.examples.size)

    def seconds(fraction: float, clients: int) -> float:
        size = np.ceil(sizes * fraction) * (np.arange(len(sizes)) < clients)
        cut = place(size.astype(np.int32), on_cohort.examples.size)
        trial = cohort._replace(examples=cohort.examples._replace(size=cut))
        jax.block_until_ready(trial)
        began = time.perf_counter()
        jax.block_until_ready(compiled(key, state, trial))
        return time.perf_counter() - began

    return seconds
