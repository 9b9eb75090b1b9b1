import copy
import gzip
import inspect
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from stars import Stars

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._optional import import_optional
from implicitrm_sk.datasets import (
    FeedbackData,
    fetch_helpsteer,
    fetch_pku_saferlhf,
    fetch_ultrafeedback,
    load_rated_responses,
    simulate_feedback,
)
from implicitrm_sk.datasets._rated import _prompt_id_hash
from implicitrm_sk.signals import Action, Choice

SHARED = Path(os.environ.get("IMPLICITRM_DATA", Path(__file__).parents[2] / "shared" / "data"))
N = 40_000


# The container


def test_fit_params_are_what_fit_takes_and_never_the_truth():
    given = {name: np.arange(3) for name in inspect.signature(FeedbackData).parameters}
    given.pop("further")
    data = FeedbackData(**given, rating=[1, 2, 3], propensity=[0.5, 0.5, 0.5])
    assert set(data.fit_params()) == {"user_id", "groups", "response_id", "exposures"}
    # An argument of fit that the container has by now belongs into fit_params.
    taken = set(inspect.signature(ImplicitRewardEstimator.fit).parameters)
    assert taken & set(given) == {"X", *data.fit_params()}
    assert FeedbackData(true_preference=[1]).fit_params() == {}
    with pytest.raises(TypeError, match="X is a FeedbackData, .* data.actions"):
        ImplicitRewardEstimator().fit(data, [1, 0, 1])


def test_feedback_data_is_a_mapping_too():
    data = FeedbackData([[1.0], [2.0]], np.array([1, 0]), signals=["negative"], views=[3, 4])
    assert data["X"] is data.X and data.views == data["views"] == [3, 4]
    assert data.groups is None and data["time"] is None and "true_preference" in data
    data.groups = [0, 1]
    assert data["groups"] == [0, 1] and data.fit_params() == {"groups": [0, 1]}
    with pytest.raises(AttributeError, match="preference"):
        data.preference  # noqa: B018
    assert repr(data) == "FeedbackData(X, actions (2,), signals, groups, views)"
    assert {"X", "views", "fit_params"} <= set(dir(data))
    for twin in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert type(twin) is FeedbackData and twin.keys() == data.keys()
        assert twin.actions.tolist() == [1, 0] and twin.fit_params() == data.fit_params()


# Optional packages


def test_missing_package_names_purpose_and_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'needs.*pandas.*pip install "implicitrm-sk\[data\]"'):
        import_optional("pandas", "data", "Reading a parquet file")


def test_loader_without_pyarrow(monkeypatch, tmp_path):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"'toy.parquet' needs.*pyarrow.*implicitrm-sk\[data\]"):
        load_rated_responses("toy", tmp_path)


def test_simulator_needs_no_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert simulate_feedback([0, 1, 1], propensity="constant").actions.shape == (3,)


# Published data sets: small repositories of the same layout


def helpsteer(folder):
    for name, ratings in (("train.jsonl.gz", [4, 0, 3]), ("validation.jsonl.gz", [2])):
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            for i, rating in enumerate(ratings):
                record = {"prompt": f"p{i // 2}", "response": f"é{i}", "helpfulness": rating}
                file.write(json.dumps(record | {"correctness": 1, "verbosity": 2}) + "\n")
    return fetch_helpsteer


def ultrafeedback(folder):
    pandas = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')
    (folder / "data").mkdir()
    for split, scores in (("train_prefs", [(8.0, 6.5), (6.0, 3.5)]), ("test_prefs", [(9.0, 7.0)])):
        rows = [
            {
                "prompt": f"p{i}",
                **{
                    side: [
                        {"content": f"p{i}", "role": "user"},
                        {"content": f"{side}{i}", "role": "assistant"},
                    ]
                    for side in ("chosen", "rejected")
                },
                "score_chosen": chosen,
                "score_rejected": rejected,
            }
            for i, (chosen, rejected) in enumerate(scores)
        ]
        pandas.DataFrame(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "data" / "train_sft-00000-of-00001.parquet").touch()  # is not read
    return fetch_ultrafeedback


def pku_saferlhf(folder):
    for model in ("Alpaca-7B", "Alpaca2-7B"):
        (folder / "data" / model).mkdir(parents=True)
        for split, severities in (("train", [(0, 3)]), ("test", [(1, 2)])):
            lines = [
                json.dumps(
                    {
                        "prompt": f"{model} {split}",
                        "response_0": "a",
                        "response_1": "b",
                        "response_0_severity_level": first,
                        "response_1_severity_level": second,
                    }
                )
                for first, second in severities
            ]
            (folder / "data" / model / f"{split}.jsonl").write_text("\n".join(lines) + "\n\n")
    return fetch_pku_saferlhf


@pytest.mark.parametrize(
    ("write_repository", "rating", "preference", "responses", "groups", "n_train"),
    [
        (helpsteer, [4, 0, 3, 2], [1, 0, 1, 0], ["é0", "é1", "é2", "é0"], [0, 0, 1, 0], 3),
        (
            ultrafeedback,
            [8, 6.5, 6, 3.5, 9, 7],
            [1, 0, 0, 0, 1, 1],
            ["chosen0", "rejected0", "chosen1", "rejected1", "chosen0", "rejected0"],
            [0, 0, 1, 1, 0, 0],
            4,
        ),
        (
            pku_saferlhf,
            [0, 3, 0, 3, 1, 2, 1, 2],
            [0, 1, 0, 1, 0, 1, 0, 1],
            ["a", "b"] * 4,
            [0, 0, 1, 1, 2, 2, 3, 3],
            4,
        ),
    ],
)
def test_published_data_sets(
    write_repository, rating, preference, responses, groups, n_train, tmp_path
):
    pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    data = write_repository(tmp_path)(tmp_path)
    assert data.rating.tolist() == rating
    assert data.true_preference.tolist() == preference
    assert data.response.tolist() == responses
    assert data.groups.tolist() == groups
    assert (~data.is_test).tolist() == [i < n_train for i in range(len(rating))]
    assert data.X is None
    assert ((data.rating > data.threshold) == data.true_preference).all()
    assert {"prompt", "response", "rating", "split"} <= set(data.frame.columns)


