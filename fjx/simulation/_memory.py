"""Memory that a round needs, known before it runs."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Algorithm, Executor, Tree
from fjx.data import FederatedData
from fjx.rounds._executors import chunked
from fjx.samplers import Sampler
from fjx.simulation._program import initial_state
from fjx.simulation._table import gather


class Memory(NamedTuple):
    """Bytes on one device, as the compiler planned them.

    Attributes:
        arguments: bytes of the inputs: examples, model, table of clients.
        temporaries: bytes that exist only while the program runs.
        outputs: bytes of the results, except those written over the arguments.
    """

    arguments: int
    temporaries: int
    outputs: int

    @property
    def total(self) -> int:
        """Bytes of all three together."""
        return self.arguments + self.temporaries + self.outputs


def memory(
    algorithm: Algorithm,
    params: Tree,
    dataset: FederatedData,
    *,
    sampler: Sampler,
    executor: Executor | None = None,
) -> Memory:
    """Memory that one round needs, read from the compiled program; nothing runs.

    Args:
        algorithm: algorithm from :func:`fjx.compose`.
        params: model.
        dataset: clients' examples.
        sampler: sampler, which decides the number of slots of a cohort.
        executor: executor of a cohort; by default one that usually suits the shapes, on one device.

    Returns:
        A :class:`Memory` for each of the devices that take part.

    Examples:
        A chunk of four keeps four models, a chunk of one keeps one:

        >>> import jax.numpy as jnp, fjx
        >>> from fjx import data, samplers, simulation
        >>> dataset = data.from_clients([jnp.ones((3, 1000))] * 8)
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.1, batch_size=1)
        >>> four, one = (
        ...     simulation.memory(algorithm, jnp.zeros((1, 1000)), dataset,
        ...         sampler=samplers.full(), executor=simulation.chunked(k)).temporaries
        ...     for k in (4, 1))
        >>> four - one > 3 * 4 * 1000
        True
    """
    state = jax.eval_shape(lambda p: initial_state(algorithm, p, dataset.num_clients), params)
    slots = sampler.capacity(dataset.num_clients)
    ids = jnp.arange(slots, dtype=jnp.int32)

    def play(key: Any, state: Any, dataset: FederatedData) -> Any:
        rows = gather(state.clients, ids)
        server, rows, _ = algorithm.round(
            key, state.algorithm, rows, dataset.cohort(ids), executor=executor
        )
        return server, rows

    key = jax.eval_shape(lambda: jax.random.key(0))
    return planned(jax.jit(play).lower(key, state, _tree.like(dataset)).compile())


def widest_chunk(
    algorithm: Algorithm,
    params: Tree,
    dataset: FederatedData,
    *,
    sampler: Sampler,
    budget: int | None = None,
) -> int:
    """Largest k for which :func:`fjx.simulation.chunked` fits into a memory budget.

    The memory of one client is the difference between compiled chunks of two and of four clients.

    Args:
        algorithm: algorithm from :func:`fjx.compose`.
        params: model.
        dataset: clients' examples.
        sampler: sampler, which decides the number of slots of a cohort.
        budget: bytes on a device for everything; by default nine tenths of the free memory.

    Returns:
        A number of clients, at least 1 and at most the slots of a cohort.

    Raises:
        MemoryError: not even one client at a time fits.
        ValueError: the device does not report its memory, and there is no ``budget``.

    Examples:
        >>> import jax.numpy as jnp, fjx
        >>> from fjx import data, samplers, simulation
        >>> dataset = data.from_clients([jnp.ones((3, 1000))] * 8)
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.1, batch_size=1)
        >>> simulation.widest_chunk(
        ...     algorithm, jnp.zeros((1, 1000)), dataset, sampler=samplers.full(), budget=2**30)
        8
    """
    if budget is None:
        left = available()
        if left is None:
            raise ValueError("the device does not report its memory; give a budget in bytes")
        budget = left * 9 // 10
    _validate.integer("budget", budget, at_least=1)
    slots = sampler.capacity(dataset.num_clients)
    one, two, four = (
        memory(algorithm, params, dataset, sampler=sampler, executor=chunked(k)).total
        for k in (1, 2, 4)
    )
    if one > budget:
        raise MemoryError(
            f"one client at a time needs {_human(one)}, more than {_human(budget)}: use a smaller "
            "model or batch, or keep the examples on the host (fjx.data.on_host)"
        )
    each = max((four - two) // 2, 1)
    return max(1, min(slots, 2 + (budget - two) // each))


def planned(compiled: Any) -> Memory:
    """Memory that the compiler planned for a program, on each of its devices."""
    stats = compiled.memory_analysis()
    return Memory(
        stats.argument_size_in_bytes,
        stats.temp_size_in_bytes,
        max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
    )


def require_room(compiled: Any) -> None:
    """Raise if a program needs more memory than there is, before it would be killed half-way.

    Raises:
        MemoryError: the program does not fit; the error states its need and a remedy.
    """
    devices = {d for s in jax.tree.leaves(compiled.input_shardings) for d in s.device_set}
    local = [d for d in devices if d.process_index == jax.process_index()]
    if not local:
        return
    plan, left = planned(compiled), available(local[0])
    # All devices of a CPU share one memory.
    needed = (plan.temporaries + plan.outputs) * (len(local) if local[0].platform == "cpu" else 1)
    if left is not None and needed > left:
        raise MemoryError(
            f"a block of rounds needs {_human(needed)} beside its inputs, but {_human(left)} are "
            "left: run fewer clients at a time with executor=simulation.chunked(k) "
            "(simulation.widest_chunk finds the largest k), or sample fewer clients"
        )


def available(device: Any = None) -> int | None:
    """Free bytes of a device; None if it does not report them."""
    device = jax.local_devices()[0] if device is None else device
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min((x for x in (_machine(), _container()) if x is not None), default=None)


def _machine() -> int | None:
    """Memory that Linux reports as available."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that a control group leaves of its limit; its file cache counts as free."""
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cache = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):  # "max" is not a number: no limit
        return None
    return limit - used + cache


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
