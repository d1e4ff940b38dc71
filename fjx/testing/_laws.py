"""A law, the failure that names it, and the small tools that laws are written with."""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import wire
from fjx._base import Tree, TreeLike
from fjx._tree import is_float

SIGMAS = 6.0
"""Bounds on means, in standard errors: a sound component misses one with probability below 1e-8."""


class LawError(AssertionError):
    """A component breaks a law.

    The message has one line for each attribute.

    Attributes:
        law: the law's name.
        statement: the law in one sentence.
        given: the input on which it fails.
        found: the result that contradicts it.
        remedy: the usual cause, and a way to mend it.
    """

    def __init__(self, law: str, statement: str, given: str, found: str, remedy: str) -> None:
        self.law, self.statement = law, statement
        self.given, self.found, self.remedy = given, found, remedy
        super().__init__(
            f"the law {law!r} does not hold\n"
            f"  Law:    {statement}\n"
            f"  Input:  {given}\n"
            f"  Found:  {found}\n"
            f"  Remedy: {remedy}"
        )


class Law(NamedTuple):
    """One law about one component.

    Attributes:
        name: a Python identifier, for the id of a test.
        statement: the law in one sentence.
        check: raises :class:`LawError` if the law does not hold; it takes no arguments.
    """

    name: str
    statement: str
    check: Callable[[], None]


class Broken(Exception):
    """Raised inside a law; :func:`bind` adds the law's name and statement."""

    def __init__(self, given: str, found: str, remedy: str) -> None:
        self.parts = given, found, remedy
        super().__init__(found)


def bind(trial: Any, functions: Iterable[Callable[[Any], None]]) -> list[Law]:
    """The laws of one component: each function, applied to what the component did on trial."""
    laws = []
    for function in functions:
        statement = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        check = functools.partial(_check, function, statement, trial)
        laws.append(Law(function.__name__, statement, check))
    return laws


def _check(function: Callable[[Any], None], statement: str, trial: Any) -> None:
    try:
        function(trial)
    except Broken as broken:
        cause = broken.__cause__
        raise LawError(function.__name__, statement, *broken.parts) from cause


def run(laws: Iterable[Law]) -> None:
    """Checks laws one after another, up to the first that does not hold."""
    for law in laws:
        law.check()


def require(holds: Any, given: str, found: str, remedy: str) -> None:
    """Raises :class:`Broken` unless ``holds``."""
    if not bool(holds):
        raise Broken(given, found, remedy)


@contextlib.contextmanager
def attempt(given: str, remedy: str) -> Iterator[None]:
    """Turns an exception of the component itself into a broken law."""
    try:
        yield
    except (Broken, LawError):
        raise
    except Exception as error:
        summary = str(error).strip().split("\n")[0]
        raise Broken(given, f"{type(error).__name__}: {summary}", remedy) from error


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.jit`` with few optimisations, for a program that runs once: compiling takes the time."""
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quick)


def require_one_program(
    words: str, function: Callable[..., Any], like: tuple[TreeLike, ...], remedy: str
) -> None:
    """Raises unless two traces give the same program, constants included.

    NumPy's randomness, a counter or a list that grows are invisible to a compiled program; they are
    constants of its trace.
    """
    first, second = (jax.make_jaxpr(lambda *x: function(*x))(*like) for _ in range(2))
    same = _text(first) == _text(second)
    require(same, f"two traces of {words}", "they are different programs", remedy)


def _text(program: Any) -> list[Any]:
    """The program without addresses of functions, and the bytes of its constants."""
    arrays = (x for x in program.consts if not is_key(x))
    return [re.sub(r"0x[0-9a-f]+", "", str(program)), [np.asarray(x).tobytes() for x in arrays]]


def require_fresh_keys(function: Callable[[Any], Any]) -> None:
    """Raises if a function of a key draws from one key twice."""
    remedy = "split the key, one part for each draw: key_a, key_b = jax.random.split(key)"
    with attempt("one call, with jax_debug_key_reuse", remedy), jax.debug_key_reuse(True):
        # Checked when a program is traced.
        jax.jit(function).eval_shape(jax.random.key(0))


# --------------------------------------------------------------------------------------------------
# Trees
# --------------------------------------------------------------------------------------------------


def template(tree: TreeLike) -> TreeLike:
    """Shapes and dtypes of a tree of arrays, numbers or templates."""

    def describe(x: Any) -> jax.ShapeDtypeStruct:
        if isinstance(x, jax.ShapeDtypeStruct):
            return x
        return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))

    return jax.tree.map(describe, tree)


def named(tree: Tree) -> list[tuple[str, Any]]:
    """The leaves, each with the words by which a failure names it."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "the only leaf", leaf) for path, leaf in paths]


