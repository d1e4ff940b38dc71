"""The laws of private mechanisms: central, distributed and local."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import privacy, samplers
from fjx._base import Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.privacy import Contribution, DistributedMechanism, LocalMechanism, Mechanism
from fjx.testing import _compressor, _laws
from fjx.testing._laws import SIGMAS, Law, attempt, require

DRAWS = 4000
DELTAS = (0.3, 0.05, 1e-3)


def check_mechanism(
    mechanism: Mechanism | DistributedMechanism | LocalMechanism, like: TreeLike | None = None
) -> None:
    """Checks every law of a private mechanism, up to the first that does not hold.

    Noise is drawn 4000 times, and its deviation is compared with the declared one, with bounds of 6
    standard errors.  An attack on these draws bounds epsilon from below: the bound must not pass what is
    accounted for the mechanism's ``event``.  Keys are fixed: a result does not change from one run to
    the next.  No finite number of draws proves a claim; the laws find wrong factors, not small leaks.

    Args:
        mechanism: a central, distributed or local mechanism.
        like: template of a message; None for a matrix and a vector, of 17 coordinates together.  A
            distributed mechanism is tried on vectors of its own dimension.

    Raises:
        TypeError: ``mechanism`` is none of the three.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> from fjx import privacy, testing
        >>> testing.check_mechanism(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
        >>> half = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.5)
        >>> claimed = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)._replace(
        ...     release=half.release)
        >>> testing.check_mechanism(claimed)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'noise_is_as_wide_as_the_multiplier_says' does not hold
    """
    _laws.run(mechanism_laws(mechanism, like))


def mechanism_laws(
    mechanism: Mechanism | DistributedMechanism | LocalMechanism, like: TreeLike | None = None
) -> list[Law]:
    """The laws of a private mechanism, to be checked one by one.

    Args:
        mechanism: a central, distributed or local mechanism.
        like: template of a message; None for a matrix and a vector.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``mechanism`` is none of the three.

    Examples:
        >>> from fjx import privacy, testing
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> testing.mechanism_laws(mechanism)[-1].name
        'an_attack_finds_no_more_than_epsilon'
    """
    like = update_like() if like is None else _laws.template(like)
    if isinstance(mechanism, Mechanism):
        return _laws.bind(Central(mechanism, like), CENTRAL_LAWS)
    if isinstance(mechanism, DistributedMechanism):
        return _laws.bind(Distributed(mechanism), DISTRIBUTED_LAWS)
    if isinstance(mechanism, LocalMechanism):
        return _laws.bind(Local(mechanism, like), LOCAL_LAWS)
    raise TypeError(
        "mechanism must be a fjx.privacy.Mechanism, DistributedMechanism or LocalMechanism, got "
        f"{mechanism!r}"
    )


def update_like() -> TreeLike:
    """A message of floats alone: a matrix and a vector, of 17 coordinates together."""
    return {
        "matrix": jax.ShapeDtypeStruct((4, 3), jnp.float32),
        "vector": jax.ShapeDtypeStruct((5,), jnp.float32),
    }


def _flat(tree: Tree) -> np.ndarray:
    """``f64[draws, d]`` from a tree of ``[draws, ...]``."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


NORMS: dict[str, Callable[[np.ndarray], float]] = {
    "l2": lambda x: float(np.sqrt(np.sum(x**2))),
    "l1": lambda x: float(np.sum(np.abs(x))),
    "linf": lambda x: float(np.max(np.abs(x), initial=0)),
}

# --------------------------------------------------------------------------------------------------
# Central mechanisms
# --------------------------------------------------------------------------------------------------

CLIPS = "clip(update, weight, state) runs inside jax.jit and returns a fjx.privacy.Clipped"
RELEASES = "release(key, total, state) runs inside jax.jit and returns (noised sum, state, metrics)"
BOUND = (
    "make clip with a fjx.privacy.Bound (privacy.by_global_norm, by_l1_norm, ...), and take sensitivity "
    "from the same bound"
)


