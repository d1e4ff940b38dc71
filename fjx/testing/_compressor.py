"""The laws of compressors."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import wire
from fjx._base import Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.testing import _laws
from fjx.testing._laws import SIGMAS, Law, attempt, require

DRAWS = 2000
"""How often one message is encoded for the statistical laws, with independent keys."""

GROUP = 10


def message_like() -> TreeLike:
    """Template of a message with a matrix, a vector, a scalar, an empty leaf and integers.

    The matrix has 2^6 coordinates and the vector 2^4 + 1: a codec that pads to powers of two meets both
    cases.

    Returns:
        A tree of ``jax.ShapeDtypeStruct``.

    Examples:
        >>> from fjx import testing
        >>> testing.message_like()["nested"]["vector"].shape
        (17,)
    """
    return {
        "matrix": jax.ShapeDtypeStruct((8, 8), jnp.float32),
        "nested": {"vector": jax.ShapeDtypeStruct((17,), jnp.float32)},
        "scalar": jax.ShapeDtypeStruct((), jnp.float32),
        "empty": jax.ShapeDtypeStruct((0, 3), jnp.float32),
        "count": jax.ShapeDtypeStruct((2,), jnp.int32),
    }


LEAVES: Mapping[str, jax.ShapeDtypeStruct] = {
    "a scalar": jax.ShapeDtypeStruct((), jnp.float32),
    "one coordinate": jax.ShapeDtypeStruct((1,), jnp.float32),
    "an empty leaf": jax.ShapeDtypeStruct((0, 3), jnp.float32),
    "integers": jax.ShapeDtypeStruct((2,), jnp.int32),
    "bfloat16": jax.ShapeDtypeStruct((3, 2), jnp.bfloat16),
    "float16": jax.ShapeDtypeStruct((3, 2), jnp.float16),
}
"""Kinds of leaves on which every codec is tried, whatever message it is made for."""


def check_compressor(
    codec: Compressor,
    like: TreeLike | None = None,
    *,
    leaves: Mapping[str, TreeLike] = LEAVES,
) -> None:
    """Checks every law of a compressor, up to the first that does not hold.

    The laws run on random messages of the shapes of ``like``, on zeros, and on messages with a NaN or an
    infinity in one leaf.  The promises of ``codec.contract`` are tested on 2000 encodings of one message
    with independent keys, with bounds of 6 standard errors.  Keys are fixed: a result does not change
    from one run to the next.

    The time goes into compiling about six programs.  A template of some hundred coordinates says as much
    as one of a million.

    Args:
        codec: the compressor.
        like: template of a message, as arrays or ``jax.ShapeDtypeStruct``; None for
            :func:`message_like`.
        leaves: further messages by name, on which shapes and dtypes are checked; an empty mapping for a
            codec that is made for ``like`` alone.

    Raises:
        TypeError: ``codec`` is not a :class:`fjx.Compressor`.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> from fjx import compressors, testing
        >>> testing.check_compressor(compressors.cast("bfloat16"))
        >>> silent = compressors.identity()._replace(decode=lambda payload: 0 * payload)
        >>> testing.check_compressor(silent)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'keeps_structure_and_dtypes' does not hold
    """
    _laws.run(compressor_laws(codec, like, leaves=leaves))


def compressor_laws(
    codec: Compressor,
    like: TreeLike | None = None,
    *,
    leaves: Mapping[str, TreeLike] = LEAVES,
) -> list[Law]:
    """The laws of a compressor, to be checked one by one.

    Laws of one list share their programs.  Statistical laws are listed if the codec's contract for
    ``like`` makes the promise.

    Args:
        codec: the compressor.
        like: template of a message; None for :func:`message_like`.
        leaves: further messages by name, on which shapes and dtypes are checked.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``codec`` is not a :class:`fjx.Compressor`.

    Examples:
        A test for each law:

        >>> from fjx import compressors, testing
        >>> laws = testing.compressor_laws(compressors.top_k(0.25))
        >>> [law.name for law in laws][-2:]
        ['errs_as_declared', 'is_a_projection_as_declared']
        >>> laws[-1].check()
    """
    if not isinstance(codec, Compressor):
        raise TypeError(f"codec must be a fjx.Compressor, got {codec!r}")
    trial = Trial(codec, message_like() if like is None else _laws.template(like), leaves)
    contract = trial.contract
    laws = list(ALWAYS)
    if contract.unbiased:
        laws += [is_unbiased_as_declared, errors_of_clients_average_out]
    if contract.omega is not None or contract.delta is not None:
        laws.append(errs_as_declared)
    if contract.linear:
        laws.append(is_linear_as_declared)
    if contract.projection:
        laws.append(is_a_projection_as_declared)
    return _laws.bind(trial, laws)


# --------------------------------------------------------------------------------------------------
# The codec on trial
# --------------------------------------------------------------------------------------------------


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
        what was decoded; for each group of ten draws the squared norm of the mean error.
        """
        message, state = _laws.normal(self.like, 3), self.state

        def wide(tree: Tree) -> list[jax.Array]:
            return [jnp.asarray(x).astype(jnp.float32) for _, x in _laws.floats(tree)]

        def squared(parts: list[jax.Array]) -> jax.Array:
            return sum((jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in parts), jnp.zeros(()))

        def group(sums: Tree, keys: Key) -> tuple[Tree, Tree]:
            def once(key: Key) -> Tree:
                return self.codec.decode(self.codec.encode(key, message, state)[0])

            decoded = wide(jax.vmap(once)(keys))
            errors = [y - x[None] for y, x in zip(decoded, wide(message), strict=True)]
            sums = jax.tree.map(
                lambda s, e: (s[0] + jnp.sum(e, 0), s[1] + jnp.sum(e**2, 0)),
                sums,
                errors,
                is_leaf=lambda part: isinstance(part, tuple),
            )
            mean = squared([jnp.mean(e, 0)[None] for e in errors])
            return sums, (squared(errors), squared(decoded), mean)

        def run(key: Key) -> Tree:
            keys = jax.random.split(key, (DRAWS // GROUP, GROUP))
            start = [(jnp.zeros(x.shape), jnp.zeros(x.shape)) for x in wide(message)]
            return jax.lax.scan(group, start, keys)

        with attempt("the message of seed 3, encoded 2000 times", RUNS):
            sums, (errors, norms, means) = _laws.numpy(_laws.jit(run)(jax.random.key(11)))
        return {
            "message": [(name, np.asarray(x, np.float64)) for name, x in _laws.floats(message)],
            "rounding": [8 * float(jnp.finfo(x.dtype).eps) for _, x in _laws.floats(message)],
            "sums": [(s.astype(np.float64), q.astype(np.float64)) for s, q in sums],
            "errors": errors.reshape(-1).astype(np.float64),
            "norms": norms.reshape(-1).astype(np.float64),
            "means": means.reshape(-1).astype(np.float64),
        }

    def squared_norm(self) -> float:
        return float(sum(np.sum(x**2) for _, x in self.draws["message"]))


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


# --------------------------------------------------------------------------------------------------
# Laws of every codec
# --------------------------------------------------------------------------------------------------

RUNS = (
    "encode and decode run inside jax.jit and jax.vmap: use jax.numpy, no Python branches on values, "
    "and no store outside the state"
)
INIT = (
    "init, encode's shapes and contract need shapes and dtypes only: use leaf.shape and leaf.dtype"
)


def keeps_structure_and_dtypes(trial: Trial) -> None:
    """A decoded message has the structure, the shapes and the dtypes of the message."""

    def both(like: TreeLike) -> Tree:
        state = trial.codec.init(like)
        key = jax.eval_shape(jax.random.key, 0)
        return jax.eval_shape(
            lambda k, m, s: trial.codec.decode(trial.codec.encode(k, m, s)[0]), key, like, state
        )

    remedy = (
        "decode(payload) must return the message's own tree: keep shape and dtype in static fields of "
        "the payload, cast back at the end, and pass integers, bools and empty leaves through "
        "(fjx.compressors.lift makes a codec of trees from one of arrays, and does this)"
    )
    given = {"a message like the template": trial.like}
    if any(x.dtype == jnp.float32 for _, x in _laws.floats(trial.like)) and trial.leaves:
        given["a message like the template, in bfloat16"] = _laws.cast(trial.like, jnp.bfloat16)
    given |= {f"a message of {name}": leaf for name, leaf in trial.leaves.items()}
    for words, like in given.items():
        with attempt(words, remedy):
            difference = _laws.unlike(both(like), like)
        require(difference is None, words, f"it decodes to {difference}", remedy)


def declares_a_contract_from_shapes(trial: Trial) -> None:
    """The contract follows from shapes alone, with 0 <= omega and 0 < delta <= 1."""
    given = "the template of the message"
    with attempt(given, INIT):
        contract = trial.codec.contract(trial.like)
    require(
        isinstance(contract, Contract),
        given,
        f"contract returns {contract!r}",
        "return a fjx.Contract; Contract() promises nothing",
    )
    require(
        contract.omega is None or contract.omega >= 0,
        given,
        f"omega = {contract.omega!r}",
        "E||C(x) - x||^2 <= omega ||x||^2 with omega >= 0; None promises nothing",
    )
    require(
        contract.delta is None or 0 < contract.delta <= 1,
        given,
        f"delta = {contract.delta!r}",
        "E||C(x) - x||^2 <= (1 - delta) ||x||^2 with 0 < delta <= 1; None promises nothing",
    )


def passes_integers_through(trial: Trial) -> None:
    """Integers and bools arrive as they were sent."""
    for given in ("the message of seed 0", "the message of seed 1", "a message of zeros"):
        sent, found = trial.messages[given][1], trial.received(given)
        for (name, x), (_, y) in zip(_laws.named(sent), _laws.named(found), strict=True):
            require(
                is_float(x) or np.array_equal(x, y),
                given,
                f"{np.asarray(x).tolist()} arrives as {np.asarray(y).tolist()} at {name}",
                "a codec acts on floating leaves and puts every other leaf into its payload unchanged",
            )


def decodes_from_the_bytes_alone(trial: Trial) -> None:
    """The bytes of a payload restore the payload bit for bit, and decode to the same message."""
    remedy = (
        "a payload holds arrays in fjx.wire payload types, or in a registered frozen dataclass of your "
        "own; widths() must give each integer as many bits as it needs, and entries that do not travel "
        "are zeros"
    )
    restored = []
    for given in trial.messages:
        payload = _laws.row(trial.encoded[0], trial.index(given))
        with attempt(given, remedy):
            restored.append(_laws.through_bytes(payload))
        difference = _laws.different(restored[-1], payload)
        require(difference is None, given, f"the bytes restore {difference}", remedy)
    with attempt("a batch of restored payloads", remedy):
        again = _laws.numpy(trial.decoder(_laws.stack(restored)))
    difference = _laws.different(again, trial.decoded)
    require(difference is None, "the restored payloads", f"they decode to {difference}", remedy)


def costs_the_bits_of_its_bytes(trial: Trial) -> None:
    """A payload costs the bits that are written; shapes tell its price, or the most of it."""
    remedy = (
        "a payload's arrays and widths() must not depend on values; for a payload whose length depends "
        "on the data use a fjx.wire.Ragged type, whose room is the most that may travel"
    )
    key = jax.eval_shape(jax.random.key, 0)
    with attempt("the template of the message", remedy):
        abstract = wire.bits(jax.eval_shape(trial.codec.encode, key, trial.like, trial.state)[0])
    for given in trial.messages:
        payload = _laws.row(trial.encoded[0], trial.index(given))
        with attempt(given, remedy):
            data, cost = wire.to_bytes(payload), wire.bits(payload)
            written = 8 * len(data) - wire.header_bits(data)
        require(written == cost, given, f"{written} bits are written and {cost} billed", remedy)
        same = cost <= abstract if wire._bits.is_ragged(payload) else cost == abstract
        require(same, given, f"it costs {cost} bits, and from shapes {abstract}", remedy)


def zeros_decode_to_zeros(trial: Trial) -> None:
    """A message of zeros decodes to zeros, and leaves a state of zeros."""
    given = "a message of zeros"
    remedy = (
        "divide by the norm or the scale only where it is positive: "
        "x / jnp.where(norm > 0, norm, 1)"
    )
    for name, x in _laws.floats(trial.received(given)):
        found = f"{np.asarray(x).reshape(-1)[:3].tolist()}... at {name}"
        require(np.all(x == 0), given, f"it decodes to {found}", remedy)
    if all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(trial.state)):
        after = _laws.row(trial.encoded[1], trial.index(given))
        for name, x in _laws.named(after):
            require(np.all(np.asarray(x) == 0), given, f"the state is not zeros at {name}", remedy)


def sound_messages_stay_finite(trial: Trial) -> None:
    """A message of finite numbers decodes to finite numbers."""
    remedy = "look for a division by zero, log(0) or an overflow of a square in encode or decode"
    for i in range(3):
        given = f"the message of seed {i}"
        for name, x in _laws.floats(trial.received(given)):
            finite = np.isfinite(np.asarray(x, np.float32))
            require(finite.all(), given, f"it decodes to NaN or infinity at {name}", remedy)


def a_broken_number_is_never_sent_as_a_sound_one(trial: Trial) -> None:
    """NaN and infinities reach the server, which then drops the client's message.

    Exempt is a coordinate that is not sent even where it is the largest of the message, as one that a
    random mask leaves out.
    """
    remedy = (
        "do not replace NaN by a number and do not sort it away: let the scale or the norm become NaN, "
        "or send the coordinate (jnp.abs(x) is NaN there, and jnp.isnan finds it)"
    )
    for name in trial.tried:
        largest = _entry(trial.received(bad("the largest", name)), name)
        for word in ("NaN", "+inf", "-inf"):
            given = bad(word, name)
            decoded = trial.received(given)
            finite = all(
                np.isfinite(np.asarray(x, np.float32)).all() for _, x in _laws.floats(decoded)
            )
            sound = finite and not (largest == 0 and _entry(decoded, name) == 0)
            require(not sound, given, f"it decodes to {_entry(decoded, name)!r} there", remedy)


def _entry(message: Tree, name: str) -> float:
    leaf = np.asarray(dict(_laws.named(message))[name], np.float32)
    return float(leaf.reshape(-1)[leaf.size // 3])


def vmap_is_a_loop(trial: Trial) -> None:
    """Encoded in a batch, a message gives the payload and the state that it gives alone."""
    given = "the message of seed 0"
    payload, state = (_laws.row(x, trial.index(given)) for x in trial.encoded)
    remedy = (
        "a codec has no client axis: reduce over all axes; a custom call needs a sound vmap rule"
    )
    difference = _laws.far([payload, state], list(trial.alone[0][0]), 1e-6)
    require(difference is None, given, f"in a batch it has {difference}", remedy)


def keeps_the_structure_of_its_state(trial: Trial) -> None:
    """The state after a message has the structure, the shapes and the dtypes of the state before."""
    remedy = (
        "make init return arrays of the shapes and dtypes that encode returns: jnp.int32(0) for a "
        "counter, jnp.zeros(x.shape, x.dtype) for a memory"
    )
    key = jax.eval_shape(jax.random.key, 0)
    with attempt("the template of the message", remedy):
        after = jax.eval_shape(trial.codec.encode, key, trial.like, trial.state)[1]
    difference = _laws.unlike(after, trial.state)
    require(difference is None, "the first message", f"the next state has {difference}", remedy)


def traces_once(trial: Trial) -> None:
    """A second message, with the state that the first left, does not trace the program again."""
    require(
        trial.alone[1] == 1,
        "three messages of one shape",
        f"encode was traced {trial.alone[1]} times",
        "give the state strong dtypes in init: jnp.zeros((), jnp.float32) and not 0.0",
    )


PURE = (
    "draw from the key with jax.random, never from NumPy or Python, and keep what changes from message "
    "to message in the state"
)


def is_a_pure_function(trial: Trial) -> None:
    """Every trace of encode and decode is the same program."""
    like = (jax.eval_shape(jax.random.key, 0), trial.like, trial.state)

    def both(key: Key, message: Tree, state: Tree) -> Any:
        payload, state = trial.codec.encode(key, message, state)
        return payload, trial.codec.decode(payload), state

    _laws.require_one_program("encode and decode", both, like, PURE)


def equal_keys_give_equal_payloads(trial: Trial) -> None:
    """Equal keys, messages and states give equal payloads and states."""
    outputs = trial.alone[0]
    difference = _laws.different(list(outputs[2]), list(outputs[0]))
    given = "the message of seed 0, twice with one key"
    require(difference is None, given, f"the second time it has {difference}", PURE)


def uses_each_key_once(trial: Trial) -> None:
    """No key is drawn from twice."""
    message, state = trial.messages["the message of seed 0"][1], trial.state
    _laws.require_fresh_keys(lambda key: trial.codec.encode(key, message, state))


ALWAYS = (
    keeps_structure_and_dtypes,
    declares_a_contract_from_shapes,
    keeps_the_structure_of_its_state,
    uses_each_key_once,
    is_a_pure_function,
    sound_messages_stay_finite,
    passes_integers_through,
    decodes_from_the_bytes_alone,
    costs_the_bits_of_its_bytes,
    zeros_decode_to_zeros,
    a_broken_number_is_never_sent_as_a_sound_one,
    vmap_is_a_loop,
    traces_once,
    equal_keys_give_equal_payloads,
)

# --------------------------------------------------------------------------------------------------
# Laws of a contract
# --------------------------------------------------------------------------------------------------

SENT = "the message of seed 3, encoded 2000 times"


def is_unbiased_as_declared(trial: Trial) -> None:
    """If the contract says unbiased, the mean of 2000 draws is within 6 standard errors of x.

    The error of a coordinate is pooled over its leaf: one that rounds up once in 10,000 draws shows
    no spread of its own.  A second bound, on the mean shrinkage, has the power that this costs.
    """
    remedy = (
        "round at random: floor(x + u) with u uniform on [0, 1) has mean x; rescale by the inverse of "
        "the probability with which a coordinate is kept; or leave unbiased=False"
    )
    draws = trial.draws
    for (name, x), rounding, (total, squares) in zip(
        draws["message"], draws["rounding"], draws["sums"], strict=True
    ):
        bias = total / DRAWS
        variance = np.maximum(squares / DRAWS - bias**2, 0)
        pooled = np.sqrt(variance.mean())
        error = np.maximum(np.sqrt(variance), pooled) / np.sqrt(DRAWS)
        slack = rounding * np.abs(x).max()
        worst = np.max(np.abs(bias) - SIGMAS * error)
        found = (
            f"at {name} the mean error is {np.abs(bias).max():.3g}, {SIGMAS:g} standard errors are "
        )
        require(worst < slack, SENT, f"{found}{SIGMAS * error.max():.3g}", remedy)
        shrinkage = np.mean(bias * np.sign(x))
        bound = SIGMAS * pooled / np.sqrt(DRAWS * x.size) + slack
        found = f"at {name} all coordinates are off by {shrinkage:.3g} on average away from zero"
        require(abs(shrinkage) < bound, SENT, f"{found}, the bound is {bound:.3g}", remedy)


def errors_of_clients_average_out(trial: Trial) -> None:
    """If the contract says unbiased, the mean of ten draws has a tenth of the squared error of one.

    Both sides are estimates of one variance; the bound is 6 standard errors of the first.
    """
    one, ten = trial.draws["errors"].mean(), trial.draws["means"]
    slack = SIGMAS * ten.std() / np.sqrt(len(ten))
    require(
        abs(ten.mean() - one / GROUP) <= slack + 1e-9,
        SENT,
        f"the squared error of a mean of ten is {ten.mean():.4g}, a tenth of one's {one / GROUP:.4g}",
        "draw every random number from the client's own key; a shared key gives shared errors",
    )


def errs_as_declared(trial: Trial) -> None:
    """The mean squared error of 2000 draws is at most what omega and delta say.

    The bound has 6 standard errors of slack.
    """
    errors, norm, contract = trial.draws["errors"], trial.squared_norm(), trial.contract
    # Sums of squares in float32 are right to a part in a million.
    slack = SIGMAS * errors.std() / np.sqrt(DRAWS) + 1e-6 * errors.mean() + 1e-9
    relative = errors.mean() / norm
    for name, value, bound in (
        ("omega", contract.omega, contract.omega),
        ("1 - delta", contract.delta, None if contract.delta is None else 1 - contract.delta),
    ):
        if value is not None and bound is not None:
            require(
                errors.mean() <= bound * norm + slack,
                SENT,
                f"E||C(x) - x||^2 / ||x||^2 is {relative:.4g}, and {name} is {bound:.4g}",
                "derive the bound for the message's shapes, or declare None",
            )


def is_linear_as_declared(trial: Trial) -> None:
    """If the contract says linear, C(x) + C(y) = C(x + y) for one key."""
    parts = [trial.received(g) for g in ("the message of seed 0", "2 x + 1", "x + (2 x + 1)")]
    for (name, x), (_, y), (_, both) in zip(*map(_laws.floats, parts), strict=True):
        x, y, both = (np.asarray(part, np.float64) for part in (x, y, both))
        dtype = dict(_laws.floats(trial.like))[name].dtype
        slack = 100 * float(jnp.finfo(dtype).eps) * np.abs(both).max()
        # Relative to the largest: a coordinate may be a sum that cancels.
        require(
            np.abs(x + y - both).max() <= slack,
            "x, y = 2 x + 1 and x + y with one key",
            f"C(x) + C(y) - C(x + y) is {np.abs(x + y - both).max():.3g} at {name}",
            "a linear codec chooses coordinates by the key alone and does not round; or linear=False",
        )


def is_a_projection_as_declared(trial: Trial) -> None:
    """If the contract says projection, ||x||^2 = ||C(x)||^2 + ||x - C(x)||^2 in every draw."""
    draws, norm = trial.draws, trial.squared_norm()
    off = np.abs(draws["norms"] + draws["errors"] - norm).max() / norm
    require(
        off <= 1e-5,
        SENT,
        f"the two sides differ by {off:.3g} of ||x||^2",
        "a projection keeps some coordinates as they are and drops the others; or projection=False",
    )


LAWS = (
    *ALWAYS,
    is_unbiased_as_declared,
    errors_of_clients_average_out,
    errs_as_declared,
    is_linear_as_declared,
    is_a_projection_as_declared,
)
"""Every law of a compressor, in the order in which they are checked."""