def floats(tree: Tree) -> list[tuple[str, Any]]:
    """The floating leaves that have entries, by name."""
    return [(name, x) for name, x in named(tree) if is_float(x) and math.prod(x.shape)]


def normal(like: TreeLike, seed: int) -> Tree:
    """Standard normal floats, small integers and coins, in the shapes of a template."""
    rng = np.random.default_rng(seed)

    def draw(x: Any) -> np.ndarray:
        if is_float(x):
            return np.asarray(rng.normal(size=x.shape)).astype(x.dtype)
        high = 2 if x.dtype == np.bool_ else 5
        return np.asarray(rng.integers(0, high, x.shape)).astype(x.dtype)

    return jax.tree.map(draw, like)


def zeros(like: TreeLike) -> Tree:
    """Zeros in the shapes of a template."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)


def stack(trees: Iterable[Tree]) -> Tree:
    """One tree with a leading axis."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(leaf) for leaf in x]), *trees)


def row(tree: Tree, i: int) -> Tree:
    """Entry ``i`` of the leading axis."""
    return numpy(jax.tree.map(lambda x: x[i], tree))


def numpy(tree: Tree) -> Tree:
    """Every array as a NumPy array, but for keys."""
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), tree)


def is_key(x: Any) -> bool:
    """Whether an array holds typed keys."""
    return bool(jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key))


def cast(tree: TreeLike, dtype: Any) -> TreeLike:
    """A template with its floating leaves in another dtype."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype if is_float(x) else x.dtype), tree
    )


def through_bytes(payload: Tree) -> Tree:
    """A payload as a receiver of its bytes has it, who knows the codec and what it has already."""

    def is_known(part: Any) -> bool:
        return isinstance(part, wire.SideInformation)

    def like(part: Any) -> Any:
        return part if is_known(part) else template(part)

    data = wire.to_bytes(payload)
    known = jax.tree.map(like, payload, is_leaf=is_known)
    restored = wire.from_bytes(data, known)
    if not any(map(is_known, jax.tree.leaves(payload, is_leaf=is_known))):
        alone = wire.from_bytes(data)
        # Bytes describe payload types and dicts; of a NamedTuple they know no more than its order.
        return alone if jax.tree.structure(alone) == jax.tree.structure(payload) else restored
    return jax.tree.map(
        lambda part, own: own if is_known(own) else part,
        restored,
        payload,
        is_leaf=is_known,
    )


# --------------------------------------------------------------------------------------------------
# Comparisons: each returns the first difference in words, or None
# --------------------------------------------------------------------------------------------------


def unlike(tree: TreeLike, wanted: TreeLike) -> str | None:
    """A difference of structure, shape or dtype."""
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return f"structure {jax.tree.structure(tree)}, wanted {jax.tree.structure(wanted)}"
    for (name, x), (_, y) in zip(named(template(tree)), named(template(wanted)), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return f"{_typed(x)} at {name}, wanted {_typed(y)}"
    return None


def different(tree: Tree, wanted: Tree) -> str | None:
    """A difference in any bit, structures included."""
    if (difference := unlike(tree, wanted)) is not None:
        return difference
    for (name, x), (_, y) in zip(named(numpy(tree)), named(numpy(wanted)), strict=True):
        if x.tobytes() != y.tobytes():
            return f"other bits at {name}: {_first(x, y)}"
    return None


def far(tree: Tree, wanted: Tree, tolerance: float) -> str | None:
    """A float that is off by more than ``tolerance`` times the leaf's largest, or another integer.

    The largest counts as at least one, so that the bound does not vanish with the leaf.
    """
    if (difference := unlike(tree, wanted)) is not None:
        return difference
    for (name, x), (_, y) in zip(named(numpy(tree)), named(numpy(wanted)), strict=True):
        if not is_float(y):
            if not np.array_equal(x, y):
                return f"other numbers at {name}: {_first(x, y)}"
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        allowed = tolerance * np.max(np.abs(y), initial=1.0, where=np.isfinite(y))
        same = (x == y) | (np.abs(x - y) <= allowed) | (np.isnan(x) & np.isnan(y))
        if not same.all():
            i = np.unravel_index(np.argmin(same), same.shape)
            return f"{float(x[i])!r} instead of {float(y[i])!r} at {name}{list(map(int, i))}"
    return None


def _typed(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"


def _first(x: np.ndarray, y: np.ndarray) -> str:
    for a, b in zip(x.reshape(-1), y.reshape(-1), strict=True):
        if a.tobytes() != b.tobytes():
            return f"{a} instead of {b}"
    return "none"


def first(differences: Mapping[str, str | None], remedy: str) -> None:
    """Raises for the first input that shows a difference."""
    for given, difference in differences.items():
        require(difference is None, given, difference or "", remedy)
