"""Running an algorithm: compiled blocks of rounds, and a host that watches between them."""

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from fjx import _tree, _validate
from fjx._base import Algorithm, Executor, Key, Metrics, Tree
from fjx._plan import Plan
from fjx._plan_examples import ExamplesPlan
from fjx.data import FederatedData
from fjx.privacy import Epsilon
from fjx.samplers import Sampler
from fjx.simulation._callbacks import Callback, together
from fjx.simulation._checkpoint import Checkpoints, noise_of
from fjx.simulation._compile import Compiler, first_copy
from fjx.simulation._ends import Stop, claim, diverged_at, ends, require_public_scores
from fjx.simulation._fastest import ExecutorChoice, fastest, usual
from fjx.simulation._identity import data_of
from fjx.simulation._ledger import Ledger
from fjx.simulation._premises import require_premises
from fjx.simulation._program import (
    Evaluate,
    History,
    Run,
    SimulationState,
    initial_state,
    require_parts,
    require_scheduled,
)
from fjx.simulation._resident import Resident
from fjx.simulation._scores import before_first_round
from fjx.simulation._stream import Stream
from fjx.simulation._summary import summary
from fjx.simulation._table import TableOf, is_hosted, make_table

_ROOM = 10  # rounds for which every program has room


class Timing(NamedTuple):
    """Seconds of a run by phase.

    Attributes:
        compiling: seconds of tracing, lowering and compiling, and of checking the loss function.
        running: seconds of everything else.
    """

    compiling: float
    running: float


class Result(NamedTuple):
    """Result of :func:`simulate`; ``print`` shows a summary.

    Attributes:
        params: model after the last round that counts.
        state: state from which the run can continue; ``state.client(id)`` is a client's own state.
        history: NumPy arrays, one entry for each round or evaluation.
        ledger: exact bits in both directions.
        seconds: compiling and running time of this call.
        stopped: reason of the end: ``"finished"``, ``"early"`` (``stop`` returned True),
            ``"interrupted"`` (Ctrl-C) or ``"diverged"`` (something was not finite).
        diverged_at: first round (from 1) after which something is not finite: the model or its state,
            the loss, a score, or every message that was sent; None if there is none.
        choice: choice of ``executor="auto"``; None for any other executor.
        compiled: names of the programs that this call compiled; empty if earlier calls had all of them.
        privacy: claim of the plan, if there is one, for all rounds of the run, those of its checkpoint
            included.  If the run ended before its last round, it is that of all rounds that it could
            have had, because the end may depend on the data.
    """

    params: Tree
    state: SimulationState
    history: History
    ledger: Ledger
    seconds: Timing
    stopped: str
    diverged_at: int | None
    choice: ExecutorChoice | None
    compiled: tuple[str, ...] = ()
    privacy: Epsilon | None = None

    def __str__(self) -> str:
        return summary(self)


