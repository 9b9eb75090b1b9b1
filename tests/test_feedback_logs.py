"""Public logs of what users did: loaded from our files, fetched from the hub, truth apart."""

import os
from pathlib import Path

import numpy as np
import pytest

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import fetch_oasst1_feedback, load_feedback_log

pd = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')
pytest.importorskip("pyarrow", reason='needs pip install "implicitrm-sk[data]"')

SHARED = Path(os.environ.get("IMPLICITRM_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRUTH = {"true_preference", "rating", "quality", "helpfulness", "rank", "opinion", "repeated"}


def shared_log(name):
    if not (SHARED / f"log_{name}.parquet").is_file():
        pytest.skip(f"log_{name}.parquet is not in ../shared/data nor in IMPLICITRM_DATA")
    return load_feedback_log(name, SHARED)


def relevance(folder, drop=(), **columns):
    """Write a log of the survey in the form of our files."""
    n = 40
    frame = pd.DataFrame(
        {
            "prompt": [f"q{i // 2}" for i in range(n)],
            "response": [f"a{i}" for i in range(n)],
            "prompt_id": [f"q{i // 2}" for i in range(n)],
            "n_yes": np.where(np.arange(n) % 9, np.arange(n) % 7, 0),
            "n_no": np.where(np.arange(n) % 9, np.arange(n) % 5, 0),
            "exposures": np.where(np.arange(n) % 9, 30.0, np.nan),
            "rating": 1.0,
            "n_scores": 2,
            "true_preference": np.arange(n) % 2,
            "fold": np.arange(n) // 2 % 5,
        }
        | columns
    ).drop(columns=list(drop))
    frame.to_parquet(folder / "log_wikimedia_relevance.parquet")


@pytest.mark.parametrize(
    ("name", "shape", "width", "known"),
    [
        ("oasst1", (812, 576), 1, 812),
        ("wikimedia_relevance", (951, 576), 2, 951),
        ("wikimedia_mvp", (11_819, 1), 2, 11_819),
        ("kuairand", (28_718, 32), 6, 28_718),
        ("coat", (57_900, 47), 1, 2_848),
        ("ifllm", (1_819, 384), 2, 1_819),
    ],
)
def test_shared_logs(name, shape, width, known):
    data = shared_log(name)
    assert data.X.shape == shape
    assert data.actions.shape == (shape[0], width)
    assert list(data.signals) == list(data.actions.columns)
    assert np.isfinite(data.true_preference).sum() == known
    assert set(data.true_preference[np.isfinite(data.true_preference)]) == {0.0, 1.0}
    assert set(np.unique(data.fold)) == set(range(5))
    assert (data.is_test == (data.fold == 0)).all()
    # No fold separates a group.
    assert (pd.Series(data.fold).groupby(np.asarray(data.groups)).nunique() == 1).all()
    assert not TRUTH & set(data.frame)
    assert "true_preference" in data.truth
    assert data.source.startswith("https://")
    assert data.description
    assert data.licence == "Apache-2.0" or data.licence.startswith("not verified")
    assert set(data.fit_params()) <= {"user_id", "groups", "response_id", "exposures"}


def test_other_encoder():
    shared_log("oasst1")
    data = load_feedback_log("oasst1", SHARED, encoder="minilm")
    assert (data.X.shape, data.encoder) == ((812, 384), "minilm")


def test_a_log_is_fitted_as_it_is_loaded(tmp_path):
    relevance(tmp_path)
    data = load_feedback_log("wikimedia_relevance", tmp_path)
    assert data.X is None
    est = ImplicitRewardEstimator(
        signals=data.signals, false_action_rate=0.01, max_epochs=2, early_stopping=False
    )
    X = np.arange(40.0)[:, None]
    est.fit(X, data.actions, **data.fit_params())
    assert est.n_signals_ == 2
    assert set(data.truth) == {"true_preference", "rating", "n_scores"}


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="name is 'coats'; expected one of 'oasst1', "):
        load_feedback_log("coats", tmp_path)
    with pytest.raises(ValueError, match="the log 'coat' does not contain text"):
        load_feedback_log("coat", tmp_path, encoder="minilm")
    with pytest.raises(FileNotFoundError, match="There is no data set 'log_coat'"):
        load_feedback_log("coat", tmp_path)
    relevance(tmp_path, drop=["fold"])
    with pytest.raises(ValueError, match=r"lacks the column\(s\) fold. Make the file with"):
        load_feedback_log("wikimedia_relevance", tmp_path)
    relevance(tmp_path, drop=["n_no"])
    with pytest.raises(ValueError, match=r"lacks the column\(s\).*n_no.*benchmarks/prepare.py"):
        load_feedback_log("wikimedia_relevance", tmp_path)


# The hub


def message(name, role="assistant", parent="p", **fields):
    """Return a message in its published form."""
    labels = {"name": ["spam", "quality"], "value": [0.0, 0.75], "count": [3, 4]}
    emojis = {"name": ["+1", "_skip_reply"], "count": [2, 1]}
    return {
        "message_id": name,
        "parent_id": parent,
        "text": f"text of {name}",
        "role": role,
        "lang": "en",
        "message_tree_id": "tree",
        "synthetic": False,
        "deleted": False,
        "rank": 0.0,
        "labels": labels,
        "emojis": emojis,
    } | fields


def oasst1(folder, *further):
    (folder / "data").mkdir(exist_ok=True)
    low = {"name": ["quality"], "value": [0.25], "count": [2]}
    train = [
        message("p", "prompter", None),
        message("a"),
        message("b", labels=low, emojis={"name": ["-1"], "count": [3]}),
        message("c", emojis=None),
        message("machine", synthetic=True),
        message("gone", deleted=True),
        message("unrated", labels=None),
        *further,
    ]
    test = [message("p", "prompter", None, message_tree_id="other"), message("d")]
    for split, messages in (("train", train), ("validation", test)):
        pd.DataFrame(messages).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_oasst1_feedback(tmp_path):
    data = fetch_oasst1_feedback(oasst1(tmp_path))
    assert data.response.tolist() == [f"text of {name}" for name in "abcd"]
    assert set(data.prompt) == {"text of p"}
    assert data.actions["n_up"].tolist() == [2, 0, 0, 2]
    assert data.exposures.tolist() == [2, 3, 0, 2]
    assert data.true_preference.tolist() == [1, 0, 1, 1]
    assert data.truth["raters_quality"].tolist() == [4, 2, 4, 4]
    assert data.truth["helpfulness"].isna().all()
    assert data.frame["n_skip_reply"].tolist() == [1, 0, 0, 1]
    assert not TRUTH & set(data.frame)
    assert data.licence == "Apache-2.0"
    assert len(set(data.fold[:3])) == 1
    assert data.X is None


def test_oasst1_feedback_from_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def snapshot_download(repository, **kwargs):
        asked.update(kwargs, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    oasst1(tmp_path)
    with pytest.warns(UserWarning, match="7 training and 2 test messages.*published with 84437"):
        assert len(fetch_oasst1_feedback(revision="abc").response) == 4
    assert asked["repository"] == "OpenAssistant/oasst1"
    assert asked["allow_patterns"] == ["data/train-*.parquet", "data/validation-*.parquet"]


def test_oasst1_feedback_that_has_changed(tmp_path):
    oasst1(tmp_path, message("orphan", parent="not there"))
    with pytest.raises(ValueError, match="train split differs from the published.*not there"):
        fetch_oasst1_feedback(tmp_path)
    for split in ("train", "validation"):
        pd.DataFrame([message("p", "prompter", None)]).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    with pytest.raises(ValueError, match="does not have a rated answer"):
        fetch_oasst1_feedback(tmp_path)
