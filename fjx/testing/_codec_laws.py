"""The laws of every compressor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import wire
from fjx._base import Contract, Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.testing import _laws
from fjx.testing._codec_trial import INIT, Trial, bad
from fjx.testing._laws import attempt, require


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