class Central:
    """A mechanism on a sum: clipped updates, and its noise on two sums."""

    def __init__(self, mechanism: Mechanism, like: TreeLike) -> None:
        self.mechanism, self.like = mechanism, like

    @functools.cached_property
    def state(self) -> Tree:
        with attempt(
            "the template of a message", "init(message_like) needs shapes and dtypes only"
        ):
            return self.mechanism.init(self.like)

    @functools.cached_property
    def radius(self) -> float:
        with attempt("relation = 'add_or_remove_one'", BOUND):
            return float(self.mechanism.sensitivity("add_or_remove_one"))

    @functools.cached_property
    def updates(self) -> dict[str, Tree]:
        """Updates by name: of all sizes, and with a number that is not finite in each leaf."""
        x = _laws.normal(self.like, 0)
        unit = 1 / max(NORMS["l1"](_flat(_laws.stack([x]))), 1.0)

        def times(factor: float) -> Tree:
            return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), x)

        found = {
            "an update of zeros": _laws.zeros(self.like),
            "an update well within the bound": times(self.radius * unit / 4),
            "an update of random numbers": x,
            "an update a thousand times as large": times(1e3),
            "an update of numbers around 1e30": times(1e30),
        }
        for name, _ in _laws.floats(self.like):
            for word, value in (("NaN", np.nan), ("+inf", np.inf), ("-inf", -np.inf)):
                found[f"an update with {word} at {name}"] = _compressor.with_entry(x, name, value)
        return found

    @functools.cached_property
    def clipped(self) -> dict[str, privacy.Clipped]:
        """Every update, clipped with weight one."""
        state = self.state  # before any trace

        def clip(update: Tree) -> Any:
            return self.mechanism.clip(update, jnp.ones(()), state)

        with attempt("updates under jax.vmap", CLIPS):
            results = _laws.jit(jax.vmap(clip))(_laws.stack(self.updates.values()))
        require(
            isinstance(results, privacy.Clipped), "updates", f"clip returns {type(results)}", CLIPS
        )
        results = _laws.numpy(results)
        return {name: _laws.row(results, i) for i, name in enumerate(self.updates)}

    def total(self, own: privacy.Clipped) -> Contribution:
        """A round in which one client came."""
        return Contribution(
            update=jax.tree.map(jnp.asarray, own.update),
            clients=jnp.ones((), jnp.int32),
            clipped=jnp.asarray(own.clipped).astype(jnp.int32),
            norm=jnp.where(jnp.isfinite(own.norm), own.norm, 0.0).astype(jnp.float32),
            zeroed=None if own.zeroed is None else jnp.asarray(own.zeroed).astype(jnp.int32),
        )

    @functools.cached_property
    def releases(self) -> dict[str, Any]:
        """``f64[DRAWS, d]`` of a sum of zeros, of one client's update, and of the first again."""
        one = self.total(self.clipped["an update of random numbers"])
        nobody = jax.tree.map(jnp.zeros_like, one)
        keys, state = jax.random.split(jax.random.key(3), DRAWS), self.state

        def release(key: Key, total: Contribution) -> Any:
            return self.mechanism.release(key, total, state)

        with attempt("a sum under jax.vmap", RELEASES):
            program = _laws.jit(jax.vmap(release, in_axes=(0, None)))
            noised, states, metrics = program(jax.random.clone(keys), nobody)
            other = program(jax.random.clone(keys), one)[0]
            again = program(keys, nobody)[0]
        require("noise_std" in metrics, "a sum of zeros", f"metrics are {sorted(metrics)}", REPORT)
        return {
            "nobody": _flat(noised),
            "one": _flat(other),
            "again": _flat(again),
            "sent": noised,
            "states": states,
            "std": float(np.asarray(metrics["noise_std"])[0]),
        }

    @property
    def noise(self) -> np.ndarray:
        """What is released of a sum of zeros."""
        return np.asarray(self.releases["nobody"])


REPORT = "report the deviation of a coordinate's noise on the sum as the metric noise_std"


def clip_keeps_the_structure(trial: Central) -> None:
    """A clipped update has the structure and the shapes of the update."""
    for given, own in trial.clipped.items():
        shapes = [
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.float32), tree)
            for tree in (own.update, trial.updates[given])
        ]
        difference = _laws.unlike(*shapes)
        require(difference is None, given, f"the clipped update has {difference}", CLIPS)


