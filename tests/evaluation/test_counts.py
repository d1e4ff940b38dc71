"""Ratios of added counts against their definitions, example by example and pair by pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from fjx import data, evaluation, simulation

RNG = np.random.default_rng(0)
SIZES = (5, 0, 1, 9, 2)
TRUTH = RNG.integers(0, 4, sum(SIZES))
GUESS = np.where(RNG.random(sum(SIZES)) < 0.6, TRUTH, RNG.integers(0, 4, sum(SIZES)))
SCORE = np.round(np.clip(0.3 + 0.3 * (TRUTH > 1) + 0.3 * RNG.normal(size=sum(SIZES)), 0, 1), 2)


def clients(**columns):
    parts = {name: np.split(x, np.cumsum(SIZES)[:-1]) for name, x in columns.items()}
    return data.from_clients([{n: p[i] for n, p in parts.items()} for i in range(len(SIZES))])


DATASET = clients(y=TRUTH.astype(np.int32), guess=GUESS.astype(np.int32))
CONFUSION = evaluation.confusion(lambda _, batch: batch["guess"], classes=4)


@pytest.fixture(scope="module")
def tables():
    whole = evaluation.counts(CONFUSION, DATASET.arrays, batch_size=4)(jnp.zeros(()))
    each = evaluation.counts_per_client(CONFUSION, DATASET, batch_size=4)(jnp.zeros(()))
    return np.asarray(whole["confusion"]), np.asarray(each["confusion"])


def test_a_matrix_counts_each_example_once(tables):
    whole, each = tables
    np.testing.assert_array_equal(whole, metrics.confusion_matrix(TRUTH, GUESS))
    np.testing.assert_array_equal(each.sum(axis=0), whole)
    assert each.sum(axis=(1, 2)).tolist() == list(SIZES)


@pytest.mark.parametrize("average", ["macro", "micro", None])
@pytest.mark.parametrize("name", ["recall", "precision", "f1"])
def test_ratios_are_those_of_all_examples(tables, name, average):
    whole, each = tables
    theirs = getattr(metrics, f"{name}_score")(TRUTH, GUESS, average=average)
    ours = getattr(evaluation, name)
    np.testing.assert_allclose(ours(each.sum(axis=0), average=average), theirs)
    traced = jax.jit(lambda x: ours(x, average=average))(whole)
    np.testing.assert_allclose(traced, theirs, rtol=1e-6)
    assert evaluation.accuracy(whole) == pytest.approx(np.mean(TRUTH == GUESS))


def test_a_mean_of_clients_ratios_is_another_number(tables):
    whole, each = tables
    of_clients = evaluation.f1(each)
    assert np.isnan(of_clients[1])  # without examples
    assert abs(np.nanmean(of_clients) - evaluation.f1(whole)) > 0.01


def test_nothing_to_recall_is_nan_and_left_out_of_the_macro_mean():
    table = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_array_equal(evaluation.recall(table, average=None), [0.75, 1.0, np.nan])
    assert evaluation.recall(table) == pytest.approx(0.875)
    assert np.isnan(evaluation.f1(np.zeros((3, 3))))


def test_an_example_without_a_class_is_counted_outside():
    batch = {"y": jnp.array([0, 4, -1, 2]), "guess": jnp.array([-1, 1, 1, 2])}
    found = CONFUSION((), batch, jnp.ones(4, bool))
    assert int(found["confusion"].sum()) == 1
    assert int(found["outside"]) == 2  # a label that is negative is padding


def area_by_pairs(score, positive):
    above = score[positive][:, None] - score[~positive]
    return np.mean((above > 0) + 0.5 * (above == 0))


@pytest.mark.parametrize("bins", [2, 10, 101, 1000])
def test_the_area_under_the_curve_is_within_its_error(bins):
    dataset = clients(y=(TRUTH > 1).astype(np.int32), score=SCORE.astype(np.float32))
    count = evaluation.score_histogram(lambda _, batch: batch["score"], bins=bins)
    each = evaluation.counts_per_client(count, dataset, batch_size=4)(jnp.zeros(()))
    found = evaluation.auc(np.asarray(each["histogram"]).sum(axis=0))
    wanted = area_by_pairs(SCORE.astype(np.float32), TRUTH > 1)
    assert abs(found.value - wanted) <= found.error + 1e-12
    assert wanted == pytest.approx(metrics.roc_auc_score(TRUTH > 1, SCORE))
    assert found.error < 2 / bins or bins == 2


def test_the_area_is_nan_of_one_class_and_of_a_score_that_is_nan():
    assert np.isnan(evaluation.auc(np.array([[3, 1, 0], [0, 0, 0]])).value)
    assert np.isnan(evaluation.auc(np.array([[3, 1, 1], [0, 2, 0]])).value)
    count = evaluation.score_histogram(lambda _, batch: batch["s"], bins=4)
    batch = {"s": jnp.array([jnp.nan, -3.0, 7.0, 0.5]), "y": jnp.array([0, 0, 1, 1])}
    table = count((), batch, jnp.array([True, True, True, False]))["histogram"]
    assert table.tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 1, 0]]


def test_a_ratio_for_each_batch_is_refused_with_its_right_form():
    def recall(_, batch):
        hit = (batch["guess"] == 1) & (batch["y"] == 1)
        return {"recall": hit.sum() / (batch["y"] == 1).sum()}

    evaluate = simulation.evaluation(recall, DATASET.arrays)
    with pytest.raises(ValueError, match=r"'recall' has shape \[\].*fjx\.evaluation\.counts"):
        evaluate(jnp.zeros(()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: evaluation.f1(np.ones(3)), ValueError, "add the counts"),
        (lambda: evaluation.f1(np.ones((2, 2)), average="mean"), ValueError, "average must be"),
        (lambda: evaluation.auc(np.ones((3, 4))), ValueError, "score_histogram"),
        (lambda: evaluation.confusion(lambda p, b: b, classes=1), ValueError, "at least 2"),
        (lambda: evaluation.counts(CONFUSION, {}), ValueError, "needs examples"),
        (
            lambda: evaluation.confusion(lambda p, b: b["y"].astype(float), classes=2)(
                (), {"y": jnp.zeros(2, jnp.int32)}, jnp.ones(2, bool)
            ),
            TypeError,
            "predict must be classes",
        ),
        (
            lambda: evaluation.counts(lambda p, b, m: m.sum(), DATASET.arrays)(()),
            TypeError,
            "must return a dict",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
