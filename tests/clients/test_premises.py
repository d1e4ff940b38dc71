"""Premises of plain losses: a run refuses what is not a mean over the examples of a batch."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients
from fjx._base import Template
from fjx.clients._loss import as_loss
from fjx.clients._premises import require_premise, traced_premises
from fjx.simulation._premises import require_premises

ROWS = 12
REAL = np.arange(6)[None] < np.arange(ROWS)[:, None] % 6 + 1  # lengths of one to six tokens
DATA = {
    "x": np.sin(np.arange(ROWS * 6, dtype=np.float32)).reshape(ROWS, 6),
    "y": np.arange(ROWS, dtype=np.int32) // 2 % 3,
    "real": REAL.astype(np.float32),
}
DATASET = fjx.data.from_packed(DATA, [4, 4, 4])
ZEROS = {"w": np.zeros((6, 3), np.float32), "b": np.zeros(3, np.float32)}


def logits(p, b):
    return b["x"] @ p["w"] + p["b"][None]


def each(p, b):
    return optax.softmax_cross_entropy_with_integer_labels(logits(p, b), b["y"])


def each_token(p, b):
    return (p["w"][:, 0][None] - b["x"]) ** 2


def dropped(p, b, key):
    return nn.Dropout(0.5, deterministic=False).apply({}, b["x"], rngs={"dropout": key})


def normalised(p, b):
    z = logits(p, b)
    z = (z - z.mean(0, keepdims=True)) / (z.std(0, keepdims=True) + 1e-3)
    return jnp.mean(z[:, 0] * b["x"][:, 0])


def contrastive(p, b, key):
    z = logits(p, b)
    own = jnp.arange(len(z), dtype=jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(z @ z.T, own).mean()


def metric(value):
    return lambda p, b, key: (each(p, b).mean(), {"score": value(p, b)})


def recall(p, b):
    hit, real = logits(p, b).argmax(-1) == 1, b["y"] == 1
    return (hit & real).sum() / real.sum()


MEANS = {
    "the mean of the examples": lambda p, b, key: each(p, b).mean(),
    "a metric that is a mean": metric(lambda p, b: (logits(p, b).argmax(-1) == b["y"]).mean()),
    "the parts of a ratio": metric(lambda p, b: ((b["y"] == 1) & (b["x"][:, 0] > 0)).mean()),
    "weight decay beside it": lambda p, b, key: each(p, b).mean() + jnp.sum(p["w"] ** 2),
    "a mean over the tokens of each example": lambda p, b, key: jnp.mean(
        (b["real"] * each_token(p, b)).sum(1) / b["real"].sum(1)
    ),
    "dropout": lambda p, b, key: each(p, {**b, "x": dropped(p, b, key)}).mean(),
    "noise on the weights": lambda p, b, key: each(
        {**p, "b": jax.random.normal(key, (3,))}, b
    ).mean(),
    "a key for each example": lambda p, b, key: jnp.mean(
        jax.vmap(lambda x, k: x[0] * jax.random.normal(k))(
            b["x"], jax.random.split(key, len(b["x"]))
        )
    ),
    "rejection sampling": lambda p, b, key: each(p, b).mean() * jax.random.gamma(key, 2.0),
    "half precision": lambda p, b, key: each(
        *jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == np.float32 else x, (p, b))
    ).mean(),
    "a loss that is NaN": lambda p, b, key: jnp.log(-1 - each(p, b).mean() ** 2),
    "small terms": lambda p, b, key: 1e-6 * each(p, b).mean(),
    "small differences of large terms": lambda p, b, key: (
        jnp.mean(
            jax.nn.logsumexp(jnp.stack([b["x"][:, 0] + 20, b["x"][:, 1]], 1), axis=1) - b["x"][:, 0]
        )
        - 20
    ),
    "a loss of one row only": lambda p, b, key: each(p, b).reshape(()),
}
OTHERS = {
    "a sum": lambda p, b, key: each(p, b).sum(),
    "a mean over tokens": lambda p, b, key: (b["real"] * each_token(p, b)).sum() / b["real"].sum(),
    "a small sum": lambda p, b, key: 1e-6 * each(p, b).sum(),
    "a very small sum": lambda p, b, key: 1e-9 * each(p, b).sum(),
    "the first row": lambda p, b, key: each(p, b)[0],
    "batch statistics": lambda p, b, key: normalised(p, b),
    "a contrastive loss": contrastive,
    "a weighted mean": lambda p, b, key: (
        (b["x"][:, 0] ** 2 * each(p, b)).sum() / (b["x"][:, 0] ** 2).sum()
    ),
    "a root": lambda p, b, key: jnp.sqrt(jnp.mean(each(p, b) ** 2)),
    "broadcasting": lambda p, b, key: jnp.mean((each(p, b)[:, None] - b["x"][:, :1].T) ** 2),
}
RATIOS = {
    "recall": recall,
    "perplexity": lambda p, b: jnp.exp(each(p, b).mean()),
    "a count": lambda p, b: (b["y"] == 1).sum(),
    "a variance": lambda p, b: jnp.var(b["x"]),
}


def noted(loss_fn, batch=DATA):
    """The premises that a client's tracing notes."""
    mask = np.ones(len(batch["y"]), bool)
    with traced_premises() as premises:
        jax.eval_shape(as_loss(loss_fn).evaluate, ZEROS, batch, mask, jax.random.key(0))
    return premises


