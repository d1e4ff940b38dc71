"""All cores of a CPU, as devices of JAX."""

import os

import jax

from fjx import _validate


def use_cpu_devices(count: int | None = None) -> None:
    """Split the CPU into ``count`` JAX devices, so that :func:`fjx.simulate` spreads clients over them.

    Call it first in a program, because JAX fixes its devices when it first computes anything.  The
    environment variable ``FJX_CPU_DEVICES`` (a number, or ``all``) does the same when fjx is
    imported.

    The small kernels of federated clients do not thread well: two devices with their own clients
    finish a round sooner than one device that uses two threads for every product.

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
    if count is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    count = _validate.static_integer("count", count, at_least=1)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if jax.device_count("cpu") == count:
            return
        raise RuntimeError(
            f"JAX has started with {jax.device_count('cpu')} CPU devices, too late for {count}; call "
            "use_cpu_devices before the first array is made, or set the environment variable "
            f"FJX_CPU_DEVICES={count}"
        ) from error


def devices_from_environment() -> None:
    """Make the devices that the environment variable ``FJX_CPU_DEVICES`` asks for.

    Raises:
        ValueError: the variable is neither a positive number nor "all".
    """
    wanted = os.environ.get("FJX_CPU_DEVICES")
    if not wanted:
        return
    if wanted != "all" and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(f'FJX_CPU_DEVICES must be a positive number or "all", got {wanted!r}')
    use_cpu_devices(None if wanted == "all" else int(wanted))
