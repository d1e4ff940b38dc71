"""Executors, which run a cohort.  All compute the same round; they differ in memory and time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fjx import _tree, _validate
from fjx._base import Array, Executor, Steps, Tree, TreeLike
from fjx._remembered import remembered

OneClient = Callable[[Tree, Tree], tuple[Tree, Tree]]


@remembered
def vectorized() -> Executor:
    """All clients of the cohort at once, under ``vmap``.

    Memory grows with the cohort, and every client waits for the one with the most steps.

    Returns:
        An :class:`fjx.Executor`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> def client(shared, x):
        ...     return shared * x, x * x
        >>> run = simulation.vectorized()
        >>> total, squares = run(client, 10, jnp.arange(4), jnp.ones(4, jnp.int32))
        >>> int(total), squares.tolist()
        (60, [0, 1, 4, 9])
    """

    def execute(client: OneClient, shared: Tree, slots: Tree, cost: Array) -> tuple[Tree, Tree]:
        summed, stacked = jax.vmap(client, (None, 0))(shared, slots)
        return _sum(summed), stacked

    return execute


@remembered
def chunked(size: int) -> Executor:
    """Some clients at a time under ``vmap``, those with most work first; their outputs are added up.

    Memory is that of ``size`` clients for any cohort.  A chunk takes as long as its longest client, and
    sorting makes that close to its shortest.  ``chunked(1)`` runs one client after another, without
    ``vmap``.

    Args:
        size: number of clients at a time.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``size`` is not a Python integer.
        ValueError: ``size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.chunked(3)
        >>> cost = jnp.array([1, 5, 2, 9])
        >>> total, squares = run(lambda _, x: (x, x * x), (), jnp.arange(4), cost)
        >>> int(total), squares.tolist()
        (6, [0, 1, 4, 9])
    """
    size = _validate.static_integer("size", size, at_least=1)

    def execute(client: OneClient, shared: Tree, slots: Tree, cost: Array) -> tuple[Tree, Tree]:
        count = cost.shape[0]
        # One client leaves the same with and without a vmap over it.  Without one, products and
        # convolutions of its model stay plain; vmap would make them batched.
        width = min(size, max(count, 1))
        chunks = -(-count // width)
        places = _pad(_heaviest_first(cost), chunks * width)
        if width > 1:
            places = places.reshape(chunks, width)

        def step(state: tuple[Tree, Tree], places: Array) -> tuple[tuple[Tree, Tree], None]:
            total, stacked = state
            slot = _take(slots, places)
            if width == 1:
                summed, rows = client(shared, slot)
            else:
                summed, rows = jax.vmap(client, (None, 0))(shared, slot)
                summed = _sum(summed)
            return (jax.tree.map(jnp.add, total, summed), _put(stacked, places, rows)), None

        # Slots are read and rows are written in place, one chunk at a time.  A cohort's client states
        # may be as large as all its models, and each copy of them would cost as much.
        summed, row = _shapes(client, shared, slots)
        start = _tree.zeros_like(summed), _many(row, count)
        (total, stacked), _ = jax.lax.scan(step, start, places)
        return total, stacked

    return execute


class _Lane(NamedTuple):
    """One of the clients in flight.

    Attributes:
        place: ``i32[]``, its place in the queue; the length of the queue if the lane is idle.
        slot: its input.
        t: ``i32[]``, steps done.
        trips: ``i32[]``, steps to do.
        carry: its intermediate state after ``t`` steps.
    """

    place: Array
    slot: Tree
    t: Array
    trips: Array
    carry: Tree


@remembered
def lanes(count: int) -> Executor:
    """Some clients in flight, side by side without ``vmap``, those with most work first.

    Each lane steps through a flat stream of batches: when a client ends, its contribution is added up
    and the next one in the queue begins.  So no lane waits for another before the queue is empty.
    Every lane has operations of its own.  Products of small matrices therefore stay plain (``vmap``
    would make one batched product), and compilation takes longer with every lane.

    Clients whose update is not a :class:`fjx.Steps` run one after another, as in ``chunked(1)``.

    Args:
        count: number of clients in flight.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``count`` is not a Python integer.
        ValueError: ``count`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import Steps, simulation
        >>> powers = Steps(  # 2 to the n, in n steps
        ...     begin=lambda _, n: (n, jnp.int32(1)),
        ...     step=lambda _, n, t, carry: 2 * carry,
        ...     end=lambda _, n, carry: (n, carry))
        >>> n = jnp.array([1, 5, 2, 9])
        >>> total, stacked = simulation.lanes(2)(powers, (), n, n)
        >>> int(total), stacked.tolist()
        (17, [2, 32, 4, 512])
    """
    count = _validate.static_integer("count", count, at_least=1)

    def execute(client: OneClient, shared: Tree, slots: Tree, cost: Array) -> tuple[Tree, Tree]:
        work, queued = Steps.of(client), cost.shape[0]
        if queued == 0:
            return chunked(1)(client, shared, slots, cost)
        order = _pad(_heaviest_first(cost), queued + 1)

        def load(place: Array) -> _Lane:
            slot = _take(slots, order[place])
            return _Lane(place, slot, jnp.int32(0), *work.begin(shared, slot))

        def change(turn: tuple[_Lane, Array, Tree, Tree]) -> tuple[_Lane, Array, Tree, Tree]:
            """The client in the lane hands in its outputs, and the next one begins."""
            lane, following, total, stacked = turn
            summed, row = work.end(shared, lane.slot, lane.carry)
            total = jax.tree.map(jnp.add, total, summed)
            stacked = _put(stacked, order[lane.place], row)
            return load(jnp.minimum(following, queued)), following + 1, total, stacked

        def due(turn: tuple[_Lane, Array, Tree, Tree]) -> Array:
            lane, following = turn[:2]
            something = (lane.place < queued) | (following < queued)
            return (lane.t >= lane.trips) & something

        def tick(state: tuple[tuple[_Lane, ...], Array, Tree, Tree]) -> Tree:
            running, following, total, stacked = state
            moved = []
            for lane in running:
                lane, following, total, stacked = jax.lax.while_loop(
                    due, change, (lane, following, total, stacked)
                )
                # An idle lane steps on with a model that nobody reads.
                carry = work.step(shared, lane.slot, lane.t, lane.carry)
                moved.append(lane._replace(t=lane.t + 1, carry=carry))
            return tuple(moved), following, total, stacked

        def busy(state: tuple[tuple[_Lane, ...], Array, Tree, Tree]) -> Array:
            running, following = state[:2]
            places = jnp.stack([lane.place for lane in running])
            return (following < queued) | jnp.any(places < queued)

        summed, row = _shapes(client, shared, slots)
        idle = load(jnp.int32(queued))._replace(trips=jnp.int32(0))
        start = (
            (idle,) * min(count, queued),
            jnp.int32(0),
            _tree.zeros_like(summed),
            _many(row, queued),
        )
        _, _, total, stacked = jax.lax.while_loop(busy, tick, start)
        return total, stacked

    return execute


@remembered
def sharded(mesh: Mesh, inner: Executor | None = None) -> Executor:
    """The cohort spread over the devices of a mesh, each of which runs its share by an inner executor.

    Clients are dealt heaviest first, back and forth over the devices.  Sums are added across devices
    (``psum``), and stacked outputs are gathered.  The model and the examples are replicated.  Place
    them on the mesh once (``jax.device_put(dataset, NamedSharding(mesh, PartitionSpec()))``), or every
    call will; :func:`fjx.simulate` does.  For that the mesh must be a ``Mesh(devices, names)``: axes of
    ``jax.make_mesh`` are explicit, and arrays placed on them do not mix with others.

    Args:
        mesh: devices; the cohort is spread over all its axes.
        inner: executor of a device's share; :func:`fjx.simulation.vectorized` by default.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``mesh`` is not a ``jax.sharding.Mesh``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.sharded(jax.make_mesh((jax.device_count(),), ("clients",)))
        >>> cost = jnp.ones(5, jnp.int32)
        >>> total, squares = run(lambda _, x: (x, x * x), (), jnp.arange(5), cost)
        >>> int(total), squares.tolist()
        (10, [0, 1, 4, 9, 16])
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    inner = vectorized() if inner is None else inner
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with axes that XLA may shard over as it sees fit
    axes, devices = mesh.axis_names, mesh.size
    clients, everywhere = PartitionSpec(axes), PartitionSpec()

    def execute(client: OneClient, shared: Tree, slots: Tree, cost: Array) -> tuple[Tree, Tree]:
        share = -(-cost.shape[0] // devices)

        # With the check of varying axes on, the transpose of the implicit broadcast of ``shared`` (the
        # model) would add up the gradients of all devices' clients.
        @jax.shard_map(
            mesh=mesh,
            in_specs=(everywhere, clients, clients),
            out_specs=(everywhere, clients),
            check_vma=False,
        )
        def run(shared: Tree, slots: Tree, cost: Array) -> tuple[Tree, Tree]:
            summed, stacked = inner(client, shared, slots, cost)
            return jax.tree.map(lambda x: jax.lax.psum(x, axes), summed), stacked

        # Ranks by weight, dealt back and forth: device 0 gets 0, 2D - 1, 2D, 4D - 1, ...
        deal = jnp.arange(share * devices).reshape(share, devices)
        deal = jnp.where(jnp.arange(share)[:, None] % 2 == 1, deal[:, ::-1], deal).T.reshape(-1)
        places = _pad(_heaviest_first(cost), share * devices)[deal]
        total, stacked = run(shared, *_take((slots, cost), places))
        back = (
            jnp.zeros(cost.shape[0], jnp.int32)
            .at[places]
            .set(jnp.arange(share * devices, dtype=jnp.int32), mode="drop")
        )
        return total, jax.tree.map(lambda x: x[back], stacked)

    return execute


def by_shapes(params: TreeLike, slots: int) -> Executor:
    """An executor of one device that is good without timing.

    A small cohort of small models is bound by the number of kernels launched; it runs all at once.  A
    CPU runs other cohorts one client after another, because the products of one client's matrices are
    faster than batched products.
    """
    if is_small(params, slots) or jax.default_backend() != "cpu":
        return vectorized()
    return chunked(1)


def is_small(params: TreeLike, slots: int) -> bool:
    """True if all models of the cohort together are at most a megabyte."""
    models = slots * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return models <= 2**20


def _shapes(client: OneClient, shared: Tree, slots: Tree) -> tuple[Tree, Tree]:
    """The outputs of one client, as shapes and dtypes."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), slots)
    return jax.eval_shape(client, shared, one)


def _heaviest_first(cost: Array) -> Array:
    """Slots by descending cost; a stable sort, so that equal work keeps the order given."""
    return jnp.argsort(-cost, stable=True)


def _pad(order: Array, total: int) -> Array:
    """The order, followed by places of nobody: there is no slot at its length."""
    return jnp.pad(order, (0, total - order.shape[0]), constant_values=order.shape[0])


def _take(slots: Tree, places: Array) -> Tree:
    """The slots at these places, and slots of zeros, which do nothing, at places of nobody."""
    return jax.tree.map(lambda x: x.at[places].get(mode="fill", fill_value=0), slots)


def _put(stacked: Tree, places: Array, rows: Tree) -> Tree:
    """Rows written at these places; rows at places of nobody are written nowhere."""
    return jax.tree.map(lambda x, row: x.at[places].set(row, mode="drop"), stacked, rows)


def _many(row: Tree, count: int) -> Tree:
    return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), row)


def _sum(tree: Tree) -> Tree:
    """Adds over the leading axis without widening: an integer sum wraps, as a secure sum does."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), tree)
