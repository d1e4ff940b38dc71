"""A table of the costs, contracts and errors of a codec on a model's messages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate, wire
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels import random as _random
from fjx.compressors._shapes import require_compressor
from fjx.wire import Coded, Leaves, Selected


class Row(NamedTuple):
    """A row of a :class:`Description`: one leaf of a message, or all of it.

    Attributes:
        name: path of the leaf, or ``all``.
        shape: shape of the leaf; None for all.
        raw_bits: cost without a codec.
        bits: mean cost of the payload over the messages; None for a leaf without a payload of its
            own.
        contract: contract of the codec for the leaf; None for a leaf without a payload of its own.
        nmse: mean of ||C(x) - x||^2 / ||x||^2 over the messages; None if x is zero.
    """

    name: str
    shape: tuple[int, ...] | None
    raw_bits: int
    bits: float | None
    contract: Contract | None
    nmse: float | None

    @property
    def ratio(self) -> float | None:
        """The factor by which the payload is smaller than the leaf."""
        return self.raw_bits / self.bits if self.bits else None


class Description(NamedTuple):
    """The result of :func:`describe`; ``str`` of it is a table.

    Attributes:
        leaves: a row for each leaf.
        total: the row of the whole message.
    """

    leaves: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        rows = [*self.leaves, self.total]
        cells = [_HEADER, *(_cells(row) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


_HEADER = ("leaf", "shape", "bits", "ratio", "unbiased", "omega", "delta", "NMSE")


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    promised = ("", "", "")
    if row.contract is not None:
        unbiased = "yes" if row.contract.unbiased else "no"
        promised = (unbiased, number(row.contract.omega), number(row.contract.delta))
    bits = "" if row.bits is None else f"{row.bits:,.0f}"
    shape = "" if row.shape is None else "x".join(map(str, row.shape)) or "scalar"
    return (row.name, shape, bits, number(row.ratio), *promised, number(row.nmse))


def describe(
    codec: Compressor, message_like: TreeLike, *, key: Key | None = None, messages: int = 8
) -> Description:
    """A table of the cost, contract and error of a codec, leaf by leaf.

    Messages of independent normal coordinates are encoded and decoded.  Messages of training are
    not normal: often a few coordinates are large or most are zero, and then other codecs are good.

    Args:
        codec: any compressor.
        message_like: a message, or the model, or the shapes of either.  Integer leaves are sent as
            zeros.
        key: key of the messages and of the codec; ``jax.random.key(0)`` by default.
        messages: number of messages drawn.

    Returns:
        A :class:`Description`.

    Raises:
        TypeError: ``codec`` is not a Compressor, ``key`` is not a typed key, or ``messages`` is not
            an integer.
        ValueError: ``messages`` is less than 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.on("w", compressors.chain(
        ...     compressors.top_k(0.25), compressors.cast(jnp.bfloat16)))
        >>> found = compressors.describe(codec, {"w": jnp.zeros((64, 64)), "b": jnp.zeros(64)})
        >>> print(found)
        leaf  shape    bits  ratio  unbiased  omega  delta   NMSE
        ---------------------------------------------------------
        b     64      2,048      1       yes      0      1      0
        w     64x64  28,672   4.57        no                0.276
        ---------------------------------------------------------
        all          30,720   4.33        no                0.272
        >>> found.total.bits == 64 * 32 + 1024 * (16 + 12)
        True
    """
    require_compressor("describe", codec)
    messages = _validate.static_integer("messages", messages, at_least=1)
    key = jax.random.key(0) if key is None else key
    _validate.key("key", key)
    like = _tree.like(message_like)

    @jax.jit
    def one(key: Key) -> tuple[Tree, Tree]:
        key_draw, key_encode = jax.random.split(key)
        message = _normal(key_draw, like)
        payload, _ = codec.encode(key_encode, message, codec.init(message))
        return payload, jax.tree.map(_errors, codec.decode(payload), message)

    found = [one(jax.random.fold_in(key, i)) for i in range(messages)]
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    errors = [treedef.flatten_up_to(error) for _, error in found]
    parts = [_payloads(payload, treedef, paths) for payload, _ in found]

    def row(i: int, path: Any, leaf: Any) -> Row:
        alone = treedef.unflatten([other if j == i else None for j, (_, other) in enumerate(paths)])
        costs = [wire.bits(part[i]) for part in parts if part is not None]
        return Row(
            name=_name(path) or "message",
            shape=tuple(leaf.shape),
            raw_bits=wire.bits(leaf),
            bits=sum(costs) / messages if costs else None,
            contract=codec.contract(alone) if costs and _tree.is_float(leaf) else None,
            nmse=_nmse([error[i] for error in errors]),
        )

    rows = tuple(row(i, path, leaf) for i, (path, leaf) in enumerate(paths))
    total = Row(
        name="all",
        shape=None,
        raw_bits=wire.bits(like),
        bits=sum(wire.bits(payload) for payload, _ in found) / messages,
        contract=codec.contract(like),
        nmse=_nmse([jnp.sum(jnp.stack(error), axis=0) for error in errors if error]),
    )
    return Description(rows, total)


def _normal(key: Key, like: TreeLike) -> Tree:
    leaves, treedef = jax.tree.flatten(like)
    return treedef.unflatten(
        _random.normal(jax.random.fold_in(key, i), leaf.shape).astype(leaf.dtype)
        if _tree.is_float(leaf)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    )


def _errors(decoded: Array, message: Array) -> Array:
    """The squared norms of the error and of the message, ``f32[2]``."""
    x, y = message.astype(jnp.float32), decoded.astype(jnp.float32)
    return jnp.stack([jnp.sum((y - x) ** 2), jnp.sum(x**2)])


def _nmse(errors: list[Array]) -> float | None:
    error, power = map(float, sum(errors, start=jnp.zeros(2)))
    return error / power if power else None


def _payloads(payload: Tree, treedef: Any, paths: list[Any]) -> list[Tree] | None:
    """The payload of each leaf, or None if the codec does not work leaf by leaf."""
    if isinstance(payload, Coded):
        inner = _payloads(payload.inner, treedef, paths)
        return None if inner is None else [Coded(part, payload.coder) for part in inner]
    if isinstance(payload, Selected):
        return _selected(payload, treedef, paths)
    if isinstance(payload, Leaves):
        floats, others = iter(payload.leaves), iter(jax.tree.leaves(payload.others))
        return [next(floats if _tree.is_float(leaf) else others) for _, leaf in paths]
    try:
        return list(treedef.flatten_up_to(payload))
    except (ValueError, TypeError):
        return None


def _selected(payload: Selected, treedef: Any, paths: list[Any]) -> list[Tree] | None:
    """The payload of each leaf under a codec of some leaves; the other leaves are unchanged."""
    try:
        outside = treedef.flatten_up_to(payload.outside)
    except (ValueError, TypeError):
        return None
    rest = zip(paths, outside, strict=True)
    chosen = {_name(path): leaf for (path, leaf), part in rest if part is None}
    inside_paths, inside_def = jax.tree_util.tree_flatten_with_path(chosen)
    inside = _payloads(payload.inside, inside_def, inside_paths)
    if inside is None:
        return None
    by_name = {path[0].key: part for (path, _), part in zip(inside_paths, inside, strict=True)}
    return [
        by_name[_name(path)] if part is None else part
        for (path, _), part in zip(paths, outside, strict=True)
    ]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
