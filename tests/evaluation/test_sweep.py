"""A sweep is the loop of its runs, compiled once."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import (
    aggregators,
    algorithms,
    clients,
    compressors,
    data,
    evaluation,
    privacy,
    samplers,
    simulation,
)

SIZES = (3, 0, 5, 1, 4, 2)
RNG = np.random.default_rng(0)
DATASET = data.from_clients(
    [RNG.normal(i, 1, (n, 2)).astype(np.float32) for i, n in enumerate(SIZES)]
)
SAMPLER = samplers.dropout(samplers.uniform(4), rate=0.4)
LRS, SEEDS = (0.05, 0.2, 0.4), (3, 0, 11)
PLAN = {"sampler": SAMPLER, "rounds": 5, "evaluate_every": 2, "participant_ids": True}
TEST = simulation.per_client(lambda w, x: {"gap": jnp.sum((w[None] - x) ** 2, -1)}, DATASET)


def loss_fn(w, x, key):
    return jnp.mean(jnp.sum((w[None] - x) ** 2, -1)) / 2


def make(lr):
    return algorithms.fedavg(loss_fn, client_lr=lr, batch_size=2)


def init(key):
    return jax.random.normal(key, (2,))


def sweep(**options):
    options = {"grid": {"lr": LRS}, "seeds": SEEDS, "evaluate": TEST, "progress": False, **options}
    return evaluation.sweep(
        options.pop("make", make), options.pop("params", init), DATASET, **PLAN, **options
    )


@pytest.fixture(scope="module")
def compiled():
    """A sweep, and how often its algorithm was made."""
    made = []

    def counted(lr):
        made.append(lr)
        return make(lr)

    return sweep(make=counted, keep=lambda state: state.params), made


@pytest.mark.ci
def test_a_sweep_is_the_loop_of_its_runs(compiled):
    result, _ = compiled
    assert result.settings == tuple({"lr": lr} for lr in LRS)
    assert result.final("gap").shape == (3, 3, 6)
    for i, lr in ((0, 0.05), (2, 0.4)):
        algorithm = make(lr)
        for j, seed in ((0, 3), (2, 11)):
            one = fjx.simulate(
                jax.random.key(seed), algorithm, init(evaluation.init_key(seed)), DATASET,
                evaluate=TEST, executor=simulation.vectorized(), progress=False, **PLAN,
            )  # fmt: skip
            ours = evaluation.history_of(result, i, j)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
                ours,
                one.history,
            )
            np.testing.assert_allclose(result.kept[i, j], one.params, rtol=1e-5)
            assert np.isnan(ours.evaluations["gap"][:, 1]).all()  # a client without examples
            np.testing.assert_array_equal(ours.participation(6), one.history.participation(6))


@pytest.mark.ci
def test_nine_runs_are_one_program_that_is_traced_once(compiled):
    result, made = compiled
    assert result.programs == 1
    assert made[:3] == list(LRS)  # on the host, to be checked
    (traced,) = made[3:]
    assert isinstance(traced, jax.core.Tracer)


@pytest.mark.ci
@pytest.mark.parametrize("at_a_time", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_runs_in_batches_are_the_runs(compiled, at_a_time):
    """Nine runs two at a time: the last batch is short."""
    batched = sweep(at_a_time=at_a_time, keep=lambda state: state.params)
    for part in ("history", "kept"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
            getattr(batched, part),
            getattr(compiled[0], part),
        )


@pytest.mark.slow
def test_a_program_that_does_not_fit_is_halved(monkeypatch):
    from fjx.evaluation import _runs
    from fjx.simulation import _compile

    widths = []

    class Small(_compile.Compiler):
        def __call__(self, name, once, *args):
            widths.append(len(args[1]))
            if len(args[1]) > 3:
                raise MemoryError("too large")
            return super().__call__(name, once, *args)

    monkeypatch.setattr(_runs, "Compiler", Small)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep(evaluate=None).final("loss").shape == (3, 3)
    assert widths == [9, 5, 3]
    with pytest.raises(MemoryError):
        sweep(at_a_time=5)


@pytest.mark.ci
def test_static_parts_are_programs_and_traced_numbers_are_not():
    def of(lr, uplink, batch_size):
        client = clients.local_sgd(loss_fn, optax.sgd(lr), epochs=1, batch_size=batch_size)
        return fjx.compose(client=client, uplink=uplink)

    result = sweep(
        make=of,
        grid={"lr": [0.1, 0.3]},
        static={
            "uplink": {"none": compressors.identity(), "half": compressors.top_k(0.5)},
            "batch_size": [2],
        },
        seeds=2,
        evaluate=None,
    )
    assert result.programs == 2
    assert result.settings[2] == {"uplink": "half", "batch_size": 2, "lr": 0.1}
    assert result.traffic[0].uplink > result.traffic[2].uplink
    assert result.run_seconds.shape == (4, 2)


@pytest.mark.ci
def test_noise_is_never_shared():
    """With one key, two settings would have one noise, and their difference none."""

    def private(scale):
        mechanism = privacy.gaussian(clip_norm=1e-6, noise_multiplier=1.0)
        return fjx.compose(
            client=clients.local_sgd(
                lambda w, x, key: scale * loss_fn(w, x, key),
                optax.sgd(1e-9),
                epochs=1,
                batch_size=2,
            ),
            aggregator=aggregators.private(mechanism, 4),
        )

    result = evaluation.sweep(
        private, jnp.zeros(2), DATASET, sampler=samplers.uniform(4), rounds=1, seeds=2, progress=False,
        grid={"scale": [1.0, 2.0]}, keep=lambda state: state.params,
    )  # fmt: skip
    # Noise moves a model by 2.5e-7, and a gradient by 1e-9.
    one, two = np.asarray(result.kept, np.float64)
    assert np.linalg.norm(one - two, axis=-1).min() > 3e-8


def test_a_number_that_must_be_static_says_so():
    def of(batch_size):
        return algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=batch_size)

    with pytest.raises(TypeError, match=r"'batch_size'.*belongs into static="):
        sweep(make=of, grid={"batch_size": [1, 2]})


@pytest.mark.ci
def test_a_loss_that_is_no_mean_is_refused_also_with_a_traced_number_in_it():
    def of(scale):
        return algorithms.fedavg(
            lambda w, x, key: scale * jnp.sum((w[None] - x) ** 2), client_lr=0.1, batch_size=2
        )

    with pytest.raises(ValueError, match="not a mean over the examples"):
        sweep(make=of, grid={"scale": [0.5]})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": [1, 1]}, ValueError, "seeds must be different"),
        ({"seeds": 0}, ValueError, "at least 1"),
        ({"seeds": "5"}, TypeError, "seeds must be an integer"),
        ({"grid": {"lr": []}}, ValueError, r"grid\['lr'\] is empty"),
        ({"grid": {"lr": [compressors.identity()]}}, TypeError, "belong into static="),
        ({"grid": {"lr": [np.nan]}}, ValueError, "must be finite"),
        ({"static": {"lr": [0.1]}}, ValueError, "in grid and in static"),
        ({"static": {"uplink": compressors.identity()}}, TypeError, "a list or a dict"),
        ({"static": {"uplink": [compressors.identity()]}}, TypeError, "no name to print"),
        ({"make": make(0.1)}, TypeError, "make must be a function"),
        ({"make": lambda lr: lr}, TypeError, "algorithm must be"),
        ({"at_a_time": 0}, ValueError, "at_a_time must be at least 1"),
        ({"grid": {"lr": [0.1, -0.2]}}, ValueError, "client_lr must be greater than 0, got -0.2"),
        (
            {"make": make, "grid": {}, "static": {"lr": {"short": clients.listed([0.1, 0.1])}}},
            ValueError,
            "rounds=5 is more than the 2 rounds",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(options, error, message):
    with pytest.raises(error, match=message):
        sweep(**options)


# --------------------------------------------------------------------------------------------------
# Reports, of a sweep that nobody ran
# --------------------------------------------------------------------------------------------------

ACCURACY = np.array(
    [[0.70, 0.72, 0.71], [0.80, 0.81, 0.82], [0.799, 0.812, 0.818], [np.nan, 0.5, 0.6]]
)
SETTINGS = (
    {"lr": 0.1, "codec": "top_k"},
    {"lr": 0.3, "codec": "a&b"},
    {"lr": 1.0, "codec": "_"},
    {"lr": 9.0, "codec": "x"},
)


def told(accuracy=ACCURACY, settings=SETTINGS):
    runs = accuracy.shape
    invited = np.full((*runs, 4), 2)
    rounds = {"invited": invited, "participants": invited, "nonfinite": 0 * invited}
    scores = {
        "accuracy": np.stack([accuracy / 2, accuracy], axis=-1),
        "each": np.zeros((*runs, 2, 5)),
        "loss": np.stack([accuracy, -accuracy], axis=-1),
    }
    history = simulation.History(rounds, scores, np.broadcast_to([2, 4], (*runs, 2)))
    traffic = (fjx.Traffic(80, 800),) * len(settings)
    return evaluation.Sweep(
        settings,
        tuple(range(runs[1])),
        history,
        traffic,
        np.full(runs, 8.0),
        simulation.Timing(1.0, 2.0),
        1,
    )


def test_bold_is_better_than_every_other_pair_by_pair():
    lines = evaluation.latex_table(told(ACCURACY[:2], SETTINGS[:2]), "accuracy").splitlines()
    assert lines[4] == r"0.1 & top\_k & $0.710 \pm 0.025$ \\"
    assert lines[5] == r"0.3 & a\&b & $\mathbf{0.810 \pm 0.025}$ \\"
    whole = evaluation.latex_table(told(), {"accuracy": "acc_1"}, percent=True)
    assert "mathbf" not in whole  # the third setting is as good
    assert r"lr & codec & acc\_1 (\%) \\" in whole
    assert whole.splitlines()[7] == r"9 & x & -- \\"


def test_a_loss_is_best_where_it_is_least():
    two = told(ACCURACY[:2], SETTINGS[:2])
    assert r"\mathbf{-0.810" in evaluation.latex_table(two, "loss")
    assert r"\mathbf{-0.710" in evaluation.latex_table(two, "loss", lower_is_better=())


def test_one_seed_has_no_interval_and_no_bold():
    table = evaluation.latex_table(told(ACCURACY[:2, :1], SETTINGS[:2]), "accuracy")
    assert "$0.7$" in table
    assert "pm" not in table
    assert "mathbf" not in table


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_setting_that_diverged_is_worse_than_any_number_of_several_seeds(seeds, broken):
    two = np.array([[0.70, 0.72, 0.71], [broken] * 3])[:, :seeds]
    table = evaluation.latex_table(told(two, SETTINGS[:2]), "accuracy").splitlines()
    assert ("mathbf" in table[4]) == (seeds > 1)
    cell = {"nan": "--", "inf": r"$\infty$", "-inf": r"$-\infty$"}[str(broken)]
    assert table[5] == rf"0.3 & a\&b & {cell} \\"


def test_a_number_of_one_seed_is_set_as_mathematics():
    table = evaluation.latex_table(told(np.array([[1.5e-7], [-2e12]]), SETTINGS[:2]), "accuracy")
    assert r"$1.5 \cdot 10^{-7}$" in table
    assert r"$-2 \cdot 10^{12}$" in table


def test_a_bootstrap_interval_shows_its_ends():
    table = evaluation.latex_table(told(), "accuracy", key=jax.random.key(0))
    assert r"$0.710\ [0.700, 0.720]$" in table


def test_a_table_of_scores_by_client_is_refused():
    with pytest.raises(ValueError, match=r"'each' is no number of a run.*evaluation\.worst"):
        evaluation.latex_table(told(), "each")
    with pytest.raises(KeyError, match="there are accuracy, each, invited"):
        evaluation.latex_table(told(), "recall")


def test_rows_are_tidy_in_both_files(tmp_path):
    result = told()
    found = evaluation.rows(result)
    assert len({tuple(row) for row in found}) == 1
    evaluation.write_csv(result, tmp_path / "a" / "runs.csv")
    with open(tmp_path / "a" / "runs.csv") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["run", "seed", "lr", "codec", "round", "metric", "value"]
    (last,) = [
        x for x in lines if (x["run"], x["round"], x["metric"]) == ("5", "4", "eval/accuracy")
    ]
    assert (last["seed"], last["lr"], last["codec"], last["value"]) == ("2", "0.3", "a&b", "0.82")
    assert not [x for x in lines if x["metric"] == "eval/each"]
    evaluation.write_jsonl(result, tmp_path / "runs.jsonl")
    written = (tmp_path / "runs.jsonl").read_text()
    objects = [json.loads(line) for line in written.splitlines()]
    assert len(objects) == len(found)
    assert objects[-2]["value"] == [0.0] * 5
    assert [x["value"] for x in objects if x["run"] == 9 and x["metric"] == "eval/accuracy"] == [
        None
    ] * 2
    with pytest.raises(ValueError, match="'round' is called like a column"):
        evaluation.rows(told(ACCURACY[:1], ({"round": 1.0},)))


def test_events_of_each_run_have_a_folder(tmp_path):
    evaluation.write_tensorboard(told(ACCURACY[:2], SETTINGS[:2]), tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert (tmp_path / "lr=0.1, codec=top_k, seed=2").is_dir()


def test_a_plot_has_a_line_and_a_band_for_each_setting():
    figure = evaluation.plot(told(), "accuracy")
    rounds, sent, seconds = figure.axes
    for panel, x in ((rounds, [2, 4]), (sent, [40, 80]), (seconds, [4.0, 8.0])):
        np.testing.assert_allclose(panel.lines[1].get_xdata(), x)
        np.testing.assert_allclose(panel.lines[1].get_ydata(), [0.405, 0.81])
    (low, high) = panel.collections[1].get_paths()[0].get_extents().intervaly
    band = evaluation.t_interval(np.stack([ACCURACY[1] / 2, ACCURACY[1]]))
    np.testing.assert_allclose((low, high), (band.low.min(), band.high.max()))
    assert evaluation.plot(told(), "participants").axes[0].lines[0].get_xdata().tolist() == [
        1,
        2,
        3,
        4,
    ]
    with pytest.raises(ValueError, match="against must be among rounds, bytes, seconds"):
        evaluation.plot(told(), "accuracy", against=["steps"])
