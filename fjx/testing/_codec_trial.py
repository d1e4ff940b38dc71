"""A compressor on trial: its programs, and what they make of all messages."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.testing import _laws
from fjx.testing._laws import attempt

DRAWS = 2000
"""How often one message is encoded for the statistical laws, with independent keys."""

GROUP = 10

HARD_DRAWS = 100
"""How often each of :func:`hard_messages` is encoded."""


RUNS = (
    "encode and decode run inside jax.jit and jax.vmap: use jax.numpy, no Python branches on values, "
    "and no store outside the state"
)
INIT = (
    "init, encode's shapes and contract need shapes and dtypes only: use leaf.shape and leaf.dtype"
)


class Trial:
    """A codec, and what its programs make of the messages on which it is tried.

    All messages are encoded by one program and decoded by another, so that a law costs no compilation
    of its own.
    """

    def __init__(self, codec: Compressor, like: TreeLike, leaves: Mapping[str, TreeLike]) -> None:
        self.codec, self.like, self.leaves = codec, like, leaves

    @functools.cached_property
    def contract(self) -> Contract:
        """The promises; none if asking for them fails, which a law of its own finds."""
        try:
            contract = self.codec.contract(self.like)
        except Exception:
            return Contract()
        return contract if isinstance(contract, Contract) else Contract()

    @functools.cached_property
    def state(self) -> Tree:
        """The state before the first message."""
        with attempt("the template of the message", INIT):
            return self.codec.init(self.like)

    @functools.cached_property
    def messages(self) -> dict[str, tuple[int, Tree]]:
        """All messages by name, with the seeds of their keys."""
        x = _laws.normal(self.like, 0)
        other = _affine(x, 2, 1)
        found = {
            "the message of seed 0": (0, x),
            "the message of seed 1": (1, _laws.normal(self.like, 1)),
            "the message of seed 2": (2, _laws.normal(self.like, 2)),
            "a message of zeros": (0, _laws.zeros(self.like)),
            "2 x + 1": (0, other),
            "x + (2 x + 1)": (0, jax.tree.map(lambda a, b: (a + b).astype(a.dtype), x, other)),
        }
        for name in self.tried:
            for word, value in BAD.items():
                found[bad(word, name)] = (3, with_entry(x, name, value))
        return found

    @property
    def tried(self) -> list[str]:
        """The leaves in which a number is made NaN or infinite: the first five."""
        return [name for name, _ in _laws.floats(self.like)][:5]

    def index(self, given: str) -> int:
        """The place of a message among the messages."""
        return list(self.messages).index(given)

    @functools.cached_property
    def encoded(self) -> tuple[Tree, Tree]:
        """Payloads and states of all messages, stacked, from one program."""
        seeds, messages = zip(*self.messages.values(), strict=True)
        state = self.state  # outside of any trace
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        with attempt("a batch of messages under jax.vmap", RUNS):
            encode = _laws.jit(jax.vmap(self.codec.encode, in_axes=(0, 0, None)))
            payloads, states = encode(keys, _laws.stack(messages), state)
        return _laws.numpy(payloads), _laws.numpy(states)

    @functools.cached_property
    def decoder(self) -> Any:
        """The server's program, which is given payloads and nothing else."""
        return _laws.jit(jax.vmap(self.codec.decode))

    @functools.cached_property
    def decoded(self) -> Tree:
        """All messages as the server decodes them, stacked."""
        with attempt("a batch of payloads under jax.vmap", RUNS):
            return _laws.numpy(self.decoder(self.encoded[0]))

    def received(self, given: str) -> Tree:
        """One message as the server decodes it."""
        return _laws.row(self.decoded, self.index(given))

    @functools.cached_property
    def alone(self) -> tuple[list[tuple[Tree, Tree]], int]:
        """Payload and state of single messages, from another program, and how often it was traced.

        The second message is sent with the state that the first has left; the third is the first again.
        """
        traces: list[int] = []

        def encode(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
            traces.append(1)
            return self.codec.encode(key, message, state)

        program, state, outputs = _laws.jit(encode), self.state, []
        sent = ["the message of seed 0", "the message of seed 1", "the message of seed 0"]
        for i, given in enumerate(sent):
            seed, message = self.messages[given]
            with attempt(given, RUNS):
                before = self.state if i == 2 else state
                # A committed array and a fresh one are alike to jit, a weak type and a strong one not.
                payload, state = program(
                    jax.random.key(seed), jax.tree.map(jnp.asarray, message), before
                )
            outputs.append((_laws.numpy(payload), _laws.numpy(state)))
        return outputs, len(traces)

    @functools.cached_property
    def draws(self) -> dict[str, Any]:
        """Moments of the errors of ``DRAWS`` independent encodings of one message.

        Only sums are kept, so that memory does not grow with the number of draws: for each coordinate
        the sums of the error and of its square; for each draw the squared norms of the error and of
        what was decoded; for each group of ten draws the squared norm of the mean error.  Of
        :func:`hard_messages` only the squared norms of errors are kept.
        """
        message, state = _laws.normal(self.like, 3), self.state
        hard = hard_messages(self.like)
        messages = _laws.stack([message, *hard.values()])
        of = np.repeat(np.arange(1, 1 + len(hard)), HARD_DRAWS // GROUP)
        of = np.concatenate([np.zeros(DRAWS // GROUP, int), of])  # the message of each group

        def wide(tree: Tree) -> list[jax.Array]:
            return [jnp.asarray(x).astype(jnp.float32) for _, x in _laws.floats(tree)]

        def squared(parts: list[jax.Array]) -> jax.Array:
            return sum((jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in parts), jnp.zeros(()))

        def group(sums: Tree, given: tuple[Key, jax.Array]) -> tuple[Tree, Tree]:
            keys, number = given
            sent = jax.tree.map(lambda x: jnp.asarray(x)[number], messages)

            def once(key: Key) -> Tree:
                return self.codec.decode(self.codec.encode(key, sent, state)[0])

            decoded = wide(jax.vmap(once)(keys))
            errors = [y - x[None] for y, x in zip(decoded, wide(sent), strict=True)]
            added = [(jnp.sum(e, 0), jnp.sum(e**2, 0)) for e in errors]
            sums = jax.tree.map(lambda s, e: s + jnp.where(number == 0, e, 0.0), sums, added)
            mean = squared([jnp.mean(e, 0)[None] for e in errors])
            return sums, (squared(errors), squared(decoded), mean)

        def run(key: Key) -> Tree:
            keys = jax.random.split(key, (len(of), GROUP))
            start = [(jnp.zeros(x.shape), jnp.zeros(x.shape)) for x in wide(message)]
            return jax.lax.scan(group, start, (keys, jnp.asarray(of)))

        with attempt("the message of seed 3, encoded 2000 times", RUNS):
            sums, (errors, norms, means) = _laws.numpy(_laws.jit(run)(jax.random.key(11)))
        return {
            "message": [(name, np.asarray(x, np.float64)) for name, x in _laws.floats(message)],
            "rounding": [8 * float(jnp.finfo(x.dtype).eps) for _, x in _laws.floats(message)],
            "sums": [(s.astype(np.float64), q.astype(np.float64)) for s, q in sums],
            "errors": errors[of == 0].reshape(-1).astype(np.float64),
            "norms": norms[of == 0].reshape(-1).astype(np.float64),
            "means": means[of == 0].reshape(-1).astype(np.float64),
            "hard": {
                name: (_squared_norm(sent), errors[of == i].reshape(-1).astype(np.float64))
                for i, (name, sent) in enumerate(hard.items(), start=1)
            },
        }

    def squared_norm(self) -> float:
        return _squared_norm(_laws.normal(self.like, 3))


def hard_messages(like: TreeLike) -> dict[str, Tree]:
    """Messages on which codecs err most, by name: each leaf is flat, a spike, and so on."""
    rng = np.random.default_rng(4)

    def spike(size: int) -> np.ndarray:
        return np.where(np.arange(size) == size // 2, 1.0, 1e-3)

    def extremes(size: int) -> np.ndarray:
        return 1.5 * ((np.arange(size) == 0) - 1.0 * (np.arange(size) == size - 1))

    def two_levels(size: int) -> np.ndarray:
        return np.where(np.arange(size) == 0, 1.0, 1 / (np.sqrt(size) + 1))

    kinds: dict[str, Callable[[int], np.ndarray]] = {
        "1 or -1 everywhere": lambda size: rng.choice([-1.0, 1.0], size),
        "one large coordinate": spike,
        "two opposite extremes and zeros": extremes,
        "the worst of two levels": two_levels,
        "100 + noise": lambda size: 100 + rng.normal(size=size),
    }
    return {
        name: jax.tree.map(
            lambda x, make=make: (
                make(x.size).reshape(x.shape).astype(x.dtype) if is_float(x) else x
            ),
            _laws.normal(like, 4),
        )
        for name, make in kinds.items()
    }


def _squared_norm(message: Tree) -> float:
    return float(sum(np.sum(x.astype(np.float64) ** 2) for _, x in _laws.floats(message)))


BAD = {"the largest": None, "NaN": np.nan, "+inf": np.inf, "-inf": -np.inf}


def bad(word: str, name: str) -> str:
    return f"a message with {word} at {name}"


def with_entry(message: Tree, name: str, value: float | None) -> Tree:
    """A message in which one coordinate of one leaf is ``value``, or ten times the largest of all."""
    largest = max(float(np.max(np.abs(x.astype(np.float32)))) for _, x in _laws.floats(message))
    leaves, treedef = jax.tree.flatten(message)
    names = [n for n, _ in _laws.named(message)]
    leaf = np.array(leaves[names.index(name)])
    leaf.reshape(-1)[leaf.size // 3] = 10 * largest + 1 if value is None else value
    leaves[names.index(name)] = leaf
    return treedef.unflatten(leaves)


def _affine(message: Tree, a: float, b: float) -> Tree:
    return jax.tree.map(lambda x: (a * x + b).astype(x.dtype) if is_float(x) else x, message)
