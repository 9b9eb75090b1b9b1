"""Text with columns of numbers beside it, through every step: fit, predict, export, trainers."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import FAST
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from implicitrm_sk import (
    BatchedSearchCV,
    ImplicitRewardEstimator,
    LLMEmbedder,
    identification_report,
)
from implicitrm_sk.inspection import reward_interval, shift_report
from implicitrm_sk.integrations import (
    evaluate_pairs,
    rank,
    reward_function,
    to_preference_dataset,
    to_transformers,
)

# The fits are short: most members could have trained for longer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::implicitrm_sk.exceptions.IdentificationWarning"),
]
SIDE = ["position", "hour"]
N = 160


def make_table(n=N, seed=0):
    """Return a table of text, columns beside it, and two signals that depend on both."""
    rng = np.random.default_rng(seed)
    good = rng.random(n) < 0.5
    table = pd.DataFrame(
        {
            "id": np.arange(n),
            "prompt": [f"Question {i % 40}?" for i in range(n)],
            "response": [f"{'yes' if one else 'no'} {i}" for i, one in enumerate(good)],
            "position": rng.integers(1, 4, n),
            "hour": rng.uniform(0, 24, n),
            "user": np.resize(["ann", "bob", "eve"], n),
        }
    )
    y = good[:, None] & (rng.random((n, 2)) < (0.9 / table["position"].to_numpy())[:, None])
    return table, y.astype(int)


TABLE, Y = make_table()
PAIRS = list(zip(TABLE["prompt"], TABLE["response"], strict=True))
SETTINGS = FAST | {"max_epochs": 3, "early_stopping": False}


@pytest.fixture(scope="module")
def embedder(tiny_model, tmp_path_factory):
    return LLMEmbedder(tiny_model(), cache_dir=tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def vectors(embedder):
    return copy.deepcopy(embedder).fit_transform(PAIRS)


@pytest.fixture(scope="module")
def estimator(embedder):
    return ImplicitRewardEstimator(embedder=embedder, propensity_features=SIDE, **SETTINGS)


@pytest.fixture(scope="module")
def fitted(estimator):
    return copy.deepcopy(estimator).fit(TABLE, Y)


@pytest.fixture(scope="module")
def pipeline(embedder):
    """Return what the docs suggest for columns that are no numbers: both in a ColumnTransformer."""
    return make_pipeline(
        ColumnTransformer(
            [
                ("text", embedder, ["prompt", "response"]),
                ("context", OneHotEncoder(sparse_output=False), ["user", "position"]),
            ]
        ),
        ImplicitRewardEstimator(propensity_features=slice(32, None), **SETTINGS),
    ).fit(TABLE, Y)


# ---------------------------------------------------------------------- the same as by position


def test_names_on_a_text_table_are_positions_on_vectors(fitted, vectors):
    rows = np.column_stack([vectors, TABLE[SIDE].to_numpy()])
    reference = ImplicitRewardEstimator(propensity_features=[32, 33], **SETTINGS).fit(rows, Y)
    assert fitted.side_columns_ == ("position", "hour")
    assert fitted.n_features_in_ == 34
    assert_array_equal(fitted.reward_columns_, np.arange(32))
    assert_array_equal(fitted.propensity_columns_, [32, 33])
    assert fitted.identification_ == reference.identification_
    assert_allclose(fitted.predict(TABLE), reference.predict(rows), atol=1e-5)
    assert_allclose(fitted.propensity(TABLE), reference.propensity(rows), atol=1e-5)
    assert fitted.score(TABLE, Y) == pytest.approx(reference.score(rows, Y), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "reward", "propensity"),
    [
        ({"propensity_features": "hour"}, range(32), [32]),
        ({"propensity_features": ["hour", "position"]}, range(32), [32, 33]),
        ({"propensity_features": ["response", "hour"], "reward_features": "prompt"}, range(32),
         range(33)),
        ({"reward_features": ["response", "hour"], "propensity_features": "position"},
         [*range(32), 33], [32]),
        ({"reward_features": slice(0, 32), "propensity_features": ["hour"]}, range(32), [32]),
        ({"propensity_features": lambda X: ["hour"]}, range(32), [32]),
        ({"propensity_features": lambda X: X.columns == "hour"}, range(32), [32]),
        ({"propensity_features": lambda X: [3, 4]}, range(32), [32, 33]),
        ({"propensity_features": make_column_selector("^pos")}, range(32), [32]),
        ({"reward_features": "response"}, range(32), None),
    ],
)  # fmt: skip
def test_which_columns_the_heads_read(settings, reward, propensity, embedder):
    est = ImplicitRewardEstimator(embedder=embedder, **SETTINGS | settings)
    if propensity is None:
        with pytest.raises(ValueError, match="propensity_features=None"):
            est.fit(TABLE, Y)
        return
    est.fit(TABLE, Y)
    assert_array_equal(est.reward_columns_, list(reward))
    assert_array_equal(est.propensity_columns_, list(propensity))
    assert np.isfinite(est.propensity(TABLE)).all()


def as_dicts(table):
    return table.to_dict("records")


def as_nullable(table):
    return table.convert_dtypes()


def as_arrow(table):
    return pytest.importorskip("pyarrow").Table.from_pandas(table)


def as_dataset(table):
    return pytest.importorskip("datasets").Dataset.from_pandas(table)


def as_polars(table):
    return pytest.importorskip("polars").from_pandas(table)


def as_shuffled_columns(table):
    return table[table.columns[::-1]]


@pytest.mark.parametrize(
    "form", [as_dicts, as_nullable, as_arrow, as_dataset, as_polars, as_shuffled_columns]
)
def test_any_table_gives_the_same_rewards(form, estimator, fitted):
    table = form(TABLE)
    columns = getattr(table, "column_names", getattr(table, "columns", ()))
    if form is as_arrow and not hasattr(table, "columns"):
        pytest.skip(f"not a table with columns: {columns}")
    assert_allclose(fitted.predict(table), fitted.predict(TABLE), atol=1e-6)
    assert_allclose(fitted.propensity(table), fitted.propensity(TABLE), atol=1e-6)
    if form is as_dicts:
        again = copy.deepcopy(estimator).fit(table, Y)
        assert_allclose(again.propensity(TABLE), fitted.propensity(TABLE), atol=1e-6)


# ---------------------------------------------------------------------- without these columns


def test_the_reward_needs_text_alone(fitted, vectors):
    reward = fitted.predict(TABLE)
    for X in (PAIRS, TABLE[["prompt", "response"]], TABLE.assign(hour=np.nan), as_dicts(TABLE[
        ["prompt", "response"]])):  # fmt: skip
        assert_allclose(fitted.predict(X), reward, atol=1e-6)
        assert_allclose(fitted.decision_function(X), fitted.decision_function(TABLE), atol=1e-4)
    assert_allclose(fitted.predict(vectors), reward, atol=1e-5)


@pytest.mark.parametrize("method", ["propensity", "predict_action", "predict_proba"])
def test_other_methods_name_what_is_missing(method, fitted):
    with pytest.raises(ValueError, match=r"lacks the columns \['position', 'hour'\]"):
        getattr(fitted, method)(PAIRS)
    with pytest.raises(ValueError, match=r"lacks the columns \['hour'\]"):
        getattr(fitted, method)(TABLE.drop(columns="hour"))
    with pytest.raises(ValueError, match=r"propensity columns \['hour'\]"):
        getattr(fitted, method)(TABLE.assign(hour=np.nan))


def test_a_column_that_the_reward_reads_is_needed(embedder):
    est = ImplicitRewardEstimator(
        embedder=embedder,
        reward_features=["response", "hour"],
        propensity_features="position",
        **SETTINGS,
    ).fit(TABLE, Y)
    with pytest.raises(ValueError, match=r"lacks the columns \['hour'\]"):
        est.predict(PAIRS)
    assert np.isfinite(est.predict(TABLE.drop(columns="position"))).all()
    with pytest.raises(ValueError, match=r"reward reads the columns \['hour'\] beside the text"):
        reward_function(est)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda t: PAIRS, {}, "names the columns .*, but X does not have column names"),
        (lambda t: t.drop(columns="hour"), {}, "names the column 'hour', which X lacks"),
        (lambda t: t.assign(hour="noon"), {}, "column 'hour' of X.* cannot be read as numbers"),
        (
            lambda t: t.assign(hour=pd.Timestamp("2026-01-01")),
            {},
            "column 'hour' of X.* cannot be read as numbers .*Encode it first",
        ),
        (lambda t: t, {"propensity_features": ["user"]}, "column 'user' of X.* user_id to fit"),
        (lambda t: t.assign(hour=np.nan), {}, r"propensity columns \['hour'\]"),
    ],
)
def test_what_fit_refuses(change, settings, message, estimator):
    est = copy.deepcopy(estimator).set_params(**settings)
    with pytest.raises(ValueError, match=message):
        est.fit(change(TABLE), Y)


def test_numbers_are_not_rounded_where_it_matters(embedder):
    stamp = 1.7e9 + np.arange(N) % 60  # seconds: float32 knows multiples of 128
    est = ImplicitRewardEstimator(embedder=embedder, propensity_features="time", **SETTINGS)
    est.fit(TABLE.assign(time=stamp), Y)
    assert est.scaler_.scale_[-1] == pytest.approx(stamp.std(), rel=1e-6)


def test_a_fit_on_vectors_after_one_on_text_forgets_the_names(estimator, vectors):
    est = copy.deepcopy(estimator).fit(TABLE, Y)
    est.set_params(propensity_features=None).fit(vectors, Y)
    assert not hasattr(est, "side_columns_")
    new = copy.deepcopy(estimator).partial_fit(TABLE, Y).partial_fit(TABLE[::-1], Y[::-1])
    assert new.side_columns_ == ("position", "hour")


# ---------------------------------------------------------------------- every further step


def test_searches_and_cross_validation(estimator, fitted):
    est = copy.deepcopy(estimator)
    found = cross_val_predict(est, TABLE, Y, cv=2)
    half = copy.deepcopy(estimator).fit(TABLE[80:], Y[80:]).predict(TABLE[:80])
    assert_allclose(found[:80], half, atol=1e-5)
    grid = {"learning_rate_init": [0.003, 0.01]}
    plain = GridSearchCV(est, grid, cv=2, error_score="raise").fit(TABLE, Y)
    together = BatchedSearchCV(est, grid, cv=2, error_score="raise").fit(TABLE, Y)
    assert_allclose(
        plain.cv_results_["mean_test_score"], together.cv_results_["mean_test_score"], atol=1e-4
    )
    assert together.best_estimator_.side_columns_ == ("position", "hour")


@pytest.mark.filterwarnings("ignore::implicitrm_sk.exceptions.ShiftWarning")
def test_reports(estimator, fitted):
    report = identification_report(estimator, TABLE, Y, n_starts=2)
    assert report.settings.level == fitted.identification_.level
    interval = reward_interval(estimator, TABLE, Y, TABLE[:30], n_bootstrap=20)
    assert (interval.low <= interval.high).all()
    assert shift_report(fitted, TABLE[:80], TABLE[80:], random_state=0).auc > 0


@pytest.mark.filterwarnings("ignore:the embedder had cache_dir")
def test_saved_and_pickled(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    for same in (
        ImplicitRewardEstimator.load(tmp_path / "model"),
        pickle.loads(pickle.dumps(fitted)),
    ):
        assert same.side_columns_ == ("position", "hour")
        assert_allclose(same.predict(PAIRS), fitted.predict(TABLE), atol=1e-6)
        assert_allclose(same.propensity(TABLE), fitted.propensity(TABLE), atol=1e-6)


def rewards_of_export(export, pairs):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(export.path, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(export.path)
    found = []
    for prompt, response in pairs:
        chat = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            found.append(float((model(**inputs).logits + export.logit_shift).sigmoid()))
    return found


@pytest.mark.parametrize("kind", ["estimator", "pipeline", "linear"])
def test_to_transformers_leaves_the_other_columns_behind(
    kind, fitted, pipeline, estimator, tmp_path
):
    est = {"estimator": fitted, "pipeline": pipeline}.get(kind)
    if est is None:
        est = copy.deepcopy(estimator)
        est.set_params(hidden_layer_sizes=(), n_estimators=1, embedder__pooling="last")
        est.fit(TABLE, Y)
    export = to_transformers(est, None, tmp_path / "rm")
    assert export.custom_code == (kind != "linear")
    assert_allclose(rewards_of_export(export, PAIRS[:4]), est.predict(TABLE[:4]), atol=1e-4)


def test_to_transformers_refuses_a_reward_of_other_columns(embedder, tmp_path):
    est = ImplicitRewardEstimator(
        embedder=embedder,
        reward_features=["response", "hour"],
        propensity_features="position",
        **SETTINGS,
    ).fit(TABLE, Y)
    with pytest.raises(ValueError, match=r"reads the columns \['hour'\] beside the text"):
        to_transformers(est, None, tmp_path / "rm")


@pytest.mark.parametrize("kind", ["estimator", "pipeline"])
def test_trainers_rankings_and_data_sets_get_text_alone(kind, fitted, pipeline):
    est = fitted if kind == "estimator" else pipeline
    expected = est.predict(TABLE)
    prompts, responses = (TABLE[name].tolist() for name in ("prompt", "response"))
    reward = pickle.loads(pickle.dumps(reward_function(est)))
    assert_allclose(reward(prompts, responses, position=[1] * N), expected, atol=1e-6)
    ranking = rank(est, prompts[0], [responses[0], responses[1]])
    assert ranking.reward[0] == pytest.approx(expected[0], abs=1e-6)
    pairs = TABLE[["prompt"]].assign(chosen=responses, rejected=responses[::-1])
    assert_allclose(evaluate_pairs(est, pairs).reward_chosen, expected, atol=1e-6)
    data = to_preference_dataset(est, TABLE, output="pandas")
    assert_allclose(data["weight"], np.abs(2 * expected - 1), atol=1e-5)


# ---------------------------------------------------------------------- pipelines


def test_a_pipeline_reads_tables_with_and_without_the_columns(pipeline):
    from implicitrm_sk._pipeline import split_pipeline

    est, transform = split_pipeline(pipeline)
    reward = pipeline.predict(TABLE)
    for X in (TABLE, TABLE[["prompt", "response"]], PAIRS, as_dicts(TABLE)):
        assert_allclose(est.predict(transform(X)), reward, atol=1e-6)
    with pytest.raises(ValueError, match="columns are missing"):
        transform(TABLE.drop(columns="prompt"))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("pandas_output", [False, True])
def test_pipelines_of_other_forms(scaled, pandas_output, embedder):
    columns = ColumnTransformer(
        [
            ("context", OneHotEncoder(sparse_output=False), ["user"]),
            ("text", make_pipeline(embedder, StandardScaler()), ["prompt", "response"]),
        ]
    )
    selected = [0, 1, 2]
    if pandas_output:
        columns.set_output(transform="pandas")
        selected = make_column_selector("^context__")
    steps = [columns, *([StandardScaler()] if scaled else [])]
    if pandas_output and scaled:
        steps[1].set_output(transform="pandas")
    est = ImplicitRewardEstimator(propensity_features=selected, **SETTINGS)
    pipe = make_pipeline(*steps, est).fit(TABLE, Y)
    reward = reward_function(pipe)
    prompts, responses = (TABLE[name].tolist() for name in ("prompt", "response"))
    assert_allclose(reward(prompts, responses), pipe.predict(TABLE), atol=1e-5)


def test_pipelines_that_cannot_score_text_are_refused_before_training(embedder):
    numbers = make_pipeline(StandardScaler(), ImplicitRewardEstimator(**SETTINGS))
    with pytest.raises(ValueError, match="starts with StandardScaler, which does not read text"):
        reward_function(numbers.fit(TABLE[SIDE], Y))
    both = make_pipeline(
        ColumnTransformer(
            [("text", embedder, ["prompt", "response"]), ("rest", "passthrough", SIDE)]
        ),
        ImplicitRewardEstimator(**SETTINGS),
    )
    with pytest.raises(ValueError, match="reads columns beside the text"):
        reward_function(both.fit(TABLE, Y))
