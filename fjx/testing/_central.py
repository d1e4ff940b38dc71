"""The laws of mechanisms that noise a sum."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import privacy
from fjx._base import Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.privacy import Contribution, Mechanism
from fjx.testing import _codec_trial, _laws
from fjx.testing._attack import (
    ACCOUNT,
    DELTAS,
    NORMS,
    attacked,
    epsilon_of,
    flat,
    grows_with_rounds,
)
from fjx.testing._laws import SIGMAS, attempt, require

DRAWS = 4000

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
        unit = 1 / max(NORMS["l1"](flat(_laws.stack([x]))), 1.0)

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
                found[f"an update with {word} at {name}"] = _codec_trial.with_entry(x, name, value)
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
            "nobody": flat(noised),
            "one": flat(other),
            "again": flat(again),
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
    x = flat(_laws.stack([trial.updates[given]]))[0]
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
        norm = NORMS[name](unit * flat(_laws.stack([own.update]))[0])
        within = norm <= trial.radius * (1 + 1e-5)
        found = f"its clipped {name} norm is {norm:.6g}, and the sensitivity {trial.radius:.6g}"
        require(within, given, found, BOUND)


def _unit(trial: Central) -> float:
    """The value of a step where clip returns integers, else one."""
    own = trial.clipped["an update of random numbers"]
    if all(is_float(x) for x in jax.tree.leaves(own.update)):
        return 1.0
    steps = flat(_laws.stack([own.update]))[0]
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
    grows_with_rounds(trial.mechanism)


def an_attack_finds_no_more_than_epsilon(trial: Central) -> None:
    """Tests for one client's presence succeed at most as often as epsilon and delta allow.

    The client moves one coordinate by C; a test says that it is there if the coordinate is above a
    threshold.  P[above | there] <= e^epsilon P[above | not there] + delta, within 6 standard errors.
    """
    noise = trial.noise.reshape(-1)
    for delta in DELTAS:
        epsilon = epsilon_of(trial.mechanism, 1, delta)
        found = attacked(noise + trial.radius, noise, epsilon, delta)
        given = f"one round, one client that moves a coordinate by C, delta = {delta}"
        require(found is None, given, found or "", f"add more noise, or claim less: {ACCOUNT}")


LAWS = (
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