def clip_is_within_the_sensitivity(trial: Central) -> None:
    """Whatever a client sends, its clipped update is within ``sensitivity('add_or_remove_one')``.

    The norm is that in which ``Clipped.norm`` measures the update; steps of a grid are compared in the
    units of the release.
    """
    given = "an update of random numbers"
    x = _flat(_laws.stack([trial.updates[given]]))[0]
    reported = float(trial.clipped[given].norm)
    norms = {name: norm(x) for name, norm in NORMS.items()}
    name = min(norms, key=lambda n: abs(norms[n] - reported))
    require(
        abs(norms[name] - reported) <= 1e-3 * reported,
        given,
        f"Clipped.norm is {reported:.4g}, and the norms of the update are {norms}",
        "report the norm of the update as it came, in which it is bounded",
    )
    unit = _unit(trial)
    for given, own in trial.clipped.items():
        norm = NORMS[name](unit * _flat(_laws.stack([own.update]))[0])
        within = norm <= trial.radius * (1 + 1e-5)
        found = f"its clipped {name} norm is {norm:.6g}, and the sensitivity {trial.radius:.6g}"
        require(within, given, found, BOUND)


def _unit(trial: Central) -> float:
    """The value of a step where clip returns integers, else one."""
    own = trial.clipped["an update of random numbers"]
    if all(is_float(x) for x in jax.tree.leaves(own.update)):
        return 1.0
    steps = _flat(_laws.stack([own.update]))[0]
    moved = (trial.releases["one"] - trial.releases["nobody"]).mean(0)
    return float(np.abs(moved).max() / max(np.abs(steps).max(), 1))


def says_what_it_clips(trial: Central) -> None:
    """An update that is not reported as clipped contributes as it is, bit for bit."""
    for given, own in trial.clipped.items():
        changed = bool(own.clipped) or not bool(own.finite)
        if changed or not all(is_float(x) for x in jax.tree.leaves(own.update)):
            continue
        difference = _laws.different(own.update, trial.updates[given])
        require(difference is None, given, f"clipped is False, and it has {difference}", CLIPS)


def a_broken_update_contributes_zeros(trial: Central) -> None:
    """An update with a NaN or an infinity contributes zeros, and is reported as not finite."""
    for given, own in trial.clipped.items():
        if " at " in given:
            zeros = all(np.all(x == 0) for x in jax.tree.leaves(own.update))
            found = f"finite is {bool(own.finite)}; that the update is zeros is {zeros}"
            remedy = "jnp.where(finite, clipped, 0): a product with zero keeps NaN"
            require(zeros and not own.finite, given, found, remedy)
        else:
            require(bool(own.finite), given, "finite is False", CLIPS)


def a_replacement_moves_at_most_twice_as_far(trial: Central) -> None:
    """The sensitivity to a replacement is between that to an arrival and twice that."""
    with attempt("relation = 'replace_one'", BOUND):
        replaced = float(trial.mechanism.sensitivity("replace_one"))
    require(
        trial.radius <= replaced <= 2 * trial.radius * (1 + 1e-6),
        "relation = 'replace_one'",
        f"sensitivity is {replaced:.4g}, and {trial.radius:.4g} for 'add_or_remove_one'",
        BOUND,
    )


def state_keeps_its_structure_and_holds_no_key(trial: Central) -> None:
    """A release keeps the structure, shapes and dtypes of the state, in which there is no key."""
    remedy = "make init return what release returns; draw from the key that release is given"
    for name, leaf in _laws.named(trial.state):
        require(not _laws.is_key(leaf), "the first state", f"there is a key at {name}", remedy)
    after = _laws.row(trial.releases["states"], 0)
    difference = _laws.unlike(after, trial.state)
    require(difference is None, "a sum of zeros", f"the next state has {difference}", remedy)


def noise_has_the_reported_deviation(trial: Central) -> None:
    """The noise has mean zero and the deviation that the metric ``noise_std`` reports."""
    given, noise, std = f"a sum of zeros, {DRAWS} times", trial.noise, trial.releases["std"]
    squares = noise**2
    error = squares.std() / math.sqrt(noise.size) + 1e-6 * std**2
    found = f"the deviation is {math.sqrt(squares.mean()):.5g}, and noise_std {std:.5g}"
    require(abs(squares.mean() - std**2) <= SIGMAS * error, given, found, REPORT)
    bias = np.abs(noise.mean(0)).max()
    bound = SIGMAS * std / math.sqrt(DRAWS)
    remedy = "add noise of mean zero"
    require(bias <= bound + 1e-9, given, f"the mean is off by {bias:.4g}", remedy)