def check(loss_fn):
    """Check the premise of a loss on the examples of the dataset."""
    require_premises(noted(loss_fn), ZEROS, DATASET)


ALWAYS = {"the mean of the examples", "dropout", "a mean over tokens", "batch statistics", "recall"}


def rows(table):
    def tier(name):
        return (
            [] if name in ALWAYS else pytest.mark.ci if name == "a small sum" else pytest.mark.slow
        )

    return [pytest.param(x, id=name, marks=tier(name)) for name, x in table.items()]


@pytest.mark.parametrize("loss_fn", rows(MEANS))
def test_means_over_examples_are_accepted(loss_fn):
    ((_, premise),) = noted(loss_fn).known.values()
    pairs = jax.tree.map(lambda x: np.stack([x, np.roll(x, 1, 0)], 1), DATA)
    assert require_premise(premise, ZEROS, pairs) == (
        loss_fn is not MEANS["a loss of one row only"]
    )


@pytest.mark.parametrize("loss_fn", rows(OTHERS))
def test_other_losses_are_refused_with_both_remedies(loss_fn):
    with pytest.raises(ValueError, match=r"loss_fn is not a mean over.*whole_batch.*per_example"):
        check(loss_fn)


@pytest.mark.parametrize("score", rows(RATIOS))
def test_ratio_metrics_are_refused_with_the_right_form(score):
    with pytest.raises(ValueError, match=r"metric 'score' is not a mean.*divide their averages"):
        check(metric(score))


@pytest.mark.slow
def test_a_metric_that_is_nan_on_single_examples_is_refused():
    """No class has the label 7, so that recall is 0 / 0 on every batch, together and apart."""

    def score(p, b):
        return (b["y"] == 7).mean() / (b["y"] == 7).mean()

    with pytest.raises(ValueError, match="metric 'score' is NaN on a batch of one example"):
        check(metric(score))


def test_who_says_how_a_loss_is_averaged_is_not_asked():
    summed = OTHERS["a sum"]
    whole = clients.whole_batch(lambda p, b, mask, key: jnp.sum(each(p, b), where=mask))
    for loss in (whole, clients.per_example(summed)):
        check(loss)


