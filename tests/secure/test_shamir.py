"""Secret sharing against published shares, and its two promises over a whole field."""

import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import secure
from fjx.secure._shamir import PRIME

# Shares of the bytes 0, 0, 0, 33 with a threshold of 3, modulo 2^31 + 11, at x = 1, ..., 5: pairs of
# big-endian words (google-parfait/federated-compute, fcp/secagg/shared/shamir_secret_sharing_test.cc).
PUBLISHED = [
    [112, 207, 118, 46, 110, 212, 170, 28],
    [48, 160, 197, 172, 38, 235, 145, 204],
    [63, 115, 238, 144, 40, 68, 183, 71],
    [29, 72, 240, 207, 114, 224, 26, 141],
    [74, 31, 204, 116, 6, 189, 187, 136],
]


@pytest.mark.parametrize("holders", [*itertools.combinations(range(5), 3)])
def test_published_shares_give_their_secret(holders):
    words = [
        {x + 1: int.from_bytes(PUBLISHED[x][4 * half : 4 * half + 4], "big") for x in holders}
        for half in range(2)
    ]
    parts = [secure.join_shares(word, prime=2**31 + 11) for word in words]
    assert sorted(parts) == [0, 33]


def test_the_field_is_prime_and_holds_every_secret_of_32_bytes():
    assert PRIME > 2**256
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11))
    # Pocklington's kind of evidence is too long here; a composite passes 40 bases of Miller-Rabin with
    # a probability of 4^-40.
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        powers = [pow(base, odd << i, PRIME) for i in range(twos)]
        assert powers[0] in (1, PRIME - 1) or PRIME - 1 in powers


@pytest.mark.parametrize("threshold", [2, 3])
def test_fewer_shares_than_the_threshold_are_uniform(threshold):
    """Over all polynomials, each tuple of t - 1 shares occurs once for every secret."""
    prime, points = 7, [1, 3, 6]
    for secret in range(prime):
        seen = collections.Counter()
        for coefficients in itertools.product(range(prime), repeat=threshold - 1):
            shares = secure.split_secret(secret, coefficients, points, prime=prime)
            for holders in itertools.combinations(points, threshold - 1):
                seen[holders, tuple(shares[x] for x in holders)] += 1
        assert set(seen.values()) == {1}
        assert len(seen) == 3 * prime ** (threshold - 1)  # three pairs or three points


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_t_shares_give_the_secret(data):
    n = data.draw(st.integers(1, 12))
    t = data.draw(st.integers(1, n))
    field = st.integers(0, PRIME - 1)
    secret = data.draw(field)
    coefficients = data.draw(st.lists(field, min_size=t - 1, max_size=t - 1))
    shares = secure.split_secret(secret, coefficients, range(1, n + 1))
    some = data.draw(st.permutations(sorted(shares)))[:t]
    assert secure.join_shares({x: shares[x] for x in some}) == secret


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((17, [1], [1, 2]), "secret must be from 0 to 16"),
        ((1, [-1], [1, 2]), "coefficients must be"),
        ((1, [1], [0, 2]), "points must be distinct"),
        ((1, [1], [2, 2]), "points must be distinct"),
        ((1, [1, 2], [1, 2]), "threshold of 3"),
    ],
)
def test_numbers_outside_of_the_field_are_refused(arguments, match):
    secret, coefficients, points = arguments
    with pytest.raises(ValueError, match=match):
        secure.split_secret(secret, coefficients, points, prime=17)


def test_joining_refuses_nothing_and_numbers_outside_of_the_field():
    with pytest.raises(ValueError, match="at least one share"):
        secure.join_shares({})
    with pytest.raises(ValueError, match="shares must be"):
        secure.join_shares({1: 17}, prime=17)
