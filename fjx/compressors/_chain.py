"""Chains of codecs, and the contracts that follow for them."""

import functools

import jax

from fjx._base import EXACT, Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.compressors._shapes import (
    blocks_weigh_alike,
    gain,
    payload_like,
    require_compressor,
)
from fjx.wire import BernoulliMasked, Kept, Masked, Sparse


def chain(*codecs: Compressor) -> Compressor:
    """Apply codecs one after another, each to the float leaves of the payload before it.

    ``chain(top_k(0.01), quantize(bits=8))`` quantises the kept values and leaves the indices alone.
    Decoding runs in reverse.

    Guarantees:
        - The contract is derived, and promises only what follows from those of the codecs.
        - Unbiased after unbiased: omega = (1 + omega_1)(1 + omega_2) - 1.  After ``k_level``, whose
          least level and step are rounded apart, omega_2 counts 5 d times.
        - Unbiased with omega < 1 after a projection: delta = delta_1 (1 - omega).
        - Nothing is promised for other pairs.

    Args:
        *codecs: codecs in the order of encoding.

    Returns:
        A :class:`fjx.Compressor`; its state is the tuple of their states.

    Raises:
        TypeError: an argument is not a Compressor.
        ValueError: from ``init``, if a sparsifier follows a quantiser, which leaves it no coordinates.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.chain(compressors.top_k(0.5), compressors.quantize(bits=8))
        >>> x = jnp.array([1.0, -5.0, 5.0, 0.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -5.0, 5.0, 0.0], 56)

    References:
        Beznosikov, Horvath, Richtarik, Safaryan, *On Biased Compression for Distributed Learning*,
        JMLR 2023 (arXiv:2002.12410), for the classes of codecs and how they compose.
    """
    for codec in codecs:
        require_compressor("chain", codec)

    def init(message_like: TreeLike) -> Tree:
        likes = _stages(codecs, message_like)
        states = tuple(codec.init(like) for codec, like in zip(codecs, likes, strict=True))
        for i, codec in enumerate(codecs[1:], start=1):
            _require_choice(i + 1, codec, likes[i], message_like)
        return states

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
        states = []
        for i, (codec, inner) in enumerate(zip(codecs, state, strict=True)):
            message, inner = codec.encode(jax.random.fold_in(key, i), message, inner)
            states.append(inner)
        return message, tuple(states)

    def decode(payload: Tree) -> Tree:
        return functools.reduce(lambda part, codec: codec.decode(part), reversed(codecs), payload)

    def contract(message_like: TreeLike) -> Contract:
        likes = _stages(codecs, message_like)
        contracts = [_of_payload(codec, like) for codec, like in zip(codecs, likes, strict=True)]
        return functools.reduce(_then, contracts, EXACT)

    return Compressor(init, encode, decode, contract)


def _stages(codecs: tuple[Compressor, ...], message_like: TreeLike) -> list[TreeLike]:
    """The shapes that each codec of a chain is given."""
    likes = []
    for codec in codecs:
        likes.append(message_like)
        message_like = payload_like(codec, message_like)
    return likes


def _require_choice(number: int, codec: Compressor, like: TreeLike, message_like: TreeLike) -> None:
    """Raise ValueError if a sparsifier is given the scales of a quantiser and no coordinates."""

    def largest(tree: TreeLike) -> int:
        return max((leaf.size for leaf in jax.tree.leaves(tree) if is_float(leaf)), default=0)

    def chooses(part: TreeLike) -> bool:
        return isinstance(part, Sparse | Kept | Masked | BernoulliMasked)

    if largest(like) != 1 or largest(message_like) == 1:
        return
    before, after = (
        sum(map(chooses, jax.tree.leaves(tree, is_leaf=chooses)))
        for tree in (like, payload_like(codec, like))
    )
    if after > before:
        raise ValueError(
            f"codec {number} of the chain would choose among the scales of the codec before it, whose "
            "coordinates are integers already; sparsify first, as in chain(top_k(0.1), quantize(bits=8))"
        )


def _of_payload(codec: Compressor, like: TreeLike) -> Contract:
    """The contract of a codec for a payload, as an error of what the payload decodes to."""
    factor = gain(like)
    if factor is None or not blocks_weigh_alike(like):
        return Contract()
    promised = codec.contract(like)
    if factor == 1 or not promised.omega:
        return promised
    return Contract(unbiased=promised.unbiased, omega=factor * promised.omega)


def _then(first: Contract, second: Contract) -> Contract:
    """The contract of ``second`` applied to the payload of ``first``."""
    if first == EXACT:
        return second
    linear = first.linear and second.linear
    if first.unbiased and second.unbiased and first.omega is not None and second.omega is not None:
        omega = (1 + first.omega) * (1 + second.omega) - 1
        return Contract(
            unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None, linear=linear
        )
    if (
        first.projection
        and first.delta is not None
        and second.unbiased
        and second.omega is not None
    ):
        # E||C_2(Px) - x||^2 = ||x - Px||^2 + E||C_2(Px) - Px||^2 <= ||x||^2 - (1 - omega) ||Px||^2.
        # The cross term vanishes because C_2 is unbiased.
        delta = first.delta * (1 - second.omega)
        return Contract(delta=delta if delta > 0 else None, linear=linear)
    return Contract(linear=linear)
