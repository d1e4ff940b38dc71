"""All cores of a CPU, as devices of JAX."""

import contextlib
import functools
import os
import warnings

import jax

from fjx import _validate

_VARIABLE = "FJX_CPU_DEVICES"


def use_cpu_devices(count: int | None = None) -> None:
    """Split the CPU into ``count`` JAX devices, so that :func:`fjx.simulate` spreads clients over them.

    Importing fjx does so for all cores, unless JAX has started, or somebody has chosen: by this
    function, by the environment variable ``FJX_CPU_DEVICES`` (a number, or ``all``), by the option
    ``jax_num_cpu_devices`` or by ``XLA_FLAGS``.  JAX fixes its devices when it first computes
    anything.

    The small kernels of federated clients do not thread well: two devices with their own clients
    finish a round sooner than one device that uses two threads for every product.  Other code of the
    process sees more entries in ``jax.devices()``; its arrays stay on the first one, whose products
    still use all cores.

    Args:
        count: number of devices; by default the processors that this process may run on.

    Raises:
        TypeError: ``count`` is not an integer.
        ValueError: ``count`` is below one.
        RuntimeError: JAX has already started, with another number of CPU devices.

    Examples:
        >>> import jax
        >>> from fjx import simulation
        >>> simulation.use_cpu_devices(jax.device_count("cpu"))  # too late to change anything
    """
    count = _processors() if count is None else count
    count = _validate.static_integer("count", count, at_least=1)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if jax.device_count("cpu") == count:
            return
        raise RuntimeError(
            f"JAX has started with {jax.device_count('cpu')} CPU devices, too late for {count}; call "
            "use_cpu_devices before the first array is made, or set the environment variable "
            f"JAX_NUM_CPU_DEVICES={count}, which JAX itself reads"
        ) from error


def devices_by_default() -> None:
    """Make a device of each core, or those that the environment variable asks for.

    Raises:
        ValueError: the variable is neither a positive number nor "all".
        RuntimeError: JAX has started with another number than the variable's.
    """
    wanted = os.environ.get(_VARIABLE)
    if not wanted:
        if not _chosen():
            with contextlib.suppress(RuntimeError):  # JAX has started: a run on one device says so
                jax.config.update("jax_num_cpu_devices", _processors())
        return
    if wanted != "all" and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(f'{_VARIABLE} must be a positive number or "all", got {wanted!r}')
    use_cpu_devices(None if wanted == "all" else int(wanted))


@functools.cache
def tell_of_idle_cores() -> None:
    """Warn, once, if a run uses one of several cores and nobody chose that."""
    if os.environ.get(_VARIABLE) or _chosen() or jax.default_backend() != "cpu":
        return
    if jax.device_count() == 1 and _processors() > 1:
        warnings.warn(
            f"JAX started before fjx was imported, so this run does not spread over the "
            f"{_processors()} cores: import fjx first, or set JAX_NUM_CPU_DEVICES={_processors()} "
            "(1 means that one device is wanted)",
            stacklevel=4,
        )


def _chosen() -> bool:
    """True if somebody chose the number of CPU devices by an option of JAX or of XLA."""
    by_xla = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return by_xla or jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]


def _processors() -> int:
    """Processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1