def noise_is_as_wide_as_the_multiplier_says(trial: Central) -> None:
    """The deviation of independent noise is at least ``noise_multiplier`` times the sensitivity."""
    if trial.mechanism.correlation is not None:
        return
    promised = float(trial.mechanism.noise_multiplier) * trial.radius
    measured = math.sqrt((trial.noise**2).mean())
    error = SIGMAS * (trial.noise**2).std() / math.sqrt(trial.noise.size) / max(2 * measured, 1e-30)
    require(
        measured >= 0.999 * promised - error,
        f"a sum of zeros, {DRAWS} times",
        f"the deviation is {measured:.5g}, and z C = {promised:.5g}",
        "noise is relative to what one client may contribute to the sum: std = noise_multiplier * C",
    )


def noise_of_coordinates_is_independent(trial: Central) -> None:
    """The noise of two coordinates, of one leaf or of two, is uncorrelated."""
    noise = trial.noise
    if not (noise.std(0) > 0).all() or noise.shape[1] < 2:
        require(trial.releases["std"] == 0, "a sum of zeros", "a coordinate has no noise", SPLIT)
        return
    correlation = np.abs(np.corrcoef(noise, rowvar=False) - np.eye(noise.shape[1]))
    i, j = np.unravel_index(correlation.argmax(), correlation.shape)
    found = f"coordinates {i} and {j} have correlation {correlation[i, j]:.3f}"
    given = f"a sum of zeros, {DRAWS} times"
    require(correlation[i, j] <= SIGMAS / math.sqrt(DRAWS), given, found, SPLIT)


SPLIT = "draw the noise of leaf i from jax.random.fold_in(key, i), in the shape of the leaf"


def noise_does_not_depend_on_the_data(trial: Central) -> None:
    """One key gives the same noise whatever the sum is, and the same release twice."""
    releases = trial.releases
    same = np.array_equal(releases["nobody"], releases["again"])
    remedy = "draw noise from the key alone, in the shape and with the deviation that are public"
    require(same, "a sum of zeros, twice with one key", "two releases differ", remedy)
    moved = releases["one"] - releases["nobody"]
    spread = np.abs(moved - moved.mean(0)).max()
    slack = 1e-5 * max(np.abs(releases["one"]).max(), 1e-30)
    found = f"the difference of their releases varies by {spread:.4g} from key to key"
    require(spread <= slack, "a sum of zeros and one of an update, by equal keys", found, remedy)


def more_rounds_cost_more(trial: Central) -> None:
    """Epsilon can be accounted; it is positive, finite where there is noise, and grows with rounds."""
    one, two = (_epsilon(trial.mechanism, rounds, 1e-3) for rounds in (1, 2))
    noisy = float(trial.mechanism.noise_multiplier) > 0
    require(
        0 < one <= two and (math.isfinite(two) or not noisy),
        "delta = 1e-3, every client in every round",
        f"epsilon is {one:.4g} for one round and {two:.4g} for two",
        ACCOUNT,
    )


ACCOUNT = (
    "event(moves) is one release of a sum that moves by moves times C: "
    "dp_accounting.GaussianDpEvent(noise_multiplier / moves), or a fjx.privacy.RenyiCurve"
)


def _epsilon(mechanism: Any, rounds: int, delta: float) -> float:
    given = f"delta = {delta}, {rounds} rounds of every client"
    with attempt(given, ACCOUNT):
        return float(
            privacy.epsilon(
                mechanism,
                samplers.full(),
                rounds=rounds,
                delta=delta,
                method="best",
                relation="add_or_remove_one",
                grid=1e-3,
            )
        )


def an_attack_finds_no_more_than_epsilon(trial: Central) -> None:
    """Tests for one client's presence succeed at most as often as epsilon and delta allow.

    The client moves one coordinate by C; a test says that it is there if the coordinate is above a
    threshold.  P[above | there] <= e^epsilon P[above | not there] + delta, within 6 standard errors.
    """
    noise = trial.noise.reshape(-1)
    for delta in DELTAS:
        epsilon = _epsilon(trial.mechanism, 1, delta)
        found = attacked(noise + trial.radius, noise, epsilon, delta)
        given = f"one round, one client that moves a coordinate by C, delta = {delta}"
        require(found is None, given, found or "", f"add more noise, or claim less: {ACCOUNT}")


