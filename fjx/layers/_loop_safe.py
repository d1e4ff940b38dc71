"""A transformation that makes convolutions, poolings and recurrences fast inside loops."""

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
    """The same function, with faster derivatives of its convolutions, max-poolings and scans.

    Clients apply it to their loss automatically if JAX runs on a CPU.  There, XLA turns gradients of
    convolutions inside ``scan`` and ``while`` into its own loops, which are up to two orders of
    magnitude slower than outside; convolutions under ``vmap`` with one kernel for each client
    become grouped convolutions; and a scan over time adds up its weights' gradients step by step.

    ``loop_safe`` replaces each convolution by :func:`conv_general_dilated`, each max-pooling by the
    operations of :func:`max_pool`, and each scan by :func:`scan`.  It also looks into called
    functions, branches and loops.

    Guarantees:
        - Values and derivatives are equal up to float32 rounding.
        - A function without such operations stays the same program.
        - Functions with their own derivatives (``custom_jvp``, ``custom_vjp``) keep them.
          Convolutions and poolings inside them and inside their rules are replaced too, scans are
          not.

    Args:
        function: function of pytrees of arrays that returns a pytree of arrays.

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
    """Evaluate a jaxpr; equations to replace go through the rules below."""
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
    """Evaluate an equation unchanged."""
    with equation.ctx.manager:
        found = equation.primitive.bind(
            *inputs, **equation.primitive.get_bind_params(equation.params)
        )
    return list(found) if equation.primitive.multiple_results else [found]


def _concerns(equation: JaxprEqn, replaced: Container[str] | None = None) -> bool:
    """True if the equation must be replaced, or contains one that must."""
    replaced, name = _REPLACED if replaced is None else replaced, equation.primitive.name
    if name in replaced or name not in _RULES:
        return name in replaced
    if name in ("custom_jvp_call", "custom_vjp_call"):
        replaced = _SLOW  # somebody wrote the derivative of this loop on purpose, as we do for scan
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
    """Parameters of an equation that a function accepts; the others concern sharding."""
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
    """A function with its own rule, the rewritten function without the rule, and its operands.

    Closed-over values come first among the inputs; the rule does not know them.
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
