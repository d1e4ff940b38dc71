"""Payloads: what the wire carries, as pytrees.

A payload type is a frozen dataclass, registered with JAX, whose array fields are the content and whose
static fields are what a receiver knows in advance.  It says how many bits each of its integers needs;
:mod:`fjx.wire` derives costs and bytes from that, and codecs decode from the payload alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree


def static() -> Any:
    """A dataclass field that is part of the type: the same for every client and round, and free."""
    return dataclasses.field(metadata={"static": True})


class Payload:
    """Base of all payload types; a subclass is a registered frozen dataclass.

    Examples:
        A type of one's own, readable by :func:`fjx.wire.from_bytes` once it is defined:

        >>> import dataclasses, jax
        >>> from fjx import wire
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class Nibbles(wire.Payload):
        ...     codes: jax.Array
        ...     def widths(self):
        ...         return {"codes": 4}
        >>> wire.bits(Nibbles(jax.numpy.zeros(6, "uint8")))
        24
    """

    def widths(self) -> Mapping[str, int]:
        """Bits per element of the integer fields that need fewer than their dtype has."""
        return {}

    def check(self) -> None:
        """Raises ValueError if concrete contents could not have been encoded.

        Inside :class:`Blocks` every array has one axis more in front.
        """


class Structure(NamedTuple):
    """A tree without its numbers.

    Attributes:
        treedef: its containers.
        floats: for each leaf in order ``(shape, dtype name)``, or None where it is not floating.
    """

    treedef: jax.tree_util.PyTreeDef
    floats: tuple[tuple[tuple[int, ...], str] | None, ...]


_ARRAYS = (np.ndarray, Array)


def _size(shape: tuple[int, ...]) -> int:
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape must not be negative, got {shape}")
    return math.prod(shape)


def _require_float(dtype: str) -> None:
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(f"a dtype must be the name of a floating one, got {dtype!r}")


def _require_integers(name: str, codes: Any, *kinds: str) -> None:
    if isinstance(codes, _ARRAYS) and np.dtype(codes.dtype).kind not in kinds:
        raise ValueError(f"{name} must be of kind {' or '.join(kinds)}, got {codes.dtype}")


def _require_scale(scale: Tree, codes: Array) -> None:
    if isinstance(scale, _ARRAYS) and scale.shape not in ((), np.shape(codes)[:1]):
        raise ValueError(f"a scale must be one number, got shape {scale.shape}")


def _require_seed(seed: Array, impl: str) -> None:
    try:
        jax.random.wrap_key_data(jnp.asarray(seed), impl=impl)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a seed must be the key data of a PRNG: {error}") from error


def _require_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least}, {most}], got {value}")


def index_width(size: int) -> int:
    """Bits that address one of ``size`` coordinates: ``ceil(log2(size))``."""
    return max(size - 1, 0).bit_length()


def padded_size(size: int) -> int:
    """The next power of two, and nothing for an empty array."""
    return 2 ** index_width(size) if size else 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse(Payload):
    """Some coordinates of an array, by position.

    Attributes:
        values: ``f[k]``, or a payload of them.
        indices: ``u32[k]`` into the flattened array, distinct.
        shape: of the array.
    """

    values: Tree
    indices: Array
    shape: tuple[int, ...] = static()

    def widths(self) -> Mapping[str, int]:
        """An index costs ``ceil(log2(d))`` bits."""
        return {"indices": index_width(math.prod(self.shape))}

    def check(self) -> None:
        """Indices lie inside the array, each at most once, and each has its value."""
        _require_integers("Sparse.indices", self.indices, "u")
        indices, size = np.asarray(self.indices), _size(self.shape)
        if isinstance(self.values, _ARRAYS) and self.values.size != indices.size:
            raise ValueError(f"Sparse has {self.values.size} values and {indices.size} indices")
        if indices.size and not (indices.min() >= 0 and indices.max() < size):
            raise ValueError(f"Sparse.indices must lie in [0, {size}), got up to {indices.max()}")
        ordered = np.sort(indices, axis=-1)
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise ValueError("Sparse.indices must be distinct, got a repeated index")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masked(Payload):
    """Coordinates that a seed chooses; the seed travels, the positions do not.

    Attributes:
        values: ``f[k]``, or a payload of them.
        seed: ``u32[n]``, the key data of the sender's mask.
        shape: of the array.
        impl: the name of the PRNG that reads the seed.
    """

    values: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    impl: str = static()

    def check(self) -> None:
        """There are no more values than coordinates."""
        size = _size(self.shape)
        if isinstance(self.values, _ARRAYS) and self.values.shape[-1] > size:
            raise ValueError(f"Masked has {self.values.shape[-1]} values for {size} coordinates")
        _require_seed(self.seed, self.impl)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized(Payload):
    """Integers on a uniform grid around zero: x is about ``scale * codes``.

    Attributes:
        codes: ``i8`` or ``i16``, the shape of the array, each in ``[-L, L]``, L = 2^(bits-1) - 1.
        scale: ``f32[]``, the distance of two levels, or a payload of it.
        bits: of one code.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    bits: int = static()
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """Codes lie on the grid: two's complement has one value more than ``[-L, L]``."""
        _require_within("Quantized.bits", self.bits, 2, 16)
        _require_integers("Quantized.codes", self.codes, "i")
        _require_scale(self.scale, self.codes)
        _require_float(self.dtype)
        codes, top = np.asarray(self.codes), 2 ** (self.bits - 1) - 1
        if codes.size and np.abs(codes.astype(np.int64)).max() > top:
            raise ValueError(f"Quantized.codes must lie in [-{top}, {top}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cast(Payload):
    """An array in a narrower floating dtype, divided by a power of two where the range needs it.

    Attributes:
        values: the narrow array.
        exponent: ``i16[]``, x is about ``values * 2**exponent``; None if the range needs no scale.
        dtype: of the array.
    """

    values: Array
    exponent: Array | None
    dtype: str = static()

    def check(self) -> None:
        """Both dtypes are floating."""
        _require_float(self.values.dtype.name)
        _require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signs(Payload):
    """An array as signs: x is about ``-scale`` where ``negative``, else ``scale``.

    Attributes:
        negative: ``bool``, the shape of the array.
        scale: ``f32[]``, or a payload of it.
        dtype: of the array.
    """

    negative: Array
    scale: Tree
    dtype: str = static()

    def check(self) -> None:
        """One bit a coordinate, and one scale."""
        _require_integers("Signs.negative", self.negative, "b")
        _require_scale(self.scale, self.negative)
        _require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoMeans(Payload):
    """An array as two values: x is about ``below`` where ``negative``, else ``above``.

    Attributes:
        negative: ``bool``, the shape of the array.
        below: ``f32[]``, or a payload of it.
        above: ``f32[]``, or a payload of it.
        dtype: of the array.
    """

    negative: Array
    below: Tree
    above: Tree
    dtype: str = static()

    def check(self) -> None:
        """One bit a coordinate, and two means."""
        _require_integers("TwoMeans.negative", self.negative, "b")
        _require_scale(self.below, self.negative)
        _require_scale(self.above, self.negative)
        _require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Natural(Payload):
    """An array as powers of two: the sign and exponent of each float32.

    Attributes:
        codes: ``u16``, the shape of the array: the first nine bits of a float32.
        dtype: of the array.
    """

    codes: Array
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A sign is one bit, an exponent eight."""
        return {"codes": 9}

    def check(self) -> None:
        """Codes are nine bits."""
        _require_integers("Natural.codes", self.codes, "u")
        _require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dithered(Payload):
    """Integers on a grid of powers of two: |x| is 0, or about ``scale * 2**(|codes| - 1)``.

    Attributes:
        codes: ``i8``, the shape of the array, each in ``[-levels, levels]``, with the sign of x.
        scale: ``f32[]``, the least level, or a payload of it.
        levels: of one sign, zero not counted.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    levels: int = static()
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A code costs a sign and ``ceil(log2(levels + 1))`` bits."""
        return {"codes": 1 + self.levels.bit_length()}

    def check(self) -> None:
        """Codes lie on the grid."""
        _require_within("Dithered.levels", self.levels, 1, 31)
        _require_integers("Dithered.codes", self.codes, "i")
        _require_scale(self.scale, self.codes)
        _require_float(self.dtype)
        codes = np.asarray(self.codes)
        if codes.size and np.abs(codes.astype(np.int64)).max() > self.levels:
            raise ValueError(f"Dithered.codes must lie in [-{self.levels}, {self.levels}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LloydMax(Payload):
    """Codes of the Lloyd-Max quantiser of a Gaussian: x is about ``scale * levels[codes]``.

    The levels follow from ``bits`` and do not travel.

    Attributes:
        codes: ``u8``, the shape of the array, each below 2^bits.
        scale: ``f32[]``, or a payload of it.
        bits: of one code.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    bits: int = static()
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """There are levels for so many bits."""
        _require_within("LloydMax.bits", self.bits, 1, 8)
        _require_integers("LloydMax.codes", self.codes, "u")
        _require_scale(self.scale, self.codes)
        _require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotated(Payload):
    """An array, padded with zeros and rotated by a seed, which travels with it.

    Attributes:
        vector: ``f32[d']``, d' the next power of two, or a payload of it.
        seed: ``u32[n]``, the key data of the sender's rotation.
        shape: of the array.
        dtype: of the array.
        rounds: of the rotation.
        impl: the name of the PRNG that reads the seed.
    """

    vector: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    rounds: int = static()
    impl: str = static()

    def check(self) -> None:
        """The vector has the size of the padded array."""
        _require_within("Rotated.rounds", self.rounds, 1, 64)
        _require_seed(self.seed, self.impl)
        _require_float(self.dtype)
        padded = padded_size(_size(self.shape))
        if isinstance(self.vector, _ARRAYS) and self.vector.shape[-1:] != (padded,):
            raise ValueError(f"Rotated.vector must have {padded} coordinates, for {self.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat(Payload):
    """The floating leaves of a tree as one vector, and its other leaves as they are.

    Attributes:
        vector: ``f[d]``, or a payload of it.
        others: the tree with None in their places.
        structure: of the tree.
    """

    vector: Tree
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """The vector has a coordinate for each float of the structure."""
        shapes = [shape for shape, _ in filter(None, self.structure.floats)]
        size = sum(map(_size, shapes))
        if isinstance(self.vector, _ARRAYS) and self.vector.shape != (size,):
            raise ValueError(f"Flat.vector must have {size} coordinates, got {self.vector.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leaves(Payload):
    """A tree as the payloads of its floating leaves, and its other leaves as they are.

    Attributes:
        leaves: one payload each, in order.
        others: the tree with None in their places.
        structure: of the tree.
    """

    leaves: tuple[Tree, ...]
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """There is a payload for each floating leaf of the structure."""
        wanted = sum(described is not None for described in self.structure.floats)
        if len(self.leaves) != wanted:
            raise ValueError(f"Leaves needs {wanted} payloads, got {len(self.leaves)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks(Payload):
    """An array in blocks of one size, the last padded with zeros.

    Attributes:
        rows: ``f[b, size]``, or the payload of a block with an axis of b blocks in front.
        shape: of the array.
        size: of a block.
    """

    rows: Tree
    shape: tuple[int, ...] = static()
    size: int = static()

    @property
    def count(self) -> int:
        """b, the number of blocks."""
        return -(-_size(self.shape) // self.size)

    def check(self) -> None:
        """Every array of the rows has one entry for each block."""
        # What a later codec made of a part of the rows has an axis of its own.
        for part in jax.tree.leaves(self.rows, is_leaf=lambda part: part is not self.rows):
            if isinstance(part, _ARRAYS) and part.shape[:1] != (self.count,):
                raise ValueError(f"Blocks has {self.count} blocks, got rows of {part.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selected(Payload):
    """A tree in two: the leaves that a codec was given, and those it was not.

    Attributes:
        inside: a payload of ``{path: leaf}``, the selected leaves.
        outside: the tree with None in their places.
    """

    inside: Tree
    outside: Tree