def simulate(
    key: Key,
    algorithm: Algorithm,
    params: Tree,
    dataset: FederatedData,
    *,
    sampler: Sampler,
    rounds: int,
    executor: Executor | Literal["auto"] | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 10,
    evaluate_first: bool = False,
    participant_ids: bool = False,
    callbacks: Sequence[Callback] = (),
    table: TableOf = make_table,
    stop: Stop | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_nonfinite: str = "stop",
    plan: Plan | ExamplesPlan | None = None,
    progress: bool | None = None,
) -> Result:
    """Run an algorithm for some rounds, in compiled blocks of ``evaluate_every`` rounds.

    Between blocks the host reads the evaluation, moves the progress bar, calls the callbacks, writes
    a checkpoint and stops early if asked.  For a run that is one pure function, see
    :func:`fjx.simulation.program`.

    A second call with the same algorithm, evaluation and shapes compiles nothing.  Functions are traced
    once, as by ``jax.jit``: if a loss or a score reads a global, an attribute or a NumPy array that
    changes later, make a new algorithm or a new evaluation after the change.

    Data may be larger than the device.  If the dataset is on the host (:func:`fjx.data.on_host`,
    :func:`fjx.data.open`), only the examples of a cohort are copied to the device, while the
    previous round computes.  The same holds for clients' rows if the table is on the host.

    Guarantees:
        - The result depends only on the key, the state and the data; and, by the order of floating sums,
          on the executor and the number of devices.
        - A run that is resumed from a checkpoint is bitwise the run without the interruption.  One that
          ended by itself, early or diverged, is returned as it is.
        - With noise, nothing without noise ends the run by itself: it diverges only if its model does.
        - Ctrl-C ends the run after the current block and returns the result so far; a second Ctrl-C
          raises KeyboardInterrupt.

    Args:
        key: root key; round t uses ``fold_in(key, t)``.
        algorithm: algorithm from :func:`fjx.compose`.
        params: initial model.
        dataset: clients' examples.
        sampler: sampler of the participants of a round.
        rounds: number of rounds in all, including those of a checkpoint.
        executor: executor of a cohort.  By default one that usually suits the shapes, on all
            devices; ``"auto"`` times executors and takes the fastest, see
            :func:`fjx.simulation.fastest`.
        evaluate: traced evaluation ``(params) -> {name: scores}``, with scalars or arrays; see
            :func:`fjx.simulation.evaluation` and, for a score of each client,
            :func:`fjx.simulation.per_client`.  It runs code on the host, such as a score of
            scikit-learn, through ``jax.pure_callback``.
        evaluate_every: rounds in a block.
        evaluate_first: True to evaluate the initial model as well, as round 0; ``stop`` is not asked.
        participant_ids: True to keep the ids of each round's participants in the history, 4 bytes a
            slot and round; see :meth:`History.participation`.
        callbacks: functions ``(round, state, history)`` called after each block, in this order; see
            :data:`Callback`.
        table: place of the clients' states: :func:`fjx.simulation.make_table` on the device,
            :func:`fjx.simulation.host_table`, or a :func:`fjx.simulation.mapped_table`.
        stop: function of the scores of an evaluation that returns True to stop; scalars are floats.
            With a plan the scores must be of public examples: the claim says so, and those of the
            dataset are refused.
        checkpoint: folder of this run alone; the newest checkpoint in it is resumed.  Its rounds must
            have had the mechanism and the sampler of this run, so that one claim covers both, and the
            same dataset (sizes, weights, columns, and a sample of the rows are compared).
        on_nonfinite: ``"stop"`` to end after the block in which the run diverges, see
            ``Result.diverged_at``, or ``"continue"``.  If models are noised, only a model that is not
            finite stops the run, because counts, losses and scores may have no noise.
        plan: plan from :func:`fjx.plan` or :func:`fjx.plan_examples`; a run that differs from it is
            refused, and the result carries its claim.
        progress: True for a progress bar on stderr; None shows it if stderr is a terminal.

    Returns:
        A :class:`Result`.

    Raises:
        TypeError: a legacy key; an argument of a wrong type; ``evaluate`` reads values on the host.
        ValueError: a number or word is out of range; no client has an example; a plain loss function
            or one of its metrics is not a mean over examples (see :func:`fjx.clients.per_example`);
            ``evaluate`` does not return a dict of arrays; there is a ``stop`` or an ``evaluate_first``
            without an ``evaluate``; with a plan, ``stop`` would read scores of the dataset; the
            checkpoint belongs to a run with another key or to a state with other parts, shapes or
            dtypes (the caller must give the same hyper-parameters), or its rounds had other noise,
            sampling or data; the aggregator, sampler or population is not the planned one, or there
            are more rounds than planned, or than a schedule has values.
        MemoryError: a block of rounds needs more memory than there is; nothing has run.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> dataset = fjx.data.from_clients([jnp.array([1.0]), jnp.array([3.0])])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=1)
        >>> result = fjx.simulate(
        ...     jax.random.key(0), algorithm, jnp.array(0.0), dataset,
        ...     sampler=fjx.samplers.full(), rounds=3)
        >>> float(result.params), result.ledger.uplink
        (2.0, 192)
    """
    _validate.key("key", key)
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    if isinstance(executor, str) and executor != "auto":
        raise ValueError(
            f'executor must be from fjx.simulation, such as chunked(8), or "auto", got {executor!r}'
        )
    if on_nonfinite not in ("stop", "continue"):
        raise ValueError(f'on_nonfinite must be "stop" or "continue", got {on_nonfinite!r}')
    if stop is not None and evaluate is None:
        raise ValueError("stop reads the scores of evaluate, but evaluate is None; give both")
    if evaluate_first and evaluate is None:
        raise ValueError("evaluate_first=True calls evaluate, but evaluate is None; give both")
    call = together(callbacks)
    require_parts(algorithm, dataset, sampler)
    require_scheduled(algorithm, rounds)
    if plan is not None:
        if stop is not None:
            require_public_scores(evaluate, dataset.arrays)
        sizes = np.diff(np.asarray(dataset.offsets))
        plan.check(algorithm, sampler, num_clients=dataset.num_clients, rounds=rounds, sizes=sizes)
    evaluate_every = _validate.static_integer("evaluate_every", evaluate_every, at_least=1)
    start = initial_state(algorithm, params, dataset.num_clients, table)
    slots = sampler.capacity(dataset.num_clients)  # raises if there are too few clients
    traffic = algorithm.traffic(_tree.like(start.params))
    choice = None
    if executor is None:
        # Of examples on the host, devices hold those of a cohort only.
        executor = usual(start.params, slots, () if dataset.hosted else dataset.arrays)
    elif executor == "auto":
        choice = fastest(key, algorithm, params, dataset, sampler=sampler)
        executor = choice.executor
    began, compiler = time.perf_counter(), Compiler()
    run = Run(key, algorithm, dataset, sampler, executor, evaluate, participant_ids)

    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Checkpoints.open(checkpoint)) if checkpoint else None
        noise = noise_of(algorithm, sampler, plan, dataset.num_clients) if store else {}
        data = data_of(dataset) if store else {}
        state, blocks, ended, asked = (
            store.resume(key, start, noise, data) if store else (start, [], "", 0)
        )
        asked = max(asked, rounds)
        done = int(state.round)
        if done > rounds:
            raise ValueError(
                f"the checkpoint in {checkpoint} has done {done} rounds, more than rounds={rounds}; "
                "ask for at least that many, or give another folder"
            )
        interrupted = stack.enter_context(_ctrl_c())
        bar = stack.enter_context(_bar(progress, rounds, done, choice))
        over = {"early": stop is not None, "diverged": on_nonfinite == "stop"}
        stopped = ended if over.get(ended) else "finished"
        play: Resident | Stream | None = None
        while done < rounds and stopped == "finished":
            # Blocks end at multiples of evaluate_every, even if the run was resumed between two.
            length = min(evaluate_every - done % evaluate_every, rounds - done)
            play = play or _player(run, state, rounds, evaluate_every, compiler)
            coming = play.coming(length)
            _require_history(coming, blocks)
            with compiler.clock():
                for premises in compiler.premises:
                    require_premises(premises, params, dataset, private=plan is not None)
            if evaluate_first and done == 0:
                blocks.append(before_first_round(play.scores, state, coming))
                call(0, state, blocks[-1])
            state, block = play(state, length)
            blocks.append(block)
            done += length
            scores = _last(block.evaluations)
            bar(length, scores)
            call(done, state, block)
            if on_nonfinite == "stop" and ends(block):
                stopped = "diverged"
            elif stop is not None and scores and stop(scores):
                stopped = "early"
            elif _anywhere(interrupted(), state):
                stopped = "interrupted"
            if store is not None:
                store.save(done, key, state, _join(blocks), noise, data, stopped, asked)

    history = _join(blocks)
    if jax.process_count() == 1:
        state = first_copy(state)
    expected = algorithm.expected and algorithm.expected(_tree.like(state.params), done)
    return Result(
        params=state.params,
        state=state,
        history=history,
        ledger=Ledger.of(traffic, history.rounds, expected),
        seconds=Timing(compiler.seconds, time.perf_counter() - began - compiler.seconds),
        stopped=stopped,
        diverged_at=diverged_at(history),
        choice=choice,
        compiled=compiler.names,
        privacy=None if plan is None else claim(plan, asked, done, stopped, stop),
    )


