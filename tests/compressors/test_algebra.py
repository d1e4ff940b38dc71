"""Random compositions of codecs keep what is derived of them, on messages made to be hard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, compressors, testing

c = compressors
SIZE = 24
DRAWS = 1500
SIGMAS = 6.0
LIKE = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
X = np.arange(SIZE, dtype=np.float32)


def leaf(rng):
    """A codec of arrays."""
    ratio, bits = float(rng.choice([0.1, 0.3, 0.5, 0.9])), int(rng.integers(2, 6))
    return [
        lambda: c.top_k(ratio),
        lambda: c.rand_k(ratio),
        lambda: c.quantize(bits=bits),
        lambda: c.qsgd(levels=bits),
        lambda: c.natural(),
        lambda: c.scaled_sign(),
        lambda: c.identity(),
    ][int(rng.integers(7))]()


def composed(rng, depth):
    """A composition of codecs, at random."""
    if depth == 0:
        return leaf(rng)

    def part():
        return composed(rng, depth - 1)

    share = float(rng.choice([0.0, 0.25, 0.5, 1.0]))
    return [
        lambda: c.chain(leaf(rng), part()),
        lambda: c.scaled(part(), float(rng.choice([0.2, 0.5, 1.0, 1.9]))),
        lambda: c.induced(part(), part()),
        lambda: c.repeat(part(), times=2),
        lambda: c.mixture(part(), part(), probabilities=(share, 1 - share)),
        lambda: c.flatten(part()),
        lambda: c.entropy(part(), "golomb"),
    ][int(rng.integers(7))]()


def possible(rng, depth):
    """A composition that ``init`` accepts: the first, at random, that no codec refuses."""
    while True:
        codec = composed(rng, depth)
        try:
            codec.init(LIKE)
        except ValueError as refused:
            if "would choose among the scales" not in str(refused):
                raise
        else:
            return codec


def messages(rng):
    """Gaussian, flat, one large coordinate, the worst of rounding to two levels, extremes, an offset."""
    a = 1 / (np.sqrt(SIZE) + 1)
    flat = np.where(rng.random(SIZE) < 0.5, -1, 1)
    spike = np.full(SIZE, 1e-3)
    spike[rng.integers(SIZE)] = 1
    extremes = [1.5, *[0] * (SIZE - 2), -1.5]
    offset = 100 + rng.standard_normal(SIZE)
    two_levels = [1] + [a] * (SIZE - 1)
    return np.float32([rng.standard_normal(SIZE), flat, spike, two_levels, extremes, offset])


def holds(codec, rng):
    """Measures what is promised on each message; how many numbers were promised."""
    xs = messages(rng)
    contract = codec.contract(LIKE)
    keys = jax.random.split(jax.random.key(0), DRAWS)

    def send(x, key):
        return codec.decode(codec.encode(key, x, codec.init(x))[0])

    run = jax.jit(jax.vmap(jax.vmap(send, (None, 0)), (0, None)))
    for x, decoded in zip(
        xs.astype(np.float64), np.asarray(run(xs, keys), np.float64), strict=True
    ):
        share = np.square(decoded - x).sum(1) / np.square(x).sum()
        slack = SIGMAS * share.std() / np.sqrt(DRAWS) + 1e-5
        if contract.unbiased:
            spread = np.maximum(decoded.std(0), np.sqrt(decoded.var(0).mean()))
            assert (abs(decoded.mean(0) - x) < SIGMAS * spread / np.sqrt(DRAWS) + 1e-5).all()
        if contract.omega is not None:
            assert share.mean() <= contract.omega + slack
        if contract.delta is not None:
            assert 0 < contract.delta <= 1
            assert share.mean() <= 1 - contract.delta + slack
        if contract.projection:
            kept = np.square(decoded).sum(1) / np.square(x).sum()
            np.testing.assert_allclose(kept + share, 1, atol=1e-5)
    return contract != Contract()


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(6))
def test_what_is_derived_holds(seed):
    rng = np.random.default_rng(seed)
    holds(possible(rng, 1), rng)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_what_is_derived_of_deep_compositions_holds(seed):
    rng = np.random.default_rng(seed)
    holds(possible(rng, 1 + seed % 3), rng)


def test_the_compositions_are_not_all_silent():
    promised = [
        composed(np.random.default_rng(seed), 1 + seed % 3).contract(LIKE) for seed in range(60)
    ]
    assert sum(promise != Contract() for promise in promised) > 20


@pytest.mark.slow
def test_terms_of_a_sum_may_cancel_and_their_errors_do_not():
    """1.9 x - 0.9 x is x exactly; rand-k of 1/2 on both errs by 1.9^2 + 0.9^2, not by 1."""
    codec = c.induced(c.scaled(c.identity(), 1.9), c.identity())
    x = messages(np.random.default_rng(0))[0]
    assert codec.contract(x).omega == 0
    both = c.chain(codec, c.rand_k(0.5))
    keys = jax.random.split(jax.random.key(0), DRAWS)
    decoded = jax.jit(jax.vmap(lambda key: both.decode(both.encode(key, x, both.init(x))[0])))(keys)
    share = np.square(np.float64(decoded) - x).sum(1) / np.square(x).sum()
    assert share.mean() == pytest.approx(1.9**2 + 0.9**2, rel=0.1)
    assert both.contract(x) == Contract()


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("factor", "delta"), [(0.25, 0.25), (0.125, 0.1875), (0.5, None), (1, None)]
)
def test_a_factor_of_one_s_own(factor, delta):
    """rand-k of 1/4 has omega = 3: 2 a - 4 a^2 is attained, and is nothing from a = 1/2 on."""
    codec, x = c.scaled(c.rand_k(0.25), factor), np.ones(16, np.float32)
    assert codec.contract(x) == Contract(delta=delta, linear=True)
    send = jax.jit(lambda key: codec.decode(codec.encode(key, x, ())[0]))
    share = np.square(np.asarray(send(jax.random.key(0))) - x).sum() / 16
    assert share == pytest.approx(1 - (2 * factor - 4 * factor**2), rel=1e-6)


def test_scaled_refuses_at_once():
    for codec in (c.top_k(0.5), c.scaled_sign(), c.error_feedback(c.rand_k(0.5))):
        with pytest.raises(ValueError, match="give the factor"):
            c.scaled(codec).init(jnp.ones(4))
    with pytest.raises(ValueError, match="give the factor"):
        c.scaled(c.rand_k(0.5)).init(jnp.ones(4, jnp.bfloat16))


AFTER = {
    "k_level": c.k_level(levels=17),
    "k_level_rotated": c.rotated(c.k_level(levels=5)),
    "quantize": c.quantize(bits=3),
    "terngrad": c.terngrad(),
    "natural_dithering": c.natural_dithering(levels=3),
    "subtractive_dither": c.subtractive_dither(bits=3),
    "quic_fl": c.quic_fl(bits=2),
    "kashin": c.kashin(bits=4),
    "importance_sampling": c.importance_sampling(0.5),
    "bernoulli": c.bernoulli(0.5),
    "rand_p": c.rand_p(0.5),
    "induced": c.induced(c.top_k(0.5), c.quantize(bits=3)),
    "count_sketch": c.count_sketch(rows=1, columns=8),
    "random_projection": c.random_projection(0.5),
    "lloyd_max": c.lloyd_max(bits=2),
    "one_bit_sgd": c.one_bit_sgd(),
    "stc": c.stc(0.5),
    "product_quantize": c.product_quantize(codebook=4, block=2),
    "wrapped": c.flatten(c.per_leaf(c.entropy(c.mixture(
        c.k_level(levels=3), c.quantize(bits=4), probabilities=(0.5, 0.5)), "golomb"))),
}  # fmt: skip
"""Every codec whose payload holds floats that a later codec may round."""

LATER = {"natural": c.natural(), "rand_k": c.rand_k(0.5), "quantize": c.quantize(bits=3)}
CHEAP = {"k_level", "quantize", "one_bit_sgd"}
QUANTIZED = {
    *("k_level", "k_level_rotated", "quantize", "terngrad", "natural_dithering"),
    *("subtractive_dither", "kashin", "lloyd_max", "one_bit_sgd", "wrapped"),
}
"""Codecs that leave scales alone as floats: a sparsifier behind them is refused."""


@pytest.mark.few(3)
@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize(
    "name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in AFTER]
)
def test_what_is_promised_of_a_codec_behind_another_holds(name, later):
    """On messages far from zero and with two extremes, where floats of a payload nearly cancel."""
    chained = c.chain(AFTER[name], LATER[later])
    if later == "rand_k" and name in QUANTIZED:
        with pytest.raises(ValueError, match="choose among the scales"):
            chained.init(np.ones(16, np.float32))
    else:
        holds(chained, np.random.default_rng(0))


@pytest.mark.parametrize("size", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_two_floats_that_cancel_have_a_promise_of_their_own(size):
    """Natural compression after k levels: at x = (M, 0, ..., 0, -M) its errors of M are everywhere."""
    x = np.zeros(size, np.float32)
    x[0], x[-1] = 1.5, -1.5
    codec = c.chain(c.k_level(levels=17), c.natural())
    promised, alone = codec.contract(x), c.k_level(levels=17).contract(x)
    keys = jax.random.split(jax.random.key(0), 200)
    decoded = jax.lax.map(lambda key: codec.decode(codec.encode(key, x, codec.init(x))[0]), keys)
    share = np.square(np.float64(decoded) - x).sum(1).mean() / np.square(x).sum()
    assert (1 + alone.omega) * 1.125 - 1 < share / 10  # the rule of products is far from true here
    assert share <= promised.omega
    assert promised.unbiased


WRAPPERS = {
    "flatten": c.flatten,
    "per_leaf": c.per_leaf,
    "blockwise": lambda codec: c.blockwise(codec, size=8),
    "entropy": lambda codec: c.entropy(codec, "golomb"),
    "mixture": lambda codec: c.mixture(codec, codec, probabilities=(0.5, 0.5)),
    "repeat": lambda codec: c.repeat(codec, times=2),
    "induced": lambda codec: c.induced(c.top_k(0.5), codec),
    "scaled": lambda codec: c.scaled(codec, 0.5),
}


def promised_and_kept(codec, size):
    """Whether the contract bounds the error; fails if a measured error is above it."""
    laws = {law.name: law for law in testing.compressor_laws(codec, np.zeros(size), leaves={})}
    if "errs_as_declared" in laws:
        laws["errs_as_declared"].check()
    return "errs_as_declared" in laws


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("name", AFTER)
def test_what_is_promised_of_wrapped_codecs_in_chains_holds(name, turn):
    """Each codec is wrapped in two of the wrappers, in front of another one."""
    wrap = list(WRAPPERS.values())[(list(AFTER).index(name) + 3 * turn) % len(WRAPPERS)]
    later = LATER["natural" if turn else "quantize"]
    if wrap is WRAPPERS["blockwise"] and name in {"rand_p", "wrapped"}:
        with pytest.raises(ValueError, match="a fixed length"):
            c.chain(wrap(AFTER[name]), later).init(X)
    else:
        promised_and_kept(c.chain(wrap(AFTER[name]), later), SIZE)


@pytest.mark.ci
@pytest.mark.parametrize("codec", [c.rotated(c.identity()), c.top_k(0.3), c.rotated(c.top_k(0.3))])
def test_a_branch_that_depends_on_the_client_may_hold_any_codec(codec):
    """JAX repeats the constants of such a branch for each client, even those of rotations."""
    mixed = c.mixture(codec, c.identity(), probabilities=(0.5, 0.5))
    send = lambda key: mixed.decode(mixed.encode(key, X, mixed.init(X))[0])  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 4)
    found = jax.vmap(send)(keys)
    np.testing.assert_array_equal(found, [send(key) for key in keys])


LARGE = {
    **{name: codec for name, codec in AFTER.items() if name != "random_projection"},
    "top_k": c.top_k(0.01),
    "rand_k": c.rand_k(0.01),
    "natural": c.natural(),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize("name", LARGE)
def test_what_is_promised_of_chains_holds_for_large_messages(name, size):
    """Constants that hide in small messages, such as a factor of d, show in large ones."""
    promised_and_kept(c.flatten(c.chain(LARGE[name], c.per_leaf(LATER["natural"]))), size)


@pytest.mark.ci
def test_large_chains_are_not_all_silent():
    like = jax.ShapeDtypeStruct((1000,), jnp.float32)
    chains = [c.flatten(c.chain(codec, c.per_leaf(LATER["natural"]))) for codec in LARGE.values()]
    promised = [chain.contract(like) for chain in chains]
    assert sum(one.omega is not None or one.delta is not None for one in promised) >= 12
