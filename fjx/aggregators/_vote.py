"""A majority of signs, counted 32 at a time."""

import jax
import jax.numpy as jnp

from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree
from fjx.aggregators._vectors import as_vector
from fjx.wire import Words, pack_words, unpack_words


def majority_vote() -> Aggregator:
    """The sign that most clients' messages have, coordinate by coordinate: -1, 0 or 1.

    Signs travel and are counted in words of 32.  A sum of bits is kept in ceil(log2(n + 1)) words, the
    binary digits of 32 counts side by side, to which a word is added with a carry.

    One bit cannot abstain.  Of zeros, every other client of the cohort votes for and the others
    against, and they change sides in the next round.  So a coordinate in which all messages are zero
    stays where it is, but for a last step if their number is odd.

    Guarantees:
        - The result is sgn(sum_i sgn(x_i)) of those who take part, each counted once, where sgn(0) of
          a client is 1 if its rank plus the round is even and -1 if it is odd.  A tie is 0.
        - All zeros if nobody takes part.
        - The padding of the last word does not vote.
        - Neither unbiased nor contractive: it is a step of one size everywhere, and the server's
          learning rate is that size.

    Bits:
        32 ceil(d / 32).  As many would do for the way back.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which stacks one bit a coordinate.

    Raises:
        TypeError: a leaf of the message is not floating (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[1.0, -1.0, 0.0], [9.0, 5.0, -1.0], [-1.0, -0.1, -2.0]])
        >>> aggregators.aggregate(jax.random.key(0), aggregators.majority_vote(), x)[0].tolist()
        [1.0, -1.0, -1.0]

    References:
        Bernstein, Wang, Azizzadenesheli, Anandkumar, *signSGD*, ICML 2018 (arXiv:1802.04434);
        Bernstein, Zhao, Azizzadenesheli, Anandkumar, *signSGD with Majority Vote*, ICLR 2019
        (arXiv:1810.05291).
    """

    def encode(key: Key, vector: Array, public: Public) -> Words:
        against = (public.rank + public.round) % 2 == 1
        return Words(pack_words((vector < 0) | ((vector == 0) & against), 1), vector.size)

    def contribute(ballot: Words, weight: Array, public: Public) -> Tree:
        return ballot, weight > 0

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        ballots, present = total
        words = jnp.where(present[:, None], ballots.words, 0)
        count = jnp.sum(present, dtype=jnp.uint32)
        digits = _count(words)
        # Half of the clients are no majority, neither for nor against.
        against, not_for = (
            unpack_words(_exceed(digits, most), 1, ballots.size)
            for most in (count >> 1, (count - 1) >> 1)
        )
        sign = jnp.where(against > 0, -1.0, jnp.where(not_for > 0, 0.0, 1.0))
        return jnp.where(count > 0, sign, 0.0), public.state, {}

    return as_vector(Aggregator(lambda like: (), contribute, finish, STACK, encode))


def _count(words: Array) -> list[Array]:
    """The number of rows with each bit, as binary digits, the lowest first: ``u32[words]`` each."""
    digits = max(len(words).bit_length(), 1)

    def add(counters: tuple[Array, ...], word: Array) -> tuple[tuple[Array, ...], None]:
        carry, after = word, []
        for digit in counters:
            after.append(digit ^ carry)
            carry = digit & carry
        return tuple(after), None

    zeros = tuple(jnp.zeros(words.shape[1], jnp.uint32) for _ in range(digits))
    return list(jax.lax.scan(add, zeros, words)[0])


def _exceed(digits: list[Array], number: Array) -> Array:
    """Bits that are one if the count is greater than a number."""
    greater, equal = jnp.zeros_like(digits[0]), jnp.full_like(digits[0], 0xFFFFFFFF)
    for place in reversed(range(len(digits))):
        # All ones or all zeros, the digit of the number.
        wanted = jnp.uint32(0) - (number >> place & 1)
        greater = greater | equal & digits[place] & ~wanted
        equal = equal & ~(digits[place] ^ wanted)
    return greater
