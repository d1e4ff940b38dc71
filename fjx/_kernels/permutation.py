"""A random permutation that can be read at any position without being stored.

Shuffling a client's examples, drawing a cohort without replacement and choosing the coordinates of
rand-k are one problem: read some values of a uniformly random permutation of n things.  n may be
traced, or ten million.  Sorting random keys costs O(n log n) and needs a static n.  The
*swap-or-not* network costs the same few operations per position for every n.
"""

import jax
import jax.numpy as jnp

from fjx._base import Array, Key

# After r rounds one element is within 2^-r of uniform and q of n elements within about
# n^1.5 ((1 + q/n) / 2)^(r/2) (Hoang, Morris, Rogaway 2012, theorem 2).
_ROUNDS = 32


def permute(key: Key, positions: Array, n: Array | int) -> Array:
    """Values at ``positions`` of the random permutation of ``0 .. n - 1`` that ``key`` determines.

    Round i draws a shift K_i.  x and its partner K_i - x (mod n) form a pair, and a random bit of
    the pair decides whether they swap.  Each round is its own inverse, so the whole is a bijection
    for every n, without cycle walking.

    Guarantees:
        - For ``positions = arange(n)`` the result is a permutation.
        - Equal keys give equal permutations.
        - Positions at or past n give meaningless values in range.

    Args:
        key: a typed key.
        positions: ``i32[...]``, non-negative.
        n: ``i32[]`` or an int, size of the domain; may be traced.  Zero is treated as one.

    Returns:
        ``i32[...]``, the shape of ``positions``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> sorted(permute(jax.random.key(0), jnp.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]

    References:
        Hoang, Morris, Rogaway, *An Enciphering Scheme Based on a Card Shuffle*, CRYPTO 2012
        (arXiv:1208.1176).
    """
    return permute_by(shuffle(key), positions, n)


def shuffle(key: Key) -> Array:
    """The numbers that define the permutations of a key, one for each n: ``u32[32, 2]``."""
    return jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)


def reshuffle(order: Array, epoch: Array) -> Array:
    """A different :func:`shuffle` for each epoch, from a few integer operations instead of a new key."""
    return _mix(order + epoch.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))


def permute_by(order: Array, positions: Array, n: Array | int) -> Array:
    """:func:`permute` with the result of :func:`shuffle` in place of the key."""
    n = jnp.maximum(jnp.asarray(n, jnp.int32), 1).astype(jnp.uint32)
    shifts, salts = order[:, 0] % n, order[:, 1]

    def swap_or_not(x: Array, word: tuple[Array, Array]) -> tuple[Array, None]:
        shift, salt = word
        partner = jnp.where(shift >= x, shift - x, shift + (n - x))  # (shift - x) mod n, unsigned
        swap = _mix(jnp.maximum(x, partner) ^ salt) >> 31
        return jnp.where(swap == 1, partner, x), None

    # Partly unrolled: a loop of 32 tiny kernels runs slowly, and 32 in a row compile slowly.
    start = positions.astype(jnp.uint32) % n
    return jax.lax.scan(swap_or_not, start, (shifts, salts), unroll=4)[0].astype(jnp.int32)


def _mix(x: Array) -> Array:
    """The finaliser of MurmurHash3; every output bit depends on every input bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
