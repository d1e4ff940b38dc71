"""How a cohort is run.  Every executor computes the same round; they differ in memory and time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fjx import _validate
from fjx._base import Array, Executor, Tree

OneClient = Callable[[Tree], tuple[Tree, Tree]]


def vectorized() -> Executor:
    """Runs all clients of the cohort at once under ``vmap``.

    Memory grows with the cohort, and every client waits for the one with the most steps.

    Returns:
        An :class:`fjx.Executor`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.vectorized()
        >>> total, squares = run(lambda x: (x, x * x), jnp.arange(4), jnp.ones(4, jnp.int32))
        >>> int(total), squares.tolist()
        (6, [0, 1, 4, 9])
    """

    def execute(client: OneClient, inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
        summed, stacked = jax.vmap(client)(inputs)
        return _sum(summed), stacked

    return execute


def chunked(size: int) -> Executor:
    """Runs ``size`` clients at a time, those with most work first, and adds up as it goes.

    Memory is that of ``size`` clients whatever the cohort, and a chunk takes as long as its longest
    client, which sorting makes close to its shortest.

    Args:
        size: clients at a time.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``size`` is not a Python integer.
        ValueError: ``size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.chunked(3)
        >>> total, squares = run(lambda x: (x, x * x), jnp.arange(4), jnp.array([1, 5, 2, 9]))
        >>> int(total), squares.tolist()
        (6, [0, 1, 4, 9])
    """
    _validate.static_integer("size", size, at_least=1)

    def execute(client: OneClient, inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
        slots = cost.shape[0]
        order, chunks = _heaviest_first(cost), -(-slots // size)
        arranged = _arrange(inputs, order, chunks * size)
        rows = jax.tree.map(lambda x: x.reshape(chunks, size, *x.shape[1:]), arranged)

        def step(total: Tree, chunk: Tree) -> tuple[Tree, Tree]:
            summed, stacked = jax.vmap(client)(chunk)
            return jax.tree.map(jnp.add, total, _sum(summed)), stacked

        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
        summed_like = jax.eval_shape(client, one)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), summed_like)
        total, stacked = jax.lax.scan(step, zeros, rows)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)
        return total, _restore(flat, order)

    return execute


def sharded(mesh: Mesh, inner: Executor | None = None) -> Executor:
    """Spreads the cohort over the devices of a mesh; each runs its share by an inner executor.

    Clients are dealt heaviest first, back and forth over the devices.  Sums are added across devices
    (``psum``), stacked outputs gathered.  The model and the examples are replicated.

    Args:
        mesh: devices; the cohort is spread over all its axes.
        inner: how a device runs its share; :func:`fjx.simulation.vectorized` by default.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``mesh`` is not a ``jax.sharding.Mesh``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.sharded(jax.make_mesh((jax.device_count(),), ("clients",)))
        >>> total, squares = run(lambda x: (x, x * x), jnp.arange(5), jnp.ones(5, jnp.int32))
        >>> int(total), squares.tolist()
        (10, [0, 1, 4, 9, 16])
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    inner = vectorized() if inner is None else inner
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with axes that XLA may shard over as it sees fit
    axes, devices = mesh.axis_names, mesh.size
    clients, everywhere = PartitionSpec(axes), PartitionSpec()

    def execute(client: OneClient, inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
        share = -(-cost.shape[0] // devices)

        # What `client` closes over (the model) is replicated.  With the check of varying axes on, the
        # transpose of its implicit broadcast would add the gradients of all devices' clients.
        @jax.shard_map(
            mesh=mesh,
            in_specs=(clients, clients),
            out_specs=(everywhere, clients),
            check_vma=False,
        )
        def run(inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
            summed, stacked = inner(client, inputs, cost)
            return jax.tree.map(lambda x: jax.lax.psum(x, axes), summed), stacked

        # Ranks by weight, dealt back and forth: device 0 gets 0, 2D - 1, 2D, 4D - 1, ...
        deal = jnp.arange(share * devices).reshape(share, devices)
        deal = jnp.where(jnp.arange(share)[:, None] % 2 == 1, deal[:, ::-1], deal).T.reshape(-1)
        order = _heaviest_first(cost)
        dealt = jax.tree.map(lambda x: x[deal], _arrange((inputs, cost), order, share * devices))
        total, stacked = run(*dealt)
        undone = jax.tree.map(lambda x: x[jnp.argsort(deal)], stacked)
        return total, _restore(undone, order)

    return execute


def _heaviest_first(cost: Array) -> Array:
    """Slots by descending cost; a stable sort, so that equal work keeps the order given."""
    return jnp.argsort(-cost, stable=True)


def _arrange(inputs: Tree, order: Array, total: int) -> Tree:
    """The slots in ``order``, padded to ``total`` with slots of zeros, which do nothing."""

    def pad(x: Array) -> Array:
        return jnp.pad(x[order], [(0, total - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    return jax.tree.map(pad, inputs)


def _restore(stacked: Tree, order: Array) -> Tree:
    """The inverse of :func:`_arrange`."""
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x[: order.shape[0]][back], stacked)


def _sum(tree: Tree) -> Tree:
    """Adds over the leading axis without widening: an integer sum wraps, as a secure sum does."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), tree)