def test_with_a_claim_of_privacy_no_example_is_looked_at():
    """A loss that is a mean over made-up examples, and a sum over those of the dataset."""

    def telling(p, b, key):
        large = jnp.abs(b["x"][:, 0]) > 1
        return jnp.where(large.all(), each(p, b).sum(), each(p, b).mean())

    large = fjx.data.from_packed({**DATA, "x": DATA["x"] + 9}, [4, 4, 4])
    require_premises(noted(telling), ZEROS, large, private=True)
    with pytest.raises(ValueError, match="loss_fn is not a mean"):
        require_premises(noted(telling), ZEROS, large)


def test_a_logarithm_that_made_up_examples_may_not_have_is_no_reason_to_refuse():
    def telling(p, b, key):
        return each(p, b).mean(), {
            "positive": jnp.log(jnp.abs(b["x"])).mean(),
            "above one": jnp.log(jnp.where(jnp.abs(b["x"]) > 1, 1.0, -1.0)).mean(),
        }

    large = fjx.data.from_packed({**DATA, "x": DATA["x"] + 9}, [4, 4, 4])
    require_premises(noted(telling), ZEROS, large, private=True)
    require_premises(noted(telling), ZEROS, large)


def test_a_run_refuses_before_its_first_round_and_says_what_it_saw():
    algorithm = fjx.algorithms.fedsgd(OTHERS["a mean over tokens"], learning_rate=0.5, batch_size=2)
    seen = []
    with pytest.raises(ValueError, match=r"two examples it is 0\.\d+, and on each of them 0\.\d+"):
        fjx.simulate(
            jax.random.key(0), algorithm, ZEROS, DATASET, sampler=fjx.samplers.full(), rounds=1,
            stop=seen.append, evaluate=lambda p: {"b": p["b"][0]},
        )  # fmt: skip
    assert not seen


@pytest.mark.parametrize(
    "client",
    [
        functools.partial(clients.gradient, batch_size=2),
        functools.partial(clients.local_sgd, optimizer=optax.sgd(0.1), epochs=1, batch_size=2),
        functools.partial(clients.scaffold, learning_rate=0.1, epochs=1, batch_size=2),
        functools.partial(
            clients.dp_sgd, optimizer=optax.sgd(0.1), clip_norm=1.0, noise_multiplier=1.0,
            sampling_rate=0.5, steps=1, batch_size=2, capacity=4,
        ),
    ],
    ids=lambda client: client.func.__name__,
)  # fmt: skip
def test_every_client_notes_its_loss_with_the_shapes_of_one_example(client):
    made = client(MEANS["dropout"])
    sent = ZEROS if client.func is not clients.scaffold else {"params": ZEROS, "control": ZEROS}
    window = fjx.Examples(DATASET.arrays, jnp.int32(0), jnp.int32(4))
    with traced_premises() as premises:
        jax.eval_shape(made.update, jax.random.key(0), sent, made.init(ZEROS), window, fjx.Turn())
    ((_, premise),) = premises.known.values()  # traced more than once, noted once
    assert premise.model == Template.of(ZEROS)
    assert premise.example.tree["x"].shape == (6,)


def test_nothing_is_compiled_but_two_forward_passes():
    """One program, in which the loss is traced once for two examples and once for single ones."""
    shapes = []

    def loss_fn(p, b, key):
        shapes.append(b["x"].shape)
        return each(p, b).mean()

    ((_, premise),) = noted(loss_fn).known.values()
    pairs = jax.tree.map(lambda x: x.reshape(ROWS // 2, 2, *x.shape[1:]), DATA)
    shapes.clear()
    require_premise(premise, ZEROS, pairs)
    assert shapes == [(2, 6), (1, 6)]


def test_messages_name_numbers_that_the_reader_can_check():
    with pytest.raises(ValueError, match="loss_fn is not a mean") as error:
        check(OTHERS["a sum"])
    together, one, other = map(
        float, re.findall(r"\d\.\d+", str(error.value).replace("per_example", ""))[:3]
    )
    assert together == pytest.approx(one + other, rel=1e-3)
