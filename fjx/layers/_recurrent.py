"""Scans that compute their weights' gradients in one product after the reverse scan.

In ``h_t = f(h_{t-1} w + x_t)`` the gradient of w is ``sum_t h_{t-1}' d_t``, where d_t is the
cotangent of the product in step t.  JAX adds up that sum inside the reverse scan: each step adds
one thin product to an accumulator of the size of w.  Here the reverse scan stacks the d_t instead,
and the sum is one product over time and batch together: ``H' D``.

To do so, the scan is a ``custom_jvp``, and its rule moves the tangent of w out of the loop:

    dy_t = dh_{t-1} w + e_t,    e = H dw,

where the scan stacks H, and e is computed before the linear scan.  The rule is ordinary JAX that is
linear in the tangents, so forward mode, higher orders, ``vmap`` and ``shard_map`` need no rules of
their own.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core.primitives import scan_p

from fjx._base import Array, Tree


def scan(
    f: Callable[[Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    xs: Tree = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Tree, Tree]:
    """Scan like :func:`jax.lax.scan`, which computes the derivatives of weights outside the loop.

    Guarantees:
        - Values and derivatives are those of ``lax.scan``, up to the order of sums.

    Args:
        f: function ``(carry, x) -> (carry, y)``.  A weight is an array that f closes over and that
            f uses only as a factor of ``lax.dot_general``, ``@`` and similar products, possibly
            transposed, reshaped or cast before.
        init: first carry.
        xs: arrays with a leading axis of time, or None.
        length: number of steps, if there are no ``xs``.
        reverse: True if time runs backwards.
        unroll: steps in one iteration of the loop.

    Returns:
        The last carry and the stacked y.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import layers
        >>> def last(w, x):
        ...     return layers.scan(lambda h, x: (jnp.tanh(h @ w + x), None), jnp.zeros(2), x)[0]
        >>> jax.grad(lambda w: last(w, jnp.ones((3, 2))).sum())(jnp.eye(2)).shape
        (2, 2)
    """
    run = functools.partial(lax.scan, f, init, xs, length=length, reverse=reverse, unroll=unroll)
    # The function closes over everything, so that only lax.scan decides the types.
    jaxpr, out = jax.make_jaxpr(run, return_shape=True)()
    steps: list[_Step] = []
    outputs = _flatten(jaxpr, [], itertools.count(), steps)
    now: dict[int, Array] = {}
    for step in steps:
        _run(step, now)
    return jax.tree.unflatten(jax.tree.structure(out), [_read(x, now) for x in outputs])


def scan_rule(*args: Array, **params: Any) -> list[Array]:
    """Results of ``scan_p.bind(*args, **params)``, with weights' derivatives outside the loop.

    Args:
        *args: operands of a ``scan`` equation: constants, carry, and arrays over time.
        **params: parameters of the equation.

    Returns:
        The results of the equation.
    """
    consts, carry = scan_counts(params)
    inputs: list[Any] = list(range(len(args)))
    steps: list[_Step] = []
    outputs = _flatten(params["jaxpr"], inputs, itertools.count(len(args)), steps)
    before, steps, products = _sort(inputs[:consts], steps, outputs)
    if not products or params["jaxpr"].effects:
        return scan_p.bind(*args, **params)

    known = dict(zip(inputs, args[:consts], strict=False))
    for step in before:
        _run(step, known)
    weights = {name: p.matrix(known[p.weight]) for name, p in products.items()}
    for name in {p.weight for p in products.values()}:
        del known[name]

    def loop(
        multiply: Callable[[int, Array, Tree], Array], state: list[Tree], extra: Tree = None
    ) -> tuple[list[Array], Tree]:
        """Results of the scan, and the factors of all products.

        ``multiply(name, rows, extra_t)`` computes a product.
        """
        known, init, xs = state

        def body(carried: list[Array], x: tuple[list[Array], Tree]) -> tuple[list[Array], Tree]:
            now = known | dict(zip(inputs[consts:], [*carried, *x[0]], strict=True))
            factors = {}
            for step in steps:
                if step.outputs and (name := step.outputs[0]) in products:
                    product = products[name]
                    factors[name] = product.rows(_read(product.factor, now))
                    now[name] = product.result(multiply(name, factors[name], x[1]))
                else:
                    _run(step, now)
            out = [_read(x, now) for x in outputs]
            return out[:carry], (out[carry:], factors)

        how = {name: params[name] for name in ("length", "reverse", "unroll")}
        last, (ys, factors) = lax.scan(body, init, (xs, extra), **how)
        return [*last, *ys], factors

    @jax.custom_jvp
    def run(weights: dict[int, Array], state: list[Tree]) -> list[Array]:
        def multiply(name: int, rows: Array, extra: Tree) -> Array:
            return products[name].dot(rows, weights[name])

        return loop(multiply, state)[0]

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def derivative(primals: tuple, tangents: tuple) -> tuple[list[Array], list[Array]]:
        weights, state = primals
        learned = {name: dw for name, dw in tangents[0].items() if not _is_zero(dw)}
        leaves, tree = jax.tree.flatten(state)
        moves = {i: dx for i, dx in enumerate(jax.tree.leaves(tangents[1])) if not _is_zero(dx)}
        # Every step of the reverse scan multiplies by w', which is faster with a transposed copy.
        turned = {name: lax.optimization_barrier(w.mT) for name, w in weights.items()}

        def linear(moved: dict[int, Array], extra: dict[int, Array]) -> tuple[list[Array], Tree]:
            def multiply(name: int, rows: Array, extra: dict[int, Array]) -> Array:
                of = products[name]
                return _multiply(of, rows, weights[name], turned[name], extra.get(name))

            now = [moved.get(i, leaf) for i, leaf in enumerate(leaves)]
            return loop(multiply, jax.tree.unflatten(tree, now), extra)

        nothing = {name: products[name].zeros(params["length"]) for name in learned}
        out, forward, factors = jax.linearize(
            linear, {i: leaves[i] for i in moves}, nothing, has_aux=True
        )
        extra = {name: products[name].over_time(factors[name], dw) for name, dw in learned.items()}
        return out, forward(moves, extra)

    state: list[Tree] = [known, list(args[consts : consts + carry]), list(args[consts + carry :])]
    return run(weights, state)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """Number of constants and of carries of a ``scan`` equation, in both notations that JAX has used."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


