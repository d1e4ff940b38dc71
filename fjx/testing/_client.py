"""The laws of client updates."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import data
from fjx._base import ClientUpdate, Examples, Public, Template, Tree, Turn
from fjx.testing import _laws
from fjx.testing._laws import Law, attempt, require
from fjx.testing._problem import linear_regression


def check_client_update(
    client: ClientUpdate,
    params: Tree | None = None,
    dataset: data.FederatedData | None = None,
    *,
    broadcast: Tree | None = None,
) -> None:
    """Checks every law of a client update, up to the first that does not hold.

    Every client of the dataset makes one update from the broadcast.  A dataset with ragged clients, an
    empty one among them, says most.

    Args:
        client: the client update, made with a loss for this model and these data.
        params: the model; None for that of :func:`linear_regression`.
        dataset: the clients' examples; None for those of :func:`linear_regression`.
        broadcast: the tree that the server sends, if it is more than the model.

    Raises:
        TypeError: ``client`` is not a :class:`fjx.ClientUpdate`.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> import optax
        >>> from fjx import clients, testing
        >>> problem = testing.linear_regression()
        >>> client = clients.local_sgd(problem.loss_fn, optax.sgd(0.1), epochs=1, batch_size=2)
        >>> other = client._replace(message=lambda params: {"w": params["w"]})
        >>> testing.check_client_update(other)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'message_is_like_its_template' does not hold
    """
    _laws.run(client_laws(client, params, dataset, broadcast=broadcast))


def client_laws(
    client: ClientUpdate,
    params: Tree | None = None,
    dataset: data.FederatedData | None = None,
    *,
    broadcast: Tree | None = None,
) -> list[Law]:
    """The laws of a client update, to be checked one by one.

    Args:
        client: the client update.
        params: the model; None for that of :func:`linear_regression`.
        dataset: the clients' examples; None for those of :func:`linear_regression`.
        broadcast: the tree that the server sends, if it is more than the model.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``client`` is not a :class:`fjx.ClientUpdate`.

    Examples:
        >>> from fjx import clients, testing
        >>> client = clients.gradient(testing.linear_regression().loss_fn, batch_size=2)
        >>> testing.client_laws(client)[3].name
        'uses_its_own_examples_only'
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"client must be a fjx.ClientUpdate, got {client!r}")
    problem = linear_regression()
    params = problem.params if params is None else jax.tree.map(jnp.asarray, params)
    dataset = problem.dataset if dataset is None else dataset
    return _laws.bind(
        Trial(client, params, dataset, params if broadcast is None else broadcast), LAWS
    )


class Trial:
    """A client update, and what all clients of a dataset make of one broadcast."""

    def __init__(
        self, client: ClientUpdate, params: Tree, dataset: data.FederatedData, broadcast: Tree
    ) -> None:
        self.client, self.params, self.dataset, self.sent = client, params, dataset, broadcast
        self.n = dataset.num_clients
        window = dataset.cohort(np.arange(self.n, dtype=np.int32)).examples
        self.arrays = jax.tree.map(jnp.asarray, window.arrays)
        self.offsets, self.sizes = np.asarray(window.offset), np.asarray(window.size)

    @functools.cached_property
    def state(self) -> Tree:
        with attempt("the model", "init(params) returns arrays, or () without memory"):
            return jax.tree.map(jnp.asarray, self.client.init(self.params))

    @functools.cached_property
    def template(self) -> Tree:
        with attempt("the model", "message(params) needs shapes and dtypes only"):
            return _laws.template(self.client.message(self.params))

    def one(self, state: Tree, arrays: Tree, id: Any, offset: Any, size: Any) -> Any:
        """One client's update."""
        key = jax.random.fold_in(jax.random.key(4), id)
        turn = Turn(jnp.int32(0), id, id)
        return self.client.update(key, self.sent, state, Examples(arrays, offset, size), turn)

    @property
    def inputs(self) -> tuple[Any, ...]:
        return np.arange(self.n, dtype=np.int32), self.offsets, self.sizes

    @functools.cached_property
    def program(self) -> Any:
        """All clients at once, from one state and packed examples."""
        mapped = jax.vmap(self.one, in_axes=(None, None, 0, 0, 0))
        return _laws.jit(lambda state, arrays: mapped(state, arrays, *self.inputs))

    @functools.cached_property
    def all(self) -> tuple[Tree, Tree, Any]:
        """Messages, states and metrics of all clients, stacked."""
        state = self.state
        with attempt("all clients under jax.vmap", RUNS):
            return _laws.numpy(self.program(state, self.arrays))

    def given(self, i: int) -> str:
        return f"client {i}, with {int(self.sizes[i])} examples"


RUNS = (
    "update runs inside jax.jit and jax.vmap, with a traced number of examples: use jax.numpy, "
    "examples.batch(step, size) with its mask, and loops of jax.lax"
)


def message_is_like_its_template(trial: Trial) -> None:
    """A message has the structure, the shapes and the dtypes that ``message(params)`` says."""
    difference = _laws.unlike(_laws.row(trial.all[0], 0), trial.template)
    remedy = (
        "message(params) describes what update returns first; lambda params: params for a model"
    )
    require(difference is None, trial.given(0), f"the message has {difference}", remedy)


