"""Rewriting a function so that its convolutions, poolings and recurrences are fast inside loops."""

import functools
import inspect
from collections.abc import Callable, Container
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal

from fjx._base import Array
from fjx.layers._conv import conv_general_dilated
from fjx.layers._pool import reduce_window_max
from fjx.layers._recurrent import scan, scan_counts


def loop_safe(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with its convolutions, max-poolings and scans differentiated better.

    XLA lowers gradients of convolutions inside ``scan`` and ``while`` on a CPU to loops of its own, up
    to two orders of magnitude slower than outside, and convolutions under ``vmap`` with a kernel for
    each client to grouped ones; a scan over time adds up its weights' gradients step by step.  Every
    such operation, in functions that are called, in branches and loops too, is replaced by
    :func:`conv_general_dilated`, by what makes :func:`max_pool`, or by :func:`scan`.  Clients do this
    with their loss by themselves where JAX runs on a CPU.

    Guarantees: values and derivatives to float32 rounding; a function without such operations is the
        same program; functions with derivatives of their own (``custom_jvp``, ``custom_vjp``) keep
        them: convolutions and poolings inside them and their rules are replaced too, scans are not.

    Args:
        function: of pytrees of arrays, to pytrees of arrays.

    Returns:
        A function of the same arguments.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import layers
        >>> def smooth(x):
        ...     return jnp.convolve(x, jnp.ones(3), mode="same")
        >>> jaxpr = jax.make_jaxpr(layers.loop_safe(smooth))(jnp.ones(5))
        >>> "conv_general_dilated" in str(jaxpr), layers.loop_safe(smooth)(jnp.ones(5)).tolist()
        (False, [2.0, 3.0, 3.0, 3.0, 2.0])
    """

    @functools.wraps(function)
    def safe(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        structure: Any = None

        def flat(*leaves: Array) -> list[Array]:
            nonlocal structure
            args, kwargs = treedef.unflatten(leaves)
            out, structure = jax.tree.flatten(function(*args, **kwargs))
            return out

        program = jax.make_jaxpr(flat)(*leaves)
        if not any(map(_concerns, program.eqns)):
            return function(*args, **kwargs)
        return structure.unflatten(_run(program, *leaves))

    return safe


def _run(program: Any, *arguments: Any) -> list[Any]:
    """Evaluates a jaxpr, by the rules below where there is something to replace."""
    jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        rule = _RULES[equation.primitive.name] if _concerns(equation) else _bind
        found = rule(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """The equation as it is."""
    with equation.ctx.manager:
        found = equation.primitive.bind(
            *inputs, **equation.primitive.get_bind_params(equation.params)
        )
    return list(found) if equation.primitive.multiple_results else [found]


def _concerns(equation: JaxprEqn, replaced: Container[str] | None = None) -> bool:
    """Whether the equation is to be replaced, or holds one that is."""
    replaced, name = _REPLACED if replaced is None else replaced, equation.primitive.name
    if name in replaced or name not in _RULES:
        return name in replaced
    if name in ("custom_jvp_call", "custom_vjp_call"):
        replaced = _SLOW  # a loop that comes with a derivative is somebody's choice, ours for one
    inside = [x for x in jax.tree.leaves(list(equation.params.values())) if hasattr(x, "eqns")]
    return any(_concerns(inner, replaced) for program in inside for inner in program.eqns)


# --------------------------------------------------------------------------------------------------
# Rules: (equation, inputs) -> outputs
# --------------------------------------------------------------------------------------------------


def _convolution(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    return [conv_general_dilated(*inputs, **_known(conv_general_dilated, equation))]


def _pooling(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    return [reduce_window_max(*inputs, **_known(reduce_window_max, equation))]


def _known(function: Callable[..., Any], equation: JaxprEqn) -> dict[str, Any]:
    """The parameters of an equation that a function takes; others are about sharding."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in equation.params.items() if name in names}


def _call(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    return jax.jit(functools.partial(_run, equation.params["jaxpr"]))(*inputs)


def _checkpoint(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    inner = functools.partial(_run, equation.params["jaxpr"])
    kept = {name: equation.params[name] for name in ("policy", "prevent_cse")}
    return jax.checkpoint(inner, **kept)(*inputs)


def _custom_jvp(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    plain, inner, operands = _custom(equation, inputs)
    safe = jax.custom_jvp(inner)

    def rule(primals: tuple, tangents: tuple) -> Any:
        return loop_safe(lambda: jax.jvp(plain, primals, tangents))()

    safe.defjvp(rule)
    return safe(*operands)


def _custom_vjp(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    plain, inner, operands = _custom(equation, inputs)
    safe = jax.custom_vjp(inner)

    def forth(*operands: Any) -> Any:
        return loop_safe(lambda: jax.vjp(plain, *operands))()

    def back(pull: Any, cotangents: Any) -> Any:
        return loop_safe(lambda: pull(cotangents))()

    safe.defvjp(forth, back)
    return safe(*operands)


def _custom(equation: JaxprEqn, inputs: list[Any]) -> tuple[Callable, Callable, list[Any]]:
    """A function with a rule of its own, the same rewritten without the rule, and its operands.

    What it closes over comes first among the inputs, and its rule knows nothing of that.
    """
    count, inside = equation.params["num_consts"], equation.params["call_jaxpr"]
    consts, operands = inputs[:count], inputs[count:]
    return (
        lambda *x: _bind(equation, [*consts, *x]),
        lambda *x: _run(inside, *consts, *x),
        operands,
    )


def _branches(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    return jax.lax.switch(
        inputs[0], [functools.partial(_run, b) for b in equation.params["branches"]], *inputs[1:]
    )


def _while(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    return jax.lax.while_loop(
        lambda carry: _run(params["cond_jaxpr"], *inputs[:first], *carry)[0],
        lambda carry: _run(params["body_jaxpr"], *inputs[first:second], *carry),
        inputs[second:],
    )


def _scan(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    params = equation.params
    consts, carried = scan_counts(params)

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _run(params["jaxpr"], *inputs[:consts], *carry, *x)
        return out[:carried], out[carried:]

    carry, stacked = scan(
        step,
        inputs[consts : consts + carried],
        inputs[consts + carried :],
        **{name: params[name] for name in ("length", "reverse", "unroll")},
    )
    return [*carry, *stacked]


_SLOW = {"conv_general_dilated": _convolution, "reduce_window_max": _pooling}
_REPLACED = {**_SLOW, "scan": _scan}
_RULES = {
    **_REPLACED,
    "jit": _call,
    "pjit": _call,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "cond": _branches,
    "while": _while,
}