class _Product(NamedTuple):
    """A ``dot_general`` of a factor x that changes from step to step and a weight that does not.

    It is computed as ``rows[*batch, r, k] @ matrix[*batch, k, n]``.

    Attributes:
        equation: equation of the product.
        factor: factor x.
        weight: weight.
        side: operand number of x, 0 or 1.
    """

    equation: Any
    factor: Any
    weight: int
    side: int

    def _arranged(self, side: int) -> tuple[list[int], list[int], list[int]]:
        """Batch axes, free axes and contracted axes of an operand."""
        contracted, batch = (list(pair[side]) for pair in self.equation.params["dimension_numbers"])
        free = [i for i in range(self._shape(side)[1]) if i not in (*contracted, *batch)]
        return batch, free, contracted

    def _shape(self, side: int) -> tuple[tuple[int, ...], int]:
        shape = self.equation.invars[side].aval.shape
        return shape, len(shape)

    def rows(self, x: Array) -> Array:
        batch, free, contracted = self._arranged(self.side)
        return _merge(x, batch, free, contracted)

    def matrix(self, w: Array) -> Array:
        batch, free, contracted = self._arranged(1 - self.side)
        return _merge(w, batch, contracted, free)

    def dot(self, rows: Array, matrix: Array, *, turned: bool = False) -> Array:
        """Product ``rows @ matrix``, or ``rows @ matrix'`` if turned."""
        batch = tuple(range(rows.ndim - 2))
        axes = ((rows.ndim - 1,), (rows.ndim - 1 if turned else rows.ndim - 2,))
        params = {k: self.equation.params[k] for k in ("precision", "preferred_element_type")}
        return lax.dot_general(rows, matrix, (axes, (batch, batch)), **params)

    def result(self, y: Array) -> Array:
        """``[*batch, r, n]`` in the layout of the equation."""
        sizes = [[self._shape(s)[0][i] for i in self._arranged(s)[1]] for s in (0, 1)]
        batch = y.shape[:-2]
        if self.side == 1:
            y = y.mT
        return y.reshape(*batch, *sizes[0], *sizes[1])

    def zeros(self, length: int) -> Array:
        """Zeros ``[length, *batch, r, n]`` of the same type as :meth:`over_time`."""
        like = self.equation.outvars[0].aval
        batch, free, _ = self._arranged(self.side)
        shape = self._shape(self.side)[0]
        columns = math.prod(like.shape) // max(1, math.prod(shape[i] for i in (*batch, *free)))
        rows = math.prod(shape[i] for i in free)
        zeros = jnp.zeros((length, *(shape[i] for i in batch), rows, columns), like.dtype)
        return lax.pcast(zeros, tuple(like.mat.varying), to="varying")

    def over_time(self, rows: Array, matrix: Array) -> Array:
        """Products ``rows[t] @ matrix`` for all t at once."""
        at = rows.ndim - 3
        length, *batch, r, k = rows.shape
        y = self.dot(jnp.moveaxis(rows, 0, at).reshape(*batch, length * r, k), matrix)
        return jnp.moveaxis(y.reshape(*batch, length, r, -1), at, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _multiply(
    product: _Product, rows: Array, w: Array, turned: Array, extra: Array | None
) -> Array:
    """``rows @ w``, with the tangent ``d rows @ w + d extra`` computed from w' = ``turned``."""
    return product.dot(rows, w)


@functools.partial(_multiply.defjvp, symbolic_zeros=True)
def _multiply_derivative(product: _Product, primals: tuple, tangents: tuple) -> tuple[Array, Any]:
    rows, w, turned, _ = primals
    moved, _, _, extra = tangents
    parts = [] if _is_zero(moved) else [product.dot(moved, turned, turned=True)]
    parts += [] if _is_zero(extra) else [extra]
    y = product.dot(rows, w)
    return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


def _is_zero(tangent: Any) -> bool:
    return (
        tangent is None or isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0
    )


def _merge(x: Array, batch: list[int], first: list[int], second: list[int]) -> Array:
    """``x`` as ``[*batch, prod(first), prod(second)]``."""
    sizes = [math.prod(x.shape[i] for i in axes) for axes in (first, second)]
    return x.transpose(*batch, *first, *second).reshape(*(x.shape[i] for i in batch), *sizes)


class _Step(NamedTuple):
    """An equation, its operands by name or value, and the names of its results."""

    equation: Any
    inputs: list[Any]
    outputs: list[int]


class _Value(NamedTuple):
    val: Any


def _flatten(jaxpr: Any, inputs: list[Any], names: Iterator[int], steps: list[_Step]) -> list[Any]:
    """Append the equations of a closed jaxpr, without nested ``jit``, and return its results."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    values = [_Value(value) for value in jaxpr.consts]
    env = dict(zip([*inner.constvars, *inner.invars], [*values, *inputs], strict=True))

    def read(x: Any) -> Any:
        return x if hasattr(x, "val") else env[x]

    for equation in inner.eqns:
        operands = [read(x) for x in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            results = _flatten(equation.params["jaxpr"], operands, names, steps)
        else:
            results = [next(names) for _ in equation.outvars]
            steps.append(_Step(equation, operands, results))
        env.update(zip(equation.outvars, results, strict=True))
    return [read(x) for x in inner.outvars]


def _read(x: Any, now: dict[int, Array]) -> Any:
    return now[x] if isinstance(x, int) else x.val


def _run(step: _Step, now: dict[int, Array]) -> None:
    """Add the results of an equation to ``now``."""
    primitive, operands = step.equation.primitive, [_read(x, now) for x in step.inputs]
    if primitive is scan_p:
        results: Any = scan_rule(*operands, **step.equation.params)
    else:
        results = primitive.bind(*operands, **primitive.get_bind_params(step.equation.params))
    if not primitive.multiple_results:
        results = [results]
    now.update(zip(step.outputs, results, strict=True))


_REARRANGING = ("transpose", "reshape", "squeeze", "convert_element_type")


def _sort(
    consts: list[int], steps: list[_Step], outputs: list[Any]
) -> tuple[list[_Step], list[_Step], dict[int, _Product]]:
    """Steps that only rearrange constants, all other steps, and the products by a weight among these.

    The products are keyed by the names of their results.
    """
    fixed, before, after = set(consts), [], []
    for step in steps:
        if (
            step.equation.primitive.name in _REARRANGING
            and isinstance(step.inputs[0], int)
            and step.inputs[0] in fixed
        ):
            before.append(step)
            fixed.update(step.outputs)
        else:
            after.append(step)

    products = {}
    spoilt = {x for x in outputs if isinstance(x, int)}
    for step in after:
        found = [side for side, x in enumerate(step.inputs) if isinstance(x, int) and x in fixed]
        if _is_dot(step.equation) and len(found) == 1:
            side = 1 - found[0]
            factor, weight = step.inputs[side], step.inputs[found[0]]
            products[step.outputs[0]] = _Product(step.equation, factor, weight, side)
        else:
            spoilt.update(step.inputs[side] for side in found)
    return before, after, {k: p for k, p in products.items() if p.weight not in spoilt}


def _is_dot(equation: Any) -> bool:
    """True for a product of floating arrays that are not sharded."""
    return (
        equation.primitive.name == "dot_general"
        and equation.params.get("out_sharding") is None
        and all(jnp.issubdtype(x.aval.dtype, jnp.floating) for x in equation.invars)
    )