def test_published_data_set_from_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    asked = {}

    def snapshot_download(repository, **kwargs):
        asked.update(kwargs, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    helpsteer(tmp_path)
    with pytest.warns(UserWarning, match="3 training and 1 test rows.*published with 35331"):
        data = fetch_helpsteer(revision="abc", cache_dir="cache")
    assert data.name == "HelpSteer"
    assert asked == {
        "repository": "nvidia/HelpSteer",
        "repo_type": "dataset",
        "revision": "abc",
        "cache_dir": "cache",
        "allow_patterns": ["train.jsonl.gz", "validation.jsonl.gz"],
    }


def test_published_data_set_without_network(monkeypatch, tmp_path):
    import huggingface_hub.constants

    pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="PKU-SafeRLHF could not be downloaded.*pass its folder"):
        fetch_pku_saferlhf(cache_dir=tmp_path)


def test_published_data_set_that_has_changed(tmp_path):
    pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        fetch_helpsteer(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder, which does not have a revision"):
        fetch_helpsteer(tmp_path, revision="main")
    (tmp_path / "other.csv").touch()
    with pytest.raises(ValueError, match=r"lacks the file 'train.jsonl.gz'.*other.csv.*revision="):
        fetch_helpsteer(tmp_path)
    helpsteer(tmp_path)
    lines = [{"prompt": "p", "response": "r", "helpfulness": rating} for rating in (1, None)]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    with pytest.warns(UserWarning, match="1 rows without a rating"):
        assert fetch_helpsteer(tmp_path).rating.tolist() == [1, 2]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write('{"question": "p"}')
    with pytest.raises(ValueError, match="train split differs from the published.*KeyError"):
        fetch_helpsteer(tmp_path)


# Loader


def write(folder, name="toy", encoders=("smollm2",), *, drop=(), tensors=None, **columns):
    """Write a small data set; a tensor or column given replaces the right one."""
    pandas = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
    pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')
    from safetensors.numpy import save_file

    frame = pandas.DataFrame(
        {
            "prompt_id": ["p0", "p0", "p1", "p2"],
            "prompt": ["a", "a", "b", "c"],
            "response": ["x", "y", "z", ""],
            "rating": [1.0, 0.0, 0.3, 7.3],
            "split": ["train", "train", "test", "test"],
            "views": [5, 6, 7, 8],
        }
    )
    for column, values in columns.items():
        frame[column] = values
    frame = frame.drop(columns=list(drop))
    frame.to_parquet(folder / f"{name}.parquet")
    right = {
        "embeddings": np.arange(12, dtype=np.float32).reshape(4, 3),
        "labels": np.array([1.0, 0.0, 0.3, 7.3], dtype=np.float32),
        "prompt_id_hash": _prompt_id_hash(["p0", "p0", "p1", "p2"]),
        "is_test": np.array([False, False, True, True]),
    }
    right.update(tensors or {})
    for encoder in encoders:
        save_file(
            {key: value for key, value in right.items() if value is not None},
            folder / f"{name}_{encoder}.safetensors",
            metadata={"encoder": f"about {encoder}"},
        )
    return folder


def test_load_all_fields(tmp_path):
    data = load_rated_responses("toy", write(tmp_path))
    assert isinstance(data, FeedbackData)
    assert data.X.dtype == np.float32 and data.X.shape == (4, 3)
    np.testing.assert_array_equal(data.X, np.arange(12).reshape(4, 3))
    assert data.prompt.tolist() == ["a", "a", "b", "c"]
    assert data.response.tolist() == ["x", "y", "z", ""]
    assert data.rating.dtype == np.float64 and data.rating.tolist() == [1.0, 0.0, 0.3, 7.3]
    assert data.prompt_id.tolist() == ["p0", "p0", "p1", "p2"]
    assert data.groups.dtype == np.int64 and data.groups.tolist() == [0, 0, 1, 2]
    assert data.is_test.dtype == bool and data.is_test.tolist() == [False, False, True, True]
    assert data.frame["views"].tolist() == [5, 6, 7, 8]
    assert (data.name, data.encoder, data.encoder_description) == (
        "toy",
        "smollm2",
        "about smollm2",
    )
    data.X[0, 0] = -1  # an own, writable copy


def test_load_by_path_and_embeddings_path(tmp_path):
    write(tmp_path)
    by_path = load_rated_responses(tmp_path / "toy.parquet", data_home="not used")
    assert by_path.name == "toy" and by_path.encoder == "smollm2"
    other = tmp_path / "mine.safetensors"
    (tmp_path / "toy_smollm2.safetensors").rename(other)
    assert load_rated_responses("toy", tmp_path).X is None
    data = load_rated_responses("toy", tmp_path, embeddings=str(other))
    assert data.encoder == "mine" and data.X.shape == (4, 3)


def test_data_home_from_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPLICITRM_DATA", str(write(tmp_path)))
    assert load_rated_responses("toy").name == "toy"
    monkeypatch.delenv("IMPLICITRM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"implicitrm_data.*default of data_home"):
        load_rated_responses("toy")
    (tmp_path / "implicitrm_data").mkdir()
    write(tmp_path / "implicitrm_data", "other", ())
    assert load_rated_responses("other").name == "other"


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ((), None),
        (("zeta",), "zeta"),
        (("alpha", "minilm", "smollm2"), "smollm2"),
        (("alpha", "minilm"), "minilm"),
        (("beta", "alpha"), "alpha"),
    ],
)
def test_choice_of_encoder(tmp_path, available, chosen):
    assert load_rated_responses("toy", write(tmp_path, encoders=available)).encoder == chosen