def _player(
    run: Run, state: SimulationState, rounds: int, evaluate_every: int, compiler: Compiler
) -> Resident | Stream:
    """Player of a run's blocks, compiled."""
    if run.dataset.hosted or is_hosted(state.clients):
        return Stream(run, state, rounds, compiler)
    # One program for all blocks, and for other runs of as few rounds.
    return Resident(run, state, min(evaluate_every, max(rounds, _ROOM)), compiler)


def _require_history(coming: History, blocks: list[History]) -> None:
    """Raise unless the host can read the coming history and join it to the previous blocks."""
    scores = coming.evaluations
    if not isinstance(scores, Mapping) or not all(hasattr(x, "shape") for x in scores.values()):
        raise ValueError(f"evaluate must return a dict of arrays; stacked, it returned {scores}")
    forms = [jax.tree.map(lambda x: x.shape[1:], history) for history in (coming, *blocks[:1])]
    if forms[0] != forms[-1]:
        raise ValueError(
            "the checkpoint belongs to a run with other evaluations or metrics; "
            "give the same ones or another folder"
        )


def _last(evaluations: Metrics) -> dict[str, Any]:
    """Scores of the last evaluation: scalars are floats, other scores are arrays."""
    return {name: x[-1] if x.ndim > 1 else float(x[-1]) for name, x in evaluations.items()}


def _join(blocks: list[History]) -> History:
    return jax.tree.map(lambda *x: np.concatenate(x), *blocks)


def _anywhere(flag: bool, state: SimulationState) -> bool:
    """True if the flag is up in any process that shares the run."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(state.params)):
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Context that notes the first Ctrl-C instead of raising it.

    A block in flight owns the donated state, so an exception would lose it.
    """
    noted = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True
        print("\nstopping after this block; Ctrl-C again to stop now", file=sys.stderr)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _bar(
    progress: bool | None, rounds: int, done: int, choice: ExecutorChoice | None
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    with warnings.catch_warnings():  # a notebook without widgets shows a text bar
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    disable = None if progress is None else not progress
    if jax.process_index() != 0:
        disable = True
    with tqdm(total=rounds, initial=done, unit="round", disable=disable) as bar:
        if choice is not None and not bar.disable:
            bar.write(str(choice), file=sys.stderr)

        def advance(length: int, scores: Mapping[str, Any]) -> None:
            numbers = {name: f"{x:.4g}" for name, x in scores.items() if isinstance(x, float)}
            bar.set_postfix(numbers, refresh=False)
            bar.update(length)

        yield advance
