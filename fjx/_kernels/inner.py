"""Inner products that no compiler fuses wrongly."""

import re

import jax
import jax.numpy as jnp

from fjx._base import Array


def inner(a: Array, b: Array) -> Array:
    """The sum of a_i b_i over all entries of two arrays, as a dot product.

    XLA:CPU of JAX 0.10.2 to 0.11 may fuse ``sum(a * b)`` with a product that takes it.  If rows of a
    ``vmap`` share a or b, the sum is then wrong at some sizes.  A dot product is not fused so.
    """
    return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST)


def right_options() -> dict[str, str] | None:
    """Options without which XLA compiles some programs wrongly; None if there is no such fault.

    XLA:CPU of JAX 0.10.2 to 0.11 fuses sums with products and loses the shape of a factor that is
    shared (see :func:`inner`).  So only products of matrices and convolutions are left to the library
    that computes those fusions.
    """
    faulty = (0, 10, 2) <= jax.__version_info__ < (0, 12)
    if not faulty or jax.default_backend() != "cpu":
        return None
    kinds = ("DOT", "INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION")
    kept = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds)
    return {"xla_cpu_experimental_ynn_fusion_type": kept}


def goes_on_after_a_sum(text: str) -> bool:
    """True if a compiled program holds a fusion of the faulty kind: its sum is not its result.

    Sums that are the result of their fusion are right, and several times as fast as without it.

    Args:
        text: the program, as ``compiled.as_text()`` gives it.
    """
    called = re.findall(r"calls=%([\w.-]+),.*__ynn_fusion", text)
    bodies = dict(re.findall(r"^%([\w.-]+) \(.*\{\n((?:  .*\n)*)", text, re.MULTILINE))
    return any(re.search(r"^  %.* reduce\(", bodies[name], re.MULTILINE) for name in called)