def test_encoder_of_a_set_with_longer_name_is_not_taken(tmp_path):
    write(tmp_path, encoders=())
    write(tmp_path, "toy_test", ("minilm",))
    assert load_rated_responses("toy", tmp_path).encoder is None
    assert load_rated_responses("toy_test", tmp_path).encoder == "minilm"


def test_optional_columns_and_tensors(tmp_path):
    write(tmp_path, drop=("prompt_id", "split"), tensors={"labels": None})
    data = load_rated_responses("toy", tmp_path)
    assert data.groups.tolist() == [0, 0, 1, 2]
    assert data.prompt_id[0] == data.prompt_id[1] != data.prompt_id[2]
    assert len(data.prompt_id[0]) == 16
    assert data.is_test.tolist() == [False, False, True, True]  # from the embeddings
    write(tmp_path, drop=("split",), tensors={"is_test": None})
    assert load_rated_responses("toy", tmp_path).is_test is None


def test_bfloat16_embeddings(tmp_path):
    import torch
    from safetensors.torch import save_file

    write(tmp_path, encoders=())
    stored = torch.tensor([[1.5, -2.0]] * 4, dtype=torch.bfloat16)
    save_file({"embeddings": stored}, tmp_path / "toy_bf.safetensors")
    data = load_rated_responses("toy", tmp_path)
    assert data.X.dtype == np.float32 and data.X[0].tolist() == [1.5, -2.0]
    assert data.encoder_description is None


def test_integer_and_boolean_ratings(tmp_path):
    for rating in ([3, 0, 1, 2], [True, False, True, True]):
        write(tmp_path, encoders=(), rating=rating)
        data = load_rated_responses("toy", tmp_path)
        assert data.rating.dtype == np.float64 and data.rating.tolist() == [
            float(r) for r in rating
        ]


