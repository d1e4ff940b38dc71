"""The laws of server updates."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import ServerUpdate, Tree, TreeLike
from fjx.testing import _laws
from fjx.testing._laws import Law, attempt, require


def check_server_update(
    server: ServerUpdate, params: TreeLike | None = None, message: TreeLike | None = None
) -> None:
    """Checks every law of a server update, up to the first that does not hold.

    Args:
        server: the server update.
        params: template of the model, as arrays or ``jax.ShapeDtypeStruct``; None for a matrix, a vector
            and a scalar.
        message: template of the aggregate message; None for that of the model, in float32.

    Raises:
        TypeError: ``server`` is not a :class:`fjx.ServerUpdate`.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> import optax
        >>> from fjx import servers, testing
        >>> testing.check_server_update(servers.from_optax(optax.sgd(0.1, momentum=0.9)))
        >>> decays = servers.from_optax(
        ...     optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1)))
        >>> testing.check_server_update(decays)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'an_empty_round_leaves_a_fresh_model' does not hold
    """
    _laws.run(server_laws(server, params, message))


def server_laws(
    server: ServerUpdate, params: TreeLike | None = None, message: TreeLike | None = None
) -> list[Law]:
    """The laws of a server update, to be checked one by one.

    Args:
        server: the server update.
        params: template of the model; None for a matrix, a vector and a scalar.
        message: template of the aggregate message; None for that of the model, in float32.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``server`` is not a :class:`fjx.ServerUpdate`.

    Examples:
        >>> import optax
        >>> from fjx import servers, testing
        >>> laws = testing.server_laws(servers.from_optax(optax.sgd(1.0)))
        >>> laws[0].statement
        'The state has a field ``params``, which begins as the model given to ``init``.'
    """
    if not isinstance(server, ServerUpdate):
        raise TypeError(f"server must be a fjx.ServerUpdate, got {server!r}")
    params = params_like() if params is None else _laws.template(params)
    message = _laws.cast(params, jnp.float32) if message is None else _laws.template(message)
    return _laws.bind(Trial(server, params, message), LAWS)


def params_like() -> TreeLike:
    """A model of a matrix, a vector and a scalar."""
    return {
        "matrix": jax.ShapeDtypeStruct((3, 2), jnp.float32),
        "vector": jax.ShapeDtypeStruct((4,), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.float32),
    }


class Trial:
    """A server, and the states in which messages of several seeds leave it."""

    def __init__(self, server: ServerUpdate, params: TreeLike, message: TreeLike) -> None:
        self.server, self.like, self.message_like = server, params, message
        self.params = jax.tree.map(jnp.asarray, _laws.normal(params, 0))

    def message(self, seed: int) -> Tree:
        return jax.tree.map(jnp.asarray, _laws.normal(self.message_like, seed))

    @functools.cached_property
    def fresh(self) -> Any:
        with attempt(
            "a model of random numbers", "init(params) returns a state with a field params"
        ):
            return self.server.init(self.params)

    @functools.cached_property
    def zeros(self) -> Tree:
        return jax.tree.map(jnp.asarray, _laws.zeros(self.message_like))

    @functools.cached_property
    def states(self) -> tuple[list[Any], int]:
        """After zeros; after messages of seeds 1, 2, 3 in a row; and how often update was traced."""
        traces: list[int] = []

        def update(state: Any, message: Tree) -> Any:
            traces.append(1)
            return self.server.update(state, message)

        program, states = _laws.jit(update), []
        with attempt("aggregate messages, one after another", COMPILED):
            states.append(program(self.fresh, self.zeros))
            state = self.fresh
            for seed in (1, 2, 3):
                state = program(state, self.message(seed))
                states.append(state)
        return states, len(traces)


COMPILED = (
    "update runs inside jax.jit: use jax.numpy, no Python branches on values, and no store outside the "
    "state"
)


def state_has_the_model(trial: Trial) -> None:
    """The state has a field ``params``, which begins as the model given to ``init``."""
    given, remedy = "a model of random numbers", "make the state a NamedTuple with a field params"
    require(hasattr(trial.fresh, "params"), given, f"the state is {type(trial.fresh)}", remedy)
    difference = _laws.different(trial.fresh.params, trial.params)
    require(difference is None, given, f"state.params has {difference}", remedy)


def state_is_made_of_arrays(trial: Trial) -> None:
    """State and broadcast are trees of arrays, without keys: they are stored and sent."""
    remedy = (
        "hold arrays only; randomness of the server belongs in an aggregator, which is given a key"
    )
    with attempt("the fresh state", remedy):
        sent = trial.server.broadcast(trial.fresh)
    for where, tree in (("the fresh state", trial.fresh), ("its broadcast", sent)):
        for name, leaf in _laws.named(tree):
            array = isinstance(leaf, jax.Array | np.ndarray) and not _laws.is_key(leaf)
            require(array, where, f"{type(leaf).__name__} at {name}", remedy)


def keeps_the_structure_of_its_state(trial: Trial) -> None:
    """An update keeps the structure, shapes and dtypes of the state, for models in bfloat16 too."""
    remedy = (
        "cast what moves the model to the model's dtype before adding, and make init return what update "
        "returns"
    )
    given = {"a model like the template": trial.like}
    given["a model like the template, in bfloat16"] = _laws.cast(trial.like, jnp.bfloat16)
    for words, like in given.items():
        with attempt(words, remedy):
            before = jax.eval_shape(trial.server.init, like)
            after = jax.eval_shape(trial.server.update, before, trial.message_like)
        difference = _laws.unlike(after, before)
        require(difference is None, words, f"the next state has {difference}", remedy)


def an_empty_round_leaves_a_fresh_model(trial: Trial) -> None:
    """A message of zeros, which is that of a round without clients, leaves a fresh model as it was."""
    difference = _laws.different(trial.states[0][0].params, trial.params)
    require(
        difference is None,
        "a message of zeros",
        f"the model has {difference}",
        "move the model by what follows from the message; weight decay belongs to the clients' loss",
    )


def a_message_moves_the_model(trial: Trial) -> None:
    """A message of random numbers moves every floating leaf of the model."""
    before, after = _laws.floats(trial.params), _laws.floats(trial.states[0][1].params)
    for (name, x), (_, y) in zip(before, after, strict=True):
        moved = not np.array_equal(np.asarray(x), np.asarray(y))
        remedy = "return a state whose params are the moved model"
        require(moved, "the message of seed 1", f"the model is as before at {name}", remedy)


def sound_messages_keep_the_model_finite(trial: Trial) -> None:
    """Messages of finite numbers, and of zeros, leave a model of finite numbers."""
    words = ("a message of zeros", *(f"{i} messages of random numbers" for i in (1, 2, 3)))
    for given, state in zip(words, trial.states[0], strict=True):
        for name, x in _laws.floats(state):
            finite = np.isfinite(np.asarray(x, np.float32)).all()
            remedy = "look for a division by a second moment of zero: add an epsilon"
            require(finite, given, f"NaN or infinity in the state at {name}", remedy)


def traces_once(trial: Trial) -> None:
    """Later messages, with the state that the first left, do not trace the program again."""
    require(
        trial.states[1] == 1,
        "four messages of one shape",
        f"update was traced {trial.states[1]} times",
        "give the state strong dtypes in init: jnp.zeros((), jnp.float32) and not 0.0",
    )


def is_a_pure_function(trial: Trial) -> None:
    """Every trace of ``update`` is the same program."""
    _laws.require_one_program(
        "update",
        trial.server.update,
        (_laws.template(trial.fresh), trial.message_like),
        "keep what changes from round to round in the state, never in Python",
    )


def vmap_is_a_loop(trial: Trial) -> None:
    """In a batch of runs a message moves the state as it does alone."""
    with attempt("messages of three seeds under jax.vmap", COMPILED):
        messages = _laws.stack([trial.message(seed) for seed in (1, 2, 3)])
        after = _laws.jit(jax.vmap(trial.server.update, in_axes=(None, 0)))(trial.fresh, messages)
    difference = _laws.far(_laws.row(_laws.numpy(after), 0), trial.states[0][1], 1e-5)
    remedy = "a server has no axis of runs: reduce over all axes of a leaf"
    require(difference is None, "the message of seed 1", f"in a batch it has {difference}", remedy)


LAWS = (
    state_has_the_model,
    state_is_made_of_arrays,
    keeps_the_structure_of_its_state,
    an_empty_round_leaves_a_fresh_model,
    a_message_moves_the_model,
    sound_messages_keep_the_model_finite,
    traces_once,
    is_a_pure_function,
    vmap_is_a_loop,
)
"""Every law of a server update, in the order in which they are checked."""
