"""The laws of compressors."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fjx._base import Compressor, TreeLike
from fjx.testing import _laws
from fjx.testing._codec_laws import ALWAYS
from fjx.testing._codec_trial import Trial
from fjx.testing._contract_laws import (
    errors_of_clients_average_out,
    errs_as_declared,
    is_a_projection_as_declared,
    is_linear_as_declared,
    is_unbiased_as_declared,
)
from fjx.testing._laws import Law


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
    with independent keys, with bounds of 6 standard errors.  Its omega and delta are tested on five
    harder messages as well, such as one that is far from zero.  Keys are fixed: a result does not
    change from one run to the next.

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


LAWS = (
    *ALWAYS,
    is_unbiased_as_declared,
    errors_of_clients_average_out,
    errs_as_declared,
    is_linear_as_declared,
    is_a_projection_as_declared,
)
"""Every law of a compressor, in the order in which they are checked."""