def test_missing_files_list_what_is_there(tmp_path):
    write(tmp_path, encoders=("minilm", "smollm2"))
    with pytest.raises(FileNotFoundError, match=r"no data set 'nope'.*Data sets there: toy\."):
        load_rated_responses("nope", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nope.parquet' is not a file.*: toy.parquet"):
        load_rated_responses(tmp_path / "nope.parquet")
    with pytest.raises(FileNotFoundError, match=r"encoder='bert'.*Encoders there: minilm, smollm2"):
        load_rated_responses("toy", tmp_path, encoder="bert")
    with pytest.raises(FileNotFoundError, match=r"embeddings='none.safetensors' is not a file"):
        load_rated_responses("toy", tmp_path, embeddings="none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"'absent' \(from data_home\) does not exist"):
        load_rated_responses("toy", "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Data sets there: none"):
        load_rated_responses("toy", tmp_path / "empty")


def test_bad_arguments(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="name must be the name of a data set.*None"):
        load_rated_responses(None)
    with pytest.raises(ValueError, match="Pass one of them"):
        load_rated_responses("toy", tmp_path, encoder="smollm2", embeddings="x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ("rating", "prompt")}, r"lacks the column\(s\) prompt, rating. Columns found:"),
        ({"rating": [1.0, np.nan, np.nan, 0.0]}, r"'rating'.*2 missing.*first in row 1. Drop"),
        ({"rating": [1.0, np.inf, 1.0, 0.0]}, r"'rating'.*infinite value in row 1"),
        ({"rating": list("abcd")}, r"'rating'.*must hold numbers.*to_numeric"),
        ({"response": ["a", None, "b", "c"]}, r"'response'.*1 missing.*row 1"),
        ({"prompt": [1, 2, 3, 4]}, r"'prompt'.*must hold text, but row 0 holds a int"),
        ({"prompt_id": ["p0", None, "p1", "p2"]}, r"'prompt_id'.*1 missing"),
        ({"split": ["train", "val", "test", "test"]}, r"'split'.*also holds 'val'"),
        ({"split": ["train", None, "test", "test"]}, r"'split'.*1 missing"),
        (
            {"tensors": {"embeddings": None}},
            r"lacks the tensor 'embeddings'. It has the tensors is",
        ),
        ({"tensors": {"embeddings": np.ones((3, 2))}}, r"\(3, 2\) in 'embeddings'.*has 4 rows"),
        ({"tensors": {"embeddings": np.ones(4)}}, r"must have shape \(n, d\), got \(4,\)"),
        (
            {"tensors": {"embeddings": np.full((4, 2), np.nan)}},
            r"NaN or infinity; the first is in row 0",
        ),
        ({"tensors": {"labels": np.ones(3)}}, r"\(3,\) in 'labels'.*has 4 rows"),
        ({"tensors": {"labels": np.ones(4)}}, r"'labels'.*differs.*'rating'.*3 of 4 rows.*row 1"),
        ({"tensors": {"is_test": np.ones(4, bool)}}, r"'is_test'.*differs.*'split'.*2 of 4"),
        ({"tensors": {"prompt_id_hash": np.arange(4)}}, r"'prompt_id_hash'.*differs.*4 of 4"),
        ({"prompt_id": ["p0", "p1", "p0", "p2"]}, r"'prompt_id_hash'.*2 of 4 rows.*row 1"),
    ],
)
def test_bad_files(tmp_path, change, message):
    write(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        load_rated_responses("toy", tmp_path)


def test_empty_and_unreadable_files(tmp_path):
    pandas = pytest.importorskip("pandas")
    write(tmp_path)
    pandas.read_parquet(tmp_path / "toy.parquet").iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"'none.parquet' has no rows"):
        load_rated_responses("none", tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad.parquet' could not be read as a parquet file"):
        load_rated_responses("bad", tmp_path)
    (tmp_path / "toy_smollm2.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"could not be read as a safetensors file"):
        load_rated_responses("toy", tmp_path)


@pytest.mark.parametrize(
    ("name", "encoder", "shape", "n_groups"),
    [
        ("beavertails_test", None, (3019, 576), 2526),
        ("beavertails_test", "minilm", (3019, 384), 2526),
        ("pku_saferlhf_safe", "smollm2", (4586, 576), 930),
        ("ultrafeedback_binarized_1200", "smollm2", (2393, 576), 1200),
        ("alpaca_eval2_gpt4turbo", None, (6440, 384), 805),
        ("realhumaneval_copy", None, (1050, 576), 1030),
        ("cups_copilot_accept", None, (961, 384), 849),
        ("counselchat_upvotes", None, (2009, 384), 815),
    ],
)
def test_shared_data(name, encoder, shape, n_groups):
    pytest.importorskip("pyarrow")
    if not (SHARED / f"{name}.parquet").is_file():
        pytest.skip(f"{name}.parquet is not in ../shared/data nor in IMPLICITRM_DATA")
    data = load_rated_responses(name, SHARED, encoder=encoder)
    assert data.X.shape == shape
    assert data.groups.max() + 1 == n_groups
    assert 0 < data.is_test.sum() < len(data.rating)
    if name == "counselchat_upvotes":
        assert (data.frame["views"] >= 0).all()


# Simulator


@pytest.fixture(scope="module")
def features():
    X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    X[:, 1] *= 1000
    X[:, 2] = 3
    return X


@pytest.fixture(scope="module")
def preference(features):
    return 1 / (1 + np.exp(-features[:, 0].astype(float)))


def assert_rate(values, probability, n_sigma=4):
    """Mean of independent draws within 4 standard errors of the mean probability."""
    values = np.asarray(values, dtype=float)
    probability = np.broadcast_to(probability, values.shape)
    error = np.sqrt((probability * (1 - probability)).sum()) / values.size
    assert abs(values.mean() - probability.mean()) <= n_sigma * error + 1e-12


def test_default_is_the_reference_log(features, preference):
    log = simulate_feedback(preference, X=features, n_signals=2, random_state=3)
    Z = features.astype(float) - features.mean(axis=0, dtype=float)
    Z = Z / np.where(features.std(axis=0) > 0, features.std(axis=0, dtype=float), 1)
    logit = np.log(log.propensity / (1 - log.propensity))
    s = (logit + 0.4) / 1.5
    np.testing.assert_allclose(s.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(s.std(axis=0), 1, atol=1e-9)
    residual = np.linalg.lstsq(Z, s, rcond=None)[1]
    assert (residual < 1e-8 * N).all()
    assert abs(np.corrcoef(s.T)[0, 1]) < 0.999
    y, r = log.actions, log.true_preference.astype(bool)
    assert y.dtype == np.int64 and set(np.unique(y)) == {0, 1}
    assert (y[~r] == 0).all()
    np.testing.assert_array_equal(y, log.true_preference[:, None] * log.activity)
    assert_rate(r, preference)
    for k in range(2):
        assert_rate(log.activity[:, k], log.propensity[:, k])
        assert_rate(y[r, k], log.propensity[r, k])
        low = log.propensity[:, k] < 0.3
        assert_rate(log.activity[low, k], log.propensity[low, k])
    # Given r* and A the signals are independent.
    joint = log.propensity[:, 0] * log.propensity[:, 1]
    assert_rate(log.activity.prod(axis=1), joint)
    np.testing.assert_array_equal(log.reward, preference)
    assert log.logged.all() and (log.false_action_rate == 0).all()


def test_slope_and_intercept_per_signal(features, preference):
    log = simulate_feedback(
        preference, X=features, n_signals=2, slope=[0, 2], intercept=[1, 0], random_state=0
    )
    np.testing.assert_allclose(log.propensity[:, 0], 1 / (1 + np.exp(-1)))
    assert log.propensity[:, 1].std() > 0.2


def test_constant(preference):
    log = simulate_feedback(
        preference, propensity="constant", rate=[0.2, 1], n_signals=2, random_state=0
    )
    np.testing.assert_array_equal(np.unique(log.propensity, axis=0), [[0.2, 1]])
    assert_rate(log.activity[:, 0], 0.2)
    np.testing.assert_array_equal(log.actions[:, 1], log.true_preference)


def test_rating_dependent_is_the_formula_of_the_paper():
    rating = np.random.default_rng(0).integers(0, 5, N).astype(float)
    log = simulate_feedback(
        rating=rating, propensity="rating", rate=0.2, rating_decay=0.5, random_state=0
    )
    np.testing.assert_array_equal(log.true_preference, rating > 2)
    q = 0.5 ** (4 - rating)
    np.testing.assert_allclose(log.propensity, 0.2 * N / q.sum() * q)
    assert log.propensity.mean() == pytest.approx(0.2)
    assert_rate(log.activity, log.propensity)
    clipped = simulate_feedback(
        rating=rating, propensity="rating", rate=0.9, rating_decay=0.1, random_state=0
    )
    assert clipped.propensity.max() == 1 and clipped.propensity.mean() < 0.9
    np.testing.assert_array_equal(
        simulate_feedback(rating=rating, propensity="constant", threshold=3.5).true_preference,
        rating > 3.5,
    )


def test_user_dependent(preference):
    user = np.array([f"user {i}" for i in np.random.default_rng(1).integers(0, 500, N)])
    kwargs = {"propensity": "user", "user_id": user, "n_signals": 2, "random_state": 0}
    log = simulate_feedback(preference, **kwargs)
    for name in np.unique(user)[:20]:
        assert len(np.unique(log.propensity[user == name], axis=0)) == 1
    _, first = np.unique(user, return_index=True)
    logit = np.log(log.propensity / (1 - log.propensity))[first]
    assert abs(logit.mean() + 0.4) < 4 * 1.5 / np.sqrt(1000)
    assert abs(logit.std() / 1.5 - 1) < 4 / np.sqrt(2000)
    assert abs(np.corrcoef(logit.T)[0, 1]) < 4 / np.sqrt(500)
    for k in range(2):
        assert_rate(log.activity[:, k], log.propensity[:, k])
    same = simulate_feedback(preference, user_correlation=1, **kwargs)
    np.testing.assert_array_equal(same.propensity[:, 0], same.propensity[:, 1])
    half = simulate_feedback(preference, user_correlation=0.5, **kwargs)
    logit = np.log(half.propensity / (1 - half.propensity))[first]
    assert abs(np.corrcoef(logit.T)[0, 1] - 0.5) < 4 * 0.75 / np.sqrt(500)


def test_given_propensity(preference):
    given = np.random.default_rng(2).random((N, 3))
    log = simulate_feedback(preference, propensity=given, random_state=0)
    np.testing.assert_array_equal(log.propensity, given)
    assert log.actions.shape == (N, 3)
    flat = simulate_feedback(preference, propensity=given[:, 0], random_state=0)
    np.testing.assert_array_equal(flat.actions, log.actions[:, 0])
    broadcast = simulate_feedback(preference, propensity=given[:, 0], n_signals=2, random_state=0)
    np.testing.assert_array_equal(broadcast.propensity[:, 1], given[:, 0])
    log.propensity[:] = 0
    assert given.max() > 0


def test_false_actions(preference):
    log = simulate_feedback(
        preference,
        propensity="constant",
        n_signals=2,
        false_action_rate=[0.1, 0.3],
        random_state=0,
    )
    disliked = log.true_preference == 0
    for k, e in enumerate((0.1, 0.3)):
        assert_rate(log.actions[disliked, k], e)
        assert_rate(log.actions[~disliked, k], 0.5)
    assert_rate(log.actions[disliked].prod(axis=1), 0.03)
    np.testing.assert_array_equal(log.false_action_rate, [0.1, 0.3])


def test_unlogged(preference):
    kwargs = {"propensity": "constant", "n_signals": 2, "random_state": 0}
    complete = simulate_feedback(preference, **kwargs)
    log = simulate_feedback(preference, logged_rate=[1, 0.6], **kwargs)
    assert log.actions.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(log.actions), ~log.logged)
    assert log.logged[:, 0].all()
    assert_rate(log.logged[:, 1], 0.6)
    np.testing.assert_array_equal(log.actions[log.logged], complete.actions[log.logged])
    preferred = (log.true_preference == 1)[:, None] & log.logged
    assert_rate(log.actions[:, 1][preferred[:, 1]], 0.5)


def test_own_preference(preference):
    kwargs = {"propensity": "constant", "rate": 1, "n_signals": 2, "random_state": 0}
    log = simulate_feedback(preference, own_preference=1, **kwargs)
    np.testing.assert_array_equal(log.actions, log.signal_preference)
    assert_rate(log.actions.prod(axis=1), preference**2)
    assert_rate(log.actions[:, 0] * log.true_preference, preference**2)
    for k in range(2):
        assert_rate(log.actions[:, k], preference)
    half = simulate_feedback(preference, own_preference=0.5, **kwargs)
    assert_rate(half.actions.prod(axis=1), (preference + preference**2) / 2)
    shared = simulate_feedback(preference, **kwargs)
    np.testing.assert_array_equal(shared.signal_preference, np.c_[(shared.true_preference,) * 2])


def test_shared_activity_keeps_the_rates(preference):
    kwargs = {"propensity": "constant", "rate": [0.5, 0.3], "n_signals": 2, "random_state": 0}
    log = simulate_feedback(preference, shared_activity=1, **kwargs)
    assert (log.activity[:, 1] <= log.activity[:, 0]).all()
    half = simulate_feedback(preference, shared_activity=0.5, **kwargs)
    for each in (log, half):
        assert_rate(each.activity[:, 0], 0.5)
        assert_rate(each.activity[:, 1], 0.3)
    assert_rate(half.activity.prod(axis=1), 0.5 * 0.3 + 0.5 * 0.15)


def test_active_in_everything_halves_the_reward_of_two_signals():
    # design: equal propensities 1/2, all shared: two signals look like r* of half the rate.
    log = simulate_feedback(
        np.full(N, 0.5), propensity="constant", n_signals=2, shared_activity=1, random_state=0
    )
    y = log.actions
    captured = y[:, 0].mean() * y[:, 1].mean() / y.prod(axis=1).mean()
    assert captured == pytest.approx(0.25, abs=0.02)
    y = simulate_feedback(np.full(N, 0.5), propensity="constant", n_signals=2, random_state=0)
    y = y.actions
    assert y[:, 0].mean() * y[:, 1].mean() / y.prod(axis=1).mean() == pytest.approx(0.5, abs=0.02)


def test_copied_signal(preference):
    kwargs = {
        "propensity": "constant",
        "rate": [0.2, 0.6, 0.4],
        "n_signals": 3,
        "false_action_rate": [0.1, 0, 0],
        "random_state": 0,
    }
    log = simulate_feedback(preference, copied_signal=(0, 2), **kwargs)
    np.testing.assert_array_equal(log.actions[:, 0], log.actions[:, 2])
    np.testing.assert_array_equal(log.activity[:, 0], log.activity[:, 2])
    np.testing.assert_allclose(log.propensity[0], [0.2, 0.6, 0.2])
    np.testing.assert_allclose(log.false_action_rate, [0.1, 0, 0.1])
    part = simulate_feedback(preference, copied_signal=(0, 2), copied_rate=0.25, **kwargs)
    np.testing.assert_allclose(part.propensity[0], [0.2, 0.6, 0.35])
    np.testing.assert_allclose(part.false_action_rate, [0.1, 0, 0.025])
    liked = part.true_preference == 1
    assert_rate(part.actions[liked, 2], 0.35)
    assert_rate(part.actions[~liked, 2], 0.025)
    assert_rate(part.actions[liked][:, [0, 2]].prod(axis=1), 0.25 * 0.2 + 0.75 * 0.08)
    unlogged = simulate_feedback(preference, copied_signal=(0, 2), logged_rate=0.5, **kwargs)
    assert (unlogged.logged[:, 0] != unlogged.logged[:, 2]).any()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"propensity": "covariate"},
        {"propensity": "user", "user_correlation": 0.5},
        {"propensity": "constant", "own_preference": 0.5, "shared_activity": 0.5},
        {"propensity": "rating", "false_action_rate": 0.2, "logged_rate": 0.5},
    ],
)
def test_signals_do_not_depend_on_their_number(features, preference, kwargs):
    n = 5000  # more than one batch of the projection
    data = dict(
        X=features[:n], rating=preference[:n], user_id=np.arange(n) % 50, random_state=7, **kwargs
    )
    flat = simulate_feedback(preference[:n], **data)
    logs = {K: simulate_feedback(preference[:n], n_signals=K, **data) for K in (1, 2, 4)}
    assert flat.actions.shape == (n,) and logs[1].actions.shape == (n, 1)
    for key in ("actions", "propensity", "activity", "signal_preference", "logged"):
        np.testing.assert_array_equal(flat[key], logs[1][key][:, 0])
        np.testing.assert_array_equal(logs[1][key], logs[4][key][:, :1])
        np.testing.assert_array_equal(logs[2][key], logs[4][key][:, :2])
    np.testing.assert_array_equal(logs[1].true_preference, logs[4].true_preference)


