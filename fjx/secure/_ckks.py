"""Sums of encrypted floats under CKKS, with a stated error."""

import math
import os
from typing import Any

import numpy as np

from fjx import _validate
from fjx.secure import _he
from fjx.secure._errors import Inconsistent
from fjx.secure._messages import fixed
from fjx.secure._protocol import Protocol
from fjx.secure._session import Session

DEGREE = 4096
"""Degree of the polynomials; a ciphertext holds half as many numbers."""

PRIMES = [60, 49]
"""Bits of the primes: 109 in all, the most that give 128 bits of security at this degree."""

SCALE = 2.0**40
"""Numbers are multiplied by it and rounded."""

RANGE = 2.0**18
"""Largest sum: half of the one at which the modulus 2^60 would wrap around at this scale."""


def error_bound(clients: int) -> float:
    """A bound on the error of a decrypted sum, before it is rounded.

    A ciphertext is (r0 + r1 s) away from its message: r0 and r1 are rounding errors, uniform in
    [-1/2, 1/2], and the secret s has coefficients -1, 0 and 1, each with probability 1/3.  At a root z
    of the polynomial, |s(z)|^2 is about exponential with mean 2N/3, so that it exceeds 35 times its
    mean with probability e^-35 at each of the N/2 roots.  The sum of n errors at z is about normal with
    variance n (N/24) |s(z)|^2; we take 8 standard deviations.  Together, a ciphertext exceeds the bound
    with a probability below 2^-37.  Doubles add an error of 2^-48 of the range.
    """
    secret = math.sqrt(35 * 2 * DEGREE / 3)
    noise = 8 * math.sqrt(clients * DEGREE / 24) * (secret + 1) / SCALE
    return noise + RANGE * 2.0**-48


def _context() -> Any:
    ts = _he.tenseal()
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=PRIMES
    )
    context.global_scale = SCALE
    return context


def _doubles(session: Session, body: bytes, length: int) -> np.ndarray:
    return np.frombuffer(fixed(body, 8 * length), "<f8").astype(np.float64)


def _scheme(precision: float) -> _he.Scheme:
    step = precision / 2

    def publish(session: Session, sums: np.ndarray) -> bytes:
        """Sums as multiples of the step, rounded up or down at random, by secret random bits."""
        if not np.all(np.abs(sums) <= 2 * RANGE):
            raise Inconsistent(f"a sum is beyond {RANGE:g}: a client has sent more than its share")
        bits = np.frombuffer(os.urandom(8 * sums.size), np.uint64) >> np.uint64(11)
        steps = np.floor(sums / step + bits * 2.0**-53)
        return steps.astype("<i8").tobytes()

    def published(session: Session, body: bytes, length: int) -> np.ndarray:
        return np.frombuffer(fixed(body, 8 * length), "<i8") * step

    return _he.Scheme(
        name=f"ckks {DEGREE} {PRIMES} {SCALE!r} {precision!r}",
        slots=DEGREE // 2,
        context=_context,
        encrypt=lambda context, numbers: _he.tenseal().ckks_vector(context, numbers, scale=SCALE),
        load=lambda context, data: _he.tenseal().ckks_vector_from(context, data),
        scale=SCALE,
        encode=lambda session, vector: vector,
        length=lambda session, coordinates: coordinates,
        publish=publish,
        published=published,
        clear_bytes=lambda session, vector: vector.astype("<f8").tobytes(),
        clear_size=lambda session, coordinates: 8 * coordinates,
        clear=_doubles,
    )


def ckks(*, precision: float = 2.0**-16) -> Protocol:
    """A sum of encrypted floats under CKKS, with a second server that holds the key.

    The parties and steps are those of :func:`bfv`.  Numbers are encrypted as they are, 2048 in a
    ciphertext of about 66 kB, and each coordinate of the sum has an error.

    Decrypted numbers are not published as they are: their last digits hold the noise of the ciphertexts,
    and whoever knows the noise can solve for the secret key.  The second server rounds to multiples of
    ``precision / 2``, up or down at random.  The distribution of a published number then depends on the
    noise by its size over ``precision / 2``, about 0.1 % for 20 clients and the default precision.  Each
    key opens one sum only.  Take :func:`bfv` if nothing at all may depend on the noise.

    Guarantees:
        - Each coordinate of the sum is less than ``precision`` away from the true one.  This fails for
          a ciphertext with a probability below 2^-37, if rounding errors are independent.
        - Integers up to 2^18 are summed exactly by :func:`run`, which rounds them.
        - The first server sees ciphertexts and the published sum; the second one sees the sum.
        - Nothing is added or decrypted for fewer than two clients.
        - Bytes that are not a context, or not ciphertexts of it, are refused.
        - If both servers collude, they see every vector.  A first server that lies can have the
          ciphertext of one client decrypted.

    Args:
        precision: largest error of a coordinate of the sum, below 1/2.

    Returns:
        A :class:`Protocol` of floats.

    Raises:
        TypeError: ``precision`` is not a number.
        ValueError: ``precision`` is out of range; from a run: a number is not finite or exceeds 2^18
            over the number of clients, or their noise may exceed half of ``precision``.
        ImportError: the extra ``he`` is not installed (from a run).

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.array([[0.25, 2.0], [0.5, 4.0], [1.5, -6.5]])
        >>> total = secure.play(secure.ckks(precision=1e-4), vectors).total
        >>> bool(np.abs(total - [2.25, -0.5]).max() < 1e-4)
        True

    References:
        Cheon, Kim, Kim, Song, *Homomorphic Encryption for Arithmetic of Approximate Numbers*, ASIACRYPT
        2017 (eprint 2016/421).

        Li, Micciancio, *On the Security of Homomorphic Encryption on Approximate Numbers*, EUROCRYPT
        2021 (eprint 2020/1533).
    """
    precision = _validate.static_number("precision", precision, at_least=2.0**-30, below=0.5)

    def check(session: Session) -> None:
        if error_bound(session.clients) > precision / 2:
            raise ValueError(
                f"the noise of {session.clients} ciphertexts may be {error_bound(session.clients):.2g}, "
                f"and precision={precision:.2g} allows half of itself; take a larger precision"
            )

    def require(session: Session, vector: np.ndarray) -> None:
        most = RANGE / session.clients
        if vector.size and np.abs(vector).max() > most:
            raise ValueError(
                f"a vector has the number {np.abs(vector).max():g}, and ckks adds {session.clients} "
                f"numbers of at most {most:g}; scale the vectors down"
            )

    return _he.protocol(_scheme(precision), check, require, reals=True)
