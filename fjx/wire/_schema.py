"""The schema of a frame: canonical JSON that describes a payload without its numbers."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Stateful, TreeLike
from fjx._tree import Structure
from fjx.wire._bits import children, leaf_width
from fjx.wire._payload import Payload


def schema_of(tree: TreeLike) -> bytes:
    """Schema of a payload or of its form."""
    return json.dumps(_describe(tree), separators=(",", ":"), sort_keys=True).encode()


def form_of(schema: bytes) -> TreeLike:
    """Form that a schema describes, after a check that :func:`schema_of` writes the same bytes."""
    form = _rebuild(json.loads(schema))
    if schema_of(form) != schema:
        raise ValueError("its schema is not as fjx writes it")
    return form


def _describe(tree: TreeLike) -> Any:
    describe = _describe
    match tree:
        case None:
            return None
        case dict() if type(tree) is dict:
            # JAX sorts keys as well; the body thus has the order of the leaves.
            return ["dict", [[_plain_key(k), describe(tree[k])] for k in sorted(tree)]]
        case Payload():
            fields = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}  # type: ignore[arg-type]
            names = {name for name, _ in children(tree)}
            return [
                "payload",
                type(tree).__name__,
                [[k, describe(v)] for k, v in fields.items() if k in names],
                [[k, _static(v)] for k, v in fields.items() if k not in names],
            ]
        case Stateful(params, state):
            return ["stateful", [describe(params), describe(state)]]
        case list() | tuple() if type(tree) in (list, tuple):
            return [type(tree).__name__, [describe(part) for part in tree]]
        case _ if hasattr(tree, "dtype") and hasattr(tree, "shape"):
            leaf_width(tree)  # raises for arrays without a wire format, such as a typed key
            return ["array", np.dtype(tree.dtype).name, list(tree.shape)]
    parts = children(tree)
    if len(parts) == 1 and parts[0][1] is tree:
        leaf_width(tree)
    name = f"{type(tree).__module__}.{type(tree).__qualname__}"
    return ["other", name, [[key, describe(part)] for key, part in parts]]


def _rebuild(schema: Any) -> TreeLike:
    match schema:
        case None:
            return None
        case ["dict", entries]:
            return {key: _rebuild(part) for key, part in entries}
        case ["payload", name, contents, statics]:
            types = {cls.__name__: cls for cls in _subclasses(Payload)}
            if name not in types:
                raise ValueError(f"no payload type is called {name}")
            return types[name](
                **{key: _rebuild(part) for key, part in contents},
                **{key: _from_static(value) for key, value in statics},
            )
        case ["stateful", [params, state]]:
            return Stateful(_rebuild(params), _rebuild(state))
        case ["list", parts]:
            return [_rebuild(part) for part in parts]
        case ["tuple", parts]:
            return tuple(_rebuild(part) for part in parts)
        case ["array", dtype, shape] if all(type(n) is int and n >= 0 for n in shape):
            return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
        case ["other", name, _]:
            raise ValueError(f"it holds a {name}; give from_bytes a payload like the expected one")
    raise ValueError("its schema has a part that describes nothing")


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    """All subclasses of a class, including those that users define."""
    return [sub for each in cls.__subclasses__() for sub in (each, *_subclasses(each))]


def _static(value: Any) -> Any:
    match value:
        case Structure(treedef, floats):
            leaves = [None if f is None else jax.ShapeDtypeStruct(f[0], f[1]) for f in floats]
            marked = [jax.ShapeDtypeStruct((), jnp.bool_) if x is None else x for x in leaves]
            return ["structure", _describe(treedef.unflatten(marked))]
        case tuple():
            return ["tuple", [_static(item) for item in value]]
        case bool() | int() | float() | str():
            return value
    raise TypeError(f"a static field of type {type(value).__name__} has no wire format")


def _from_static(value: Any) -> Any:
    match value:
        case ["structure", schema]:
            leaves, treedef = jax.tree.flatten(_rebuild(schema))
            return Structure(
                treedef,
                tuple(
                    None if leaf.dtype == jnp.bool_ else (tuple(leaf.shape), leaf.dtype.name)
                    for leaf in leaves
                ),
            )
        case ["tuple", items]:
            return tuple(_from_static(item) for item in items)
        case bool() | int() | float() | str():
            return value
    raise ValueError("its schema has a part that describes no static field")


def _plain_key(key: Any) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(f"dict keys must be str or int to be written as bytes, got {key!r}")