def test_settings_leave_the_other_draws_in_place(features, preference):
    base = simulate_feedback(preference, X=features, random_state=0)
    noisy = simulate_feedback(
        preference, X=features, false_action_rate=0.2, logged_rate=0.5, random_state=0
    )
    liked = (base.true_preference == 1) & noisy.logged
    np.testing.assert_array_equal(base.activity, noisy.activity)
    np.testing.assert_array_equal(base.actions[liked], noisy.actions[liked])


def test_random_state(features, preference):
    def draw(random_state):
        return simulate_feedback(preference, X=features, random_state=random_state).actions

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(draw(0), draw(np.int64(0)))
    assert (draw(0) != draw(1)).any()
    assert (draw(None) != draw(None)).any()
    for make in (np.random.RandomState, np.random.default_rng):
        np.testing.assert_array_equal(draw(make(5)), draw(make(5)))
        advanced = make(5)
        assert (draw(advanced) != draw(advanced)).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_arguments_are_left_unchanged(features):
    preference = np.full(100, 0.5)
    rate, e = np.array([0.2, 0.4]), np.array([0.1, 0.0])
    kwargs = {"propensity": "constant", "rate": rate, "false_action_rate": e, "n_signals": 2}
    log = simulate_feedback(preference, copied_signal=(0, 1), **kwargs)
    log.reward[:] = 0
    assert rate.tolist() == [0.2, 0.4] and e.tolist() == [0.1, 0.0] and preference.min() == 0.5