def attacked(there: np.ndarray, absent: np.ndarray, epsilon: float, delta: float) -> str | None:
    """A threshold test that does better than (epsilon, delta) allows, by more than 6 standard errors."""
    if not math.isfinite(epsilon):
        return None
    there, absent = np.sort(there), np.sort(absent)
    thresholds = np.quantile(np.concatenate([there, absent]), np.linspace(0.002, 0.998, 250))
    p, q = (1 - np.searchsorted(x, thresholds, "right") / len(x) for x in (there, absent))
    growth = math.exp(min(epsilon, 50.0))
    # Of rates that may be zero: at least one draw.
    spread = np.maximum(p * (1 - p), 1 / len(there)) / len(there)
    spread = spread + growth**2 * np.maximum(q * (1 - q), 1 / len(absent)) / len(absent)
    excess = p - growth * q - delta - SIGMAS * np.sqrt(spread)
    i = int(excess.argmax())
    if excess[i] <= 0:
        return None
    return (
        f"a test finds the client in {p[i]:.4f} of the rounds with it and in {q[i]:.4f} of those "
        f"without, and epsilon = {epsilon:.3f} is accounted"
    )


CENTRAL_LAWS = (
    clip_keeps_the_structure,
    clip_is_within_the_sensitivity,
    says_what_it_clips,
    a_broken_update_contributes_zeros,
    a_replacement_moves_at_most_twice_as_far,
    state_keeps_its_structure_and_holds_no_key,
    noise_has_the_reported_deviation,
    noise_is_as_wide_as_the_multiplier_says,
    noise_of_coordinates_is_independent,
    noise_does_not_depend_on_the_data,
    more_rounds_cost_more,
    an_attack_finds_no_more_than_epsilon,
)
"""Every law of a central mechanism, in the order in which they are checked."""

# --------------------------------------------------------------------------------------------------
# Distributed mechanisms
# --------------------------------------------------------------------------------------------------