def keeps_the_structure_of_its_state(trial: Trial) -> None:
    """``update``, ``on_sent`` and ``on_aggregate`` keep structure, shapes and dtypes of the state."""
    remedy = "make init return what update, on_sent and on_aggregate return"
    after, template = trial.state, Template.of(trial.template)
    public = Public((), jax.random.key(3), jnp.int32(0), jnp.int32(1), jnp.int32(0), template)
    found = {"update": _laws.row(trial.all[1], 0)}
    if trial.client.on_sent is not None:
        with attempt("on_sent", remedy):
            found["on_sent"] = jax.eval_shape(trial.client.on_sent, template.tree, after, public)
    if trial.client.on_aggregate is not None:
        result = _laws.cast(template.tree, jnp.float32)
        with attempt("on_aggregate", remedy):
            found["on_aggregate"] = jax.eval_shape(trial.client.on_aggregate, result, after, public)
    for words, state in found.items():
        difference = _laws.unlike(state, trial.state)
        require(difference is None, words, f"the next state has {difference}", remedy)


def metrics_are_scalars(trial: Trial) -> None:
    """Metrics are scalars by name, and finite for every client."""
    for name, values in trial.all[2].items():
        remedy = (
            "return a dict of scalars; a mean over no examples divides by jnp.maximum(count, 1)"
        )
        require(values.ndim == 1, trial.given(0), f"metric {name!r} has axes", remedy)
        finite = np.isfinite(np.asarray(values, np.float64))
        i = int(np.argmin(finite))
        require(finite.all(), trial.given(i), f"metric {name!r} is {values[i]}", remedy)


def uses_its_own_examples_only(trial: Trial) -> None:
    """A client sends the same message, bit for bit, whatever the examples of others are, even NaN."""
    state, remedy = (
        trial.state,
        (
            "take examples through examples.take and examples.batch, and drop rows outside the mask by "
            "jnp.where: a product with zero keeps NaN"
        ),
    )
    for i in range(trial.n):
        start, end = int(trial.offsets[i]), int(trial.offsets[i] + trial.sizes[i])

        def spoil(x: jax.Array, start: int = start, end: int = end) -> jax.Array:
            bad = np.nan if jnp.issubdtype(x.dtype, jnp.floating) else 0
            spoiled = np.full(x.shape, bad, x.dtype)
            spoiled[start:end] = np.asarray(x)[start:end]
            return jnp.asarray(spoiled)

        with attempt(trial.given(i), RUNS):
            messages = _laws.numpy(trial.program(state, jax.tree.map(spoil, trial.arrays))[0])
        difference = _laws.different(_laws.row(messages, i), _laws.row(trial.all[0], i))
        found = f"with NaN in all other clients' examples its message has {difference}"
        require(difference is None, trial.given(i), found, remedy)


def every_client_sends_finite_numbers(trial: Trial) -> None:
    """Sound examples give a finite message, for a client without examples, too."""
    for name, x in _laws.floats(trial.all[0]):
        finite = np.isfinite(np.asarray(x, np.float32)).reshape(trial.n, -1).all(1)
        i = int(np.argmin(finite))
        remedy = "divide by jnp.maximum(examples.size, 1), or by the number of rows inside the mask"
        require(finite.all(), trial.given(i), f"NaN or infinity at {name}", remedy)


def training_moves_something(trial: Trial) -> None:
    """A client with examples sends a message that is not zeros."""
    i = int(np.argmax(trial.sizes))
    moved = any(np.any(np.asarray(x)[i] != 0) for _, x in _laws.floats(trial.all[0]))
    remedy = "the message is after - before: the updated model less the broadcast"
    require(moved, trial.given(i), "its message is zeros", remedy)


def vmap_is_a_loop(trial: Trial) -> None:
    """In a batch of clients one sends and keeps what it does alone."""
    i, state = int(np.argmax(trial.sizes)), trial.state
    with attempt(trial.given(i), RUNS):
        inputs = [part[i] for part in trial.inputs]
        alone = _laws.numpy(_laws.jit(trial.one)(state, trial.arrays, *inputs))
    difference = _laws.far(list(_laws.row(trial.all, i)), list(alone), 1e-5)
    remedy = "a client update has no client axis: reduce over all axes of a leaf"
    require(difference is None, trial.given(i), f"in a batch it has {difference}", remedy)


def equal_keys_give_equal_messages(trial: Trial) -> None:
    """Equal keys, broadcasts, states and examples give equal messages, and each trace one program."""
    remedy = "draw from the key with jax.random, never from NumPy or Python"
    state = trial.state
    again = _laws.numpy(trial.program(state, trial.arrays))
    difference = _laws.different(list(again), list(trial.all))
    require(
        difference is None, "all clients, twice", f"the second time they have {difference}", remedy
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    like = (_laws.template(state), _laws.template(trial.arrays), number, number, number)
    _laws.require_one_program("update", trial.one, like, remedy)


def uses_each_key_once(trial: Trial) -> None:
    """No key is drawn from twice."""
    state, arrays, sent = trial.state, trial.arrays, trial.sent
    examples = Examples(arrays, jnp.int32(trial.offsets[0]), jnp.int32(trial.sizes[0]))
    _laws.require_fresh_keys(
        lambda key: trial.client.update(key, sent, state, examples, Turn())[:2]
    )


LAWS = (
    message_is_like_its_template,
    keeps_the_structure_of_its_state,
    metrics_are_scalars,
    uses_its_own_examples_only,
    every_client_sends_finite_numbers,
    training_moves_something,
    vmap_is_a_loop,
    equal_keys_give_equal_messages,
    uses_each_key_once,
)
"""Every law of a client update, in the order in which they are checked."""