@pytest.mark.parametrize("make", [list, np.asarray, lambda values: np.array(values, dtype=bool)])
def test_hard_preference_is_kept(make):
    r = [0, 1, 1, 0, 1]
    log = simulate_feedback(make(r), propensity="constant", rate=1)
    assert log.true_preference.tolist() == r == log.actions.tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"true_preference": None}, "true_preference and rating are both None"),
        (
            {"true_preference": [0, 2, 1]},
            r"true_preference must lie in \[0, 1\], got values from 0 to 2",
        ),
        ({"true_preference": [0, np.nan, 1]}, "true_preference holds NaN"),
        ({"true_preference": [[0, 1, 1]]}, r"true_preference must be one-dimensional.*\(1, 3\)"),
        ({"true_preference": []}, "true_preference must be one-dimensional and not empty"),
        ({"true_preference": list("abc")}, "true_preference must hold numbers"),
        ({"threshold": 1}, "threshold=1 is used only if true_preference is None"),
        (
            {"true_preference": None, "rating": [1, 2, 3], "threshold": "a"},
            "threshold must be a number",
        ),
        ({"propensity": "random"}, "propensity must be one of.*got 'random'"),
        ({"propensity": [0.5, 0.5]}, r"propensity.*shape \(3,\) or \(3, K\), got \(2,\)"),
        ({"propensity": np.full((3, 2), 0.5), "n_signals": 3}, r"or \(3, 3\), got \(3, 2\)"),
        ({"propensity": [0.5, 1.5, 0]}, r"propensity must lie in \[0, 1\]"),
        ({"propensity": [0.5, np.nan, 0]}, "propensity holds NaN"),
        ({"propensity": "covariate"}, "propensity='covariate' needs X"),
        ({"propensity": "covariate", "X": np.ones(3)}, r"X must have shape \(3, d\).*\(3,\)"),
        ({"propensity": "covariate", "X": np.ones((2, 2))}, r"X must have shape.*\(2, 2\)"),
        ({"propensity": "covariate", "X": np.ones((3, 2))}, "same features in every row"),
        ({"propensity": "covariate", "X": np.full((3, 2), np.nan)}, "X holds NaN"),
        ({"propensity": "covariate", "X": np.array([["a"]] * 3)}, "X must hold numbers"),
        ({"propensity": "rating"}, "propensity='rating' needs rating"),
        ({"propensity": "rating", "rating": [1, 1, 1]}, "at least two levels of rating"),
        ({"propensity": "rating", "rating": [1, 2]}, "rating has 2 rows but true_preference has 3"),
        (
            {"propensity": "rating", "rating": [1, 2, 3], "rating_decay": 0},
            r"rating_decay.*\(0, 1\]",
        ),
        ({"propensity": "user"}, "propensity='user' needs user_id"),
        ({"propensity": "user", "user_id": [1, 2]}, r"user_id must have shape \(3,\)"),
        ({"propensity": "user", "user_id": [1, 2, 3], "user_correlation": 2}, "user_correlation"),
        ({"rate": 0}, r"rate must lie in \(0, 1\], got 0"),
        ({"rate": [0.1, 0.2]}, r"rate must be one number or one for each of the 1 signal"),
        ({"n_signals": 0}, "n_signals must be None .* or an integer of at least 1, got 0"),
        ({"n_signals": 1.5}, "n_signals must be"),
        ({"false_action_rate": 1}, r"false_action_rate must lie in \[0, 1\), got 1"),
        ({"false_action_rate": "a"}, "false_action_rate must hold numbers"),
        ({"logged_rate": 0}, r"logged_rate must lie in \(0, 1\], got 0"),
        (
            {"own_preference": 0.5},
            "own_preference=0.5 has no effect, because every true_preference",
        ),
        ({"own_preference": -1}, r"own_preference must lie in \[0, 1\], got -1"),
        ({"shared_activity": 1.1}, r"shared_activity must lie in \[0, 1\], got 1.1"),
        ({"shared_activity": None}, "shared_activity must be a number, got None"),
        ({"copied_signal": (0, 1)}, r"copied_signal must be a tuple .* 0 .. 0, got \(0, 1\)"),
        ({"copied_signal": (1, 1), "n_signals": 2}, "two different signals"),
        ({"copied_signal": 1, "n_signals": 2}, "copied_signal must be a tuple"),
        ({"copied_rate": 0}, r"copied_rate must lie in \(0, 1\], got 0"),
        ({"random_state": -1}, "random_state must not be negative"),
        ({"random_state": "seed"}, "random_state must be None, an integer"),
    ],
)
def test_bad_simulator_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        simulate_feedback(**{"true_preference": [0, 1, 1], "propensity": "constant", **kwargs})


