"""Running programs under ``jax_debug_nans``."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate


def played(program: Any, *args: Any) -> Any:
    """Outputs ``(state, *reports)`` of a program of rounds.

    Under ``jax_debug_nans`` the state is searched for NaN, and the reports are not: there, a mean over
    nobody is NaN on purpose.

    Raises:
        FloatingPointError: ``jax_debug_nans`` is set, and the state has a NaN.
    """
    is_searched = jax.config.jax_debug_nans  # type: ignore[attr-defined]
    with jax.debug_nans(False):
        outputs = program(*args)
        for path, leaf in jax.tree_util.tree_leaves_with_path(outputs[0]) if is_searched else ():
            if _tree.is_float(leaf) and _validate.concrete(leaf) and jnp.isnan(leaf).any():
                raise FloatingPointError(
                    f"invalid value (nan) in {_tree.name_of(path)} after these rounds; jax_debug_nans "
                    "is set, so the run stops here"
                )
    return outputs


def scored(program: Any, *args: Any) -> Any:
    """Scores of an evaluation, in which a NaN does not stop a search for NaN."""
    with jax.debug_nans(False):
        return program(*args)