class Distributed:
    """A mechanism whose clients add their noise: sums of all clients' codes."""

    def __init__(self, mechanism: DistributedMechanism) -> None:
        self.mechanism = mechanism
        self.d, self.n = mechanism.dimension, mechanism.clients
        self.draws = max(20, min(2000, 2_000_000 // (self.d * self.n)))

    @functools.cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        size = float(self.mechanism.sensitivity("add_or_remove_one")) / (2 * math.sqrt(self.d))
        x = size * np.random.default_rng(0).uniform(-1, 1, self.d).astype(np.float32)
        nan = x.copy()
        nan[self.d // 3] = np.nan
        return {
            "a vector of zeros": np.zeros(self.d, np.float32),
            "a vector within the bound": x,
            "a vector with NaN": nan,
            "a vector of numbers around 1e30": np.float32(1e30) * np.sign(x),
        }

    @functools.cached_property
    def encoded(self) -> dict[str, Any]:
        """Of each vector: the codes of one client, and ``f64[draws, d]``, decoded sums of n clients."""

        def one_round(key: Key, vector: jax.Array) -> tuple[Any, jax.Array]:
            keys = jax.random.split(key, self.n)
            own = jax.vmap(lambda k: self.mechanism.encode(k, vector))(keys)
            total = jnp.sum(own.codes, axis=0, dtype=jnp.uint32) & jnp.uint32(
                2**self.mechanism.bits - 1
            )
            return jax.tree.map(lambda x: x[0], own), self.mechanism.decode(
                total, jnp.int32(self.n)
            )

        keys = jax.random.split(jax.random.key(5), self.draws)

        def rounds(vector: jax.Array) -> Any:
            # One round after another: a round of a hundred clients is large enough.
            return jax.lax.map(lambda key: one_round(key, vector), keys)

        with attempt(
            "vectors under jax.vmap", "encode and decode run inside jax.jit: use jax.numpy"
        ):
            outputs = _laws.numpy(
                _laws.jit(jax.vmap(rounds))(np.stack(list(self.vectors.values())))
            )
        return {given: _laws.row(outputs, i) for i, given in enumerate(self.vectors)}


def codes_have_the_declared_bits(trial: Distributed) -> None:
    """Codes are ``u32[d]`` below 2^bits."""
    for given, (own, _) in trial.encoded.items():
        codes, bits = own.codes, trial.mechanism.bits
        shaped = codes.shape[1:] == (trial.d,) and codes.dtype == np.uint32
        found = (
            f"codes are {codes.dtype}{list(codes.shape[1:])}, up to {codes.max()}, bits = {bits}"
        )
        remedy = "return jnp.uint32 codes modulo 2^bits: codes & (2**bits - 1)"
        require(shaped and int(codes.max()) < 2**bits, given, found, remedy)


def a_broken_vector_sends_noise_alone(trial: Distributed) -> None:
    """A vector with a NaN is reported as not finite, and sends what a vector of zeros sends."""
    given = "a vector with NaN"
    broken, zeros = (trial.encoded[g][0] for g in (given, "a vector of zeros"))
    same = np.array_equal(broken.codes, zeros.codes) and not broken.finite.any()
    found = f"finite is {bool(broken.finite.any())}, other codes than of zeros: {not same}"
    require(same, given, found, "replace the vector by zeros, and add the noise all the same")


def a_sum_decodes_to_the_sum(trial: Distributed) -> None:
    """The decoded sum of n clients is n x on average, up to a tenth of its deviation."""
    given = "a vector within the bound"
    decoded = np.asarray(trial.encoded[given][1], np.float64)
    off = np.abs(decoded.mean(0) - trial.n * trial.vectors[given]).max()
    std = math.sqrt(trial.n * trial.mechanism.variance)
    bound = SIGMAS * np.sqrt(decoded.var(0).max() / trial.draws) + 0.1 * std
    found = f"the mean is off by {off:.4g}; the deviation is {std:.4g}"
    require(off <= bound, given, found, "decode(sum, clients) inverts encode, modulo 2^bits")


def noise_is_as_wide_as_declared(trial: Distributed) -> None:
    """The sum's noise has the variance of all clients together, and at least z C of it is sure."""
    decoded = np.asarray(trial.encoded["a vector of zeros"][1], np.float64)
    squares = (decoded - decoded.mean(0)) ** 2 * trial.draws / (trial.draws - 1)
    error = SIGMAS * squares.std() / math.sqrt(squares.size)
    declared = trial.n * trial.mechanism.variance
    found = f"the variance is {squares.mean():.5g}, and n variance = {declared:.5g}"
    given, remedy = (
        "n vectors of zeros",
        "variance is that of one client's noise, in units of messages",
    )
    require(abs(squares.mean() - declared) <= error + 1e-3 * declared, given, found, remedy)


def is_accounted(trial: Distributed) -> None:
    """Epsilon can be accounted; it is positive, finite where there is noise, and grows with rounds."""
    more_rounds_cost_more(trial)  # type: ignore[arg-type]


def an_attack_on_the_sum_finds_no_more_than_epsilon(trial: Distributed) -> None:
    """Tests for one client's data succeed at most as often as epsilon and delta allow.

    As for central mechanisms, on the noise of a coordinate, which the client moves by its share of a
    flat message.
    """
    decoded = np.asarray(trial.encoded["a vector of zeros"][1], np.float64)
    score = decoded.sum(1) / math.sqrt(trial.d)  # the direction of a flat message
    moved = np.asarray(trial.encoded["a vector of numbers around 1e30"][1], np.float64)
    moved = (moved * np.sign(trial.vectors["a vector within the bound"])).sum(1).mean() / trial.n
    for delta in DELTAS:
        epsilon = _epsilon(trial.mechanism, 1, delta)
        found = attacked(score + moved / math.sqrt(trial.d), score, epsilon, delta)
        require(found is None, f"one client of n, delta = {delta}", found or "", ACCOUNT)


DISTRIBUTED_LAWS = (
    codes_have_the_declared_bits,
    a_broken_vector_sends_noise_alone,
    a_sum_decodes_to_the_sum,
    noise_is_as_wide_as_declared,
    is_accounted,
    an_attack_on_the_sum_finds_no_more_than_epsilon,
)
"""Every law of a distributed mechanism, in the order in which they are checked."""

# --------------------------------------------------------------------------------------------------
# Local mechanisms
# --------------------------------------------------------------------------------------------------


class Local(_compressor.Trial):
    """A codec that is private by itself, on trial as a codec, and against an attack."""

    def __init__(self, mechanism: LocalMechanism, like: TreeLike) -> None:
        super().__init__(mechanism.codec, like, {})
        self.mechanism = mechanism

    @functools.cached_property
    def scores(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Two messages with opposite signs: how far what is decoded points into the direction of one.

        Noise that hides an L1 norm is weakest in one coordinate, coins for each coordinate in all.
        """
        state, size = self.state, _flat(_laws.stack([_laws.zeros(self.like)])).shape[1]
        directions = {
            "one large number": np.eye(1, size, dtype=np.float32)[0],
            "large numbers": np.ones(size, np.float32),
        }

        def score(key: Key, vector: jax.Array, sign: jax.Array) -> jax.Array:
            payload = self.codec.encode(key, self.tree(1e3 * sign * vector), state)[0]
            decoded = [x.reshape(-1) for x in jax.tree.leaves(self.codec.decode(payload))]
            return jnp.sum(jnp.concatenate(decoded).astype(jnp.float32) * vector)

        keys = jax.random.split(jax.random.key(9), (2, 20_000))
        program = _laws.jit(jax.vmap(score, in_axes=(0, None, None)))
        found = {}
        for words, vector in directions.items():
            with attempt(f"messages of {words}, encoded 20000 times", _compressor.RUNS):
                high = np.asarray(program(jax.random.clone(keys[0]), vector, jnp.float32(1)))
                low = np.asarray(program(jax.random.clone(keys[1]), vector, jnp.float32(-1)))
            found[words] = high, low
        return found

    def tree(self, vector: jax.Array) -> Tree:
        """A message from all of its coordinates."""
        leaves, treedef = jax.tree.flatten(self.like)
        ends = np.cumsum([math.prod(x.shape) for x in leaves])
        parts = jnp.split(vector, ends[:-1])
        pairs = zip(parts, leaves, strict=True)
        return treedef.unflatten([part.reshape(x.shape).astype(x.dtype) for part, x in pairs])


def a_broken_message_is_sent_as_a_sound_one(trial: Local) -> None:
    """A message with a NaN or an infinity decodes to finite numbers: that it is broken is private.

    This is the opposite of what other codecs do.
    """
    for name in trial.tried:
        for word in ("NaN", "+inf", "-inf"):
            given = _compressor.bad(word, name)
            finite = all(np.isfinite(x).all() for _, x in _laws.floats(trial.received(given)))
            require(
                finite, given, "it decodes to NaN or infinity", "bound the message with a Bound"
            )


def an_attack_on_a_message_finds_no_more_than_epsilon(trial: Local) -> None:
    """Tests between two messages succeed at most as often as epsilon, or the event, allows."""
    remedy = "noise of a message hides the difference of any two: 2 C, not C"
    for delta in (0.0,) if math.isfinite(trial.mechanism.epsilon) else DELTAS:
        epsilon = trial.mechanism.epsilon if delta == 0 else _of_event(trial.mechanism, delta)
        for words, (high, low) in trial.scores.items():
            found = attacked(high, low, epsilon, delta)
            given = f"messages of {words}, with opposite signs, delta = {delta}"
            require(found is None, given, found or "", remedy)


def event_costs_no_less_than_epsilon_says(trial: Local) -> None:
    """``event`` can be accounted, and ``epsilon`` is positive."""
    epsilon, of_event = trial.mechanism.epsilon, _of_event(trial.mechanism, 1e-3)
    found = f"epsilon = {epsilon:.4g}, and the event gives {of_event:.4g} at delta = 1e-3"
    remedy = (
        "event() is one message, between any two; epsilon holds for delta = 0, and is inf otherwise"
    )
    require(0 < of_event < math.inf and epsilon > 0, "one message", found, remedy)


def _of_event(mechanism: LocalMechanism, delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    with attempt(f"one message, delta = {delta}", "event() returns a DpEvent of dp-accounting"):
        relation = dp_accounting.NeighboringRelation.REPLACE_ONE
        accountant = RdpAccountant(neighboring_relation=relation)
        return float(accountant.compose(mechanism.event()).get_epsilon(delta))


LOCAL_LAWS = (
    _compressor.keeps_structure_and_dtypes,
    _compressor.keeps_the_structure_of_its_state,
    _compressor.uses_each_key_once,
    _compressor.sound_messages_stay_finite,
    _compressor.decodes_from_the_bytes_alone,
    _compressor.costs_the_bits_of_its_bytes,
    _compressor.is_a_pure_function,
    a_broken_message_is_sent_as_a_sound_one,
    event_costs_no_less_than_epsilon_says,
    an_attack_on_a_message_finds_no_more_than_epsilon,
)
"""Every law of a local mechanism, in the order in which they are checked."""