# Kinds of signals

BOTH = {"copied": "positive", "regenerated": "negative"}


@pytest.mark.parametrize(
    ("settings", "actions", "n_missing"),
    [
        ({"propensity": "covariate"}, "4000182000042280090a1042178c06c9110000001421eca0", 0),
        (
            {
                "propensity": "constant",
                "own_preference": 0.5,
                "shared_activity": 0.5,
                "copied_signal": (0, 2),
                "copied_rate": 0.5,
                "false_action_rate": [0.1, 0.2, 0],
            },
            "5c041d002147004400eb05001ffe171c0150e80a10e02e07",
            0,
        ),
        (
            {"propensity": "rating", "false_action_rate": 0.1},
            "08024860000402f0034817c01f84570010000009b880f884",
            0,
        ),
        (
            {"propensity": "user", "user_correlation": 0.5, "logged_rate": 0.7},
            "98003d6010060000000923a21a8402811140000010000000",
            53,
        ),
    ],
)
def test_draws_of_positive_actions_stay_what_they_are(settings, actions, n_missing):
    X = np.random.default_rng(0).normal(size=(64, 4))
    row = np.arange(64)
    further = {"X": X, "rating": row % 5, "user_id": row // 8, "random_state": 5}
    y = simulate_feedback(1 / (1 + np.exp(-X[:, 0])), n_signals=3, **settings, **further).actions
    fired = np.nan_to_num(y).astype(bool)
    assert np.packbits(fired).tobytes().hex() == actions and np.isnan(y).sum() == n_missing


@pytest.mark.parametrize("propensity", ["covariate", "user", "constant"])
def test_negative_actions_are_the_mirror_image(features, preference, propensity):
    settings = {
        "propensity": propensity,
        "X": features,
        "user_id": np.arange(N) // 50,
        "false_action_rate": [0.05, 0.2],
        "random_state": 0,
    }
    log = simulate_feedback(preference, signals=["positive", "negative"], **settings)
    assert log.signals == ["positive", "negative"] and log.actions.dtype == np.int64
    liked = log.true_preference == 1
    for k, shows in enumerate((liked, ~liked)):
        assert_rate(log.actions[shows, k], log.propensity[shows, k])
        assert_rate(log.actions[~shows, k], log.false_action_rate[k])
        np.testing.assert_array_equal(log.actions[shows, k], log.activity[shows, k])
    # The positive one, and all that is not of one polarity, is drawn as before.
    before = simulate_feedback(preference, n_signals=2, **settings)
    np.testing.assert_array_equal(log.actions[:, 0], before.actions[:, 0])
    for key in ("propensity", "activity", "true_preference", "logged", "false_action_rate"):
        np.testing.assert_array_equal(log[key], before[key])
    np.testing.assert_array_equal(log.X, features)
    np.testing.assert_array_equal(log.user_id, settings["user_id"])


def test_named_signals_are_a_data_frame_to_fit(features):
    pandas = pytest.importorskip("pandas")
    X = np.c_[features[:600, 0], features[:600, 3:]]
    liked = X[:, 0] > 0
    log = simulate_feedback(liked, X=X, signals=BOTH, random_state=0)
    assert isinstance(log.actions, pandas.DataFrame) and list(log.actions) == list(BOTH)
    assert log.signals == BOTH and log.signals is not BOTH
    assert log.propensity.shape == (600, 2)
    plain = simulate_feedback(liked, X=X, signals=list(BOTH.values()), random_state=0)
    np.testing.assert_array_equal(log.actions, plain.actions)
    est = ImplicitRewardEstimator(
        signals=log.signals,
        learning_rate_init=0.01,
        max_epochs=20,
        early_stopping=False,
        random_state=0,
    )
    est.fit(log.X, log.actions, **log.fit_params())
    assert np.corrcoef(est.predict(X), log.true_preference)[0, 1] > 0.7
    unlogged = simulate_feedback(liked, X=X, signals=BOTH, logged_rate=[1, 0.5], random_state=0)
    np.testing.assert_array_equal(unlogged.actions.isna(), ~unlogged.logged)


def test_negative_actions_by_rating():
    rating = np.random.default_rng(0).integers(0, 5, N).astype(float)
    settings = {"propensity": "rating", "rate": 0.2, "random_state": 0}
    log = simulate_feedback(rating=rating, signals=["positive", "negative"], **settings)
    positive, mirrored = (
        simulate_feedback(rating=values, n_signals=1, **settings).propensity[:, 0]
        for values in (rating, -rating)
    )
    np.testing.assert_allclose(log.propensity, np.c_[positive, mirrored])


def test_false_rates_of_their_own(preference):
    log = simulate_feedback(
        preference,
        signals=[Action(0, false_rate=0.3), "negative"],
        propensity="constant",
        false_action_rate=0.1,
        copied_signal=(0, 1),
        copied_rate=0.5,
        random_state=0,
    )
    np.testing.assert_allclose(log.false_action_rate, [0.3, 0.2])
    assert_rate(log.actions[log.true_preference == 1, 1], 0.2)


def test_other_kinds_are_drawn_by_their_sample(preference):
    pandas = pytest.importorskip("pandas")
    thumb = Choice({"up": 1, "down": 0, "unsure": None}, silent="none")
    signals = {"copied": "positive", "thumb": thumb, "stars": Stars()}
    rate = [0.4, 0.3, 0.2, 0.1, 0.25, *[0.5] * (Stars().n_outputs - 1)]
    settings = {"propensity": "constant", "rate": rate, "random_state": 0}
    log = simulate_feedback(preference, signals=signals, logged_rate=[1, 0.8, 1], **settings)
    assert log.propensity.shape == (N, 4 + Stars().n_outputs) and log.activity.shape == (N, 3)
    assert np.isnan(log.activity[:, 1:]).all() and np.isnan(log.false_action_rate[1:]).all()
    np.testing.assert_array_equal(log.actions["thumb"].isna(), ~log.logged[:, 1])
    liked = (log.true_preference == 1) & log.logged[:, 1]
    odds = np.array([0.3, 0.1]) / (1 - np.array([0.3, 0.1]))
    assert_rate(log.actions["thumb"][liked] == "up", odds[0] / (1 + odds.sum()))
    assert not (log.actions["thumb"][liked] == "down").any()
    assert np.isin(log.actions["stars"], Stars().values).all()
    # Each is drawn as it would be alone, after what stands before it.
    alone = simulate_feedback(preference, signals=["positive"], **settings | {"rate": 0.4})
    np.testing.assert_array_equal(log.actions["copied"], alone.actions[:, 0])
    listed = simulate_feedback(preference, signals=list(signals.values()), **settings)
    assert listed.actions.dtype == object and listed.actions.shape == (N, 3)
    frame = pandas.DataFrame(listed.actions, columns=list(signals))
    both = log.logged[:, 1]
    assert (frame["thumb"][both] == log.actions["thumb"][both]).all()


def test_certain_propensities_of_other_kinds():
    thumb = Choice({"up": 1, "down": 0}, silent="none")
    A = np.tile([1.0, 0.0], (100, 1))
    log = simulate_feedback(np.arange(100) % 2, signals=[thumb], propensity=A, random_state=0)
    assert log.actions[:, 0].tolist() == ["none", "up"] * 50


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"signals": "negative"}, "signals must be a non-empty dict or list .* got 'negative'"),
        ({"signals": []}, r"non-empty .* got \[\]"),
        ({"signals": ["bad"]}, r"signals\[0\] is 'bad'; expected 'positive', 'negative' or a Sig"),
        ({"signals": {"a": 1}}, r"signals\['a'\] is 1; expected 'positive'"),
        ({"signals": ["negative"], "n_signals": 2}, "n_signals=2, but signals has 1 entries"),
        ({"signals": ["negative"] * 2, "propensity": np.ones((3, 3))}, r"\(3, 2\), got \(3, 3\)"),
        ({"signals": [Action(0, false_rate=1)]}, r"false_rate must lie in \[0, 1\), got 1"),
        (
            {"signals": ["positive", "negative"], "copied_signal": (0, 1)},
            r"copied_signal=\(0, 1\) names a positive and a negative action",
        ),
        (
            {"signals": [Choice({"up": 1}, silent="")], "shared_activity": 0.5},
            "shared_activity is available only for actions, got the signal Choice",
        ),
        (
            {"signals": [Choice({"up": 1}, silent="")], "propensity": "rating"},
            "propensity='rating' is available only for actions",
        ),
    ],
)
def test_bad_signals_of_the_simulator(kwargs, message):
    with pytest.raises(ValueError, match=message):
        simulate_feedback([0, 1, 1], **{"propensity": "constant", **kwargs})


def test_naive_classifier_on_the_log_is_biased(features):
    preference = (features[:, 0] > 0).astype(int)
    log = simulate_feedback(preference, X=features, random_state=0)
    Z = np.c_[features[:, 0], features[:, 1] / 1000, features[:, 3:]]
    naive = LogisticRegression().fit(Z, log.actions).predict_proba(Z)[:, 1]
    assert naive.mean() < 0.6 * preference.mean()
