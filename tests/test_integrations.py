"""The reward in other tools: TRL, transformers, preference data sets, best-of-n."""

import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import CHATML, make_tiny_model
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import (
    cluster,
    decomposition,
    ensemble,
    linear_model,
    metrics,
    neighbors,
    preprocessing,
    svm,
)
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder, ModelFileError
from implicitrm_sk.integrations import (
    evaluate_pairs,
    rank,
    reward_function,
    to_preference_dataset,
    to_transformers,
)
from implicitrm_sk.persistence import _values
from implicitrm_sk.persistence._card import model_card

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving"),
    # Of libraries, when they are imported or called by TRL.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
AutoModel = transformers.AutoModelForSequenceClassification
LOWER = [chr(i) for i in range(97, 123)]
OTHER = [chr(i) for i in range(33, 65)]


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """Keep the code of exported models out of the user's cache."""
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def make_vectors(n=400, n_signals=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    preferred = X[:, 0] + 0.3 * rng.normal(size=n) > 0
    y = (preferred[:, None] & (rng.uniform(size=(n, n_signals)) < 0.6)).astype(float)
    return X, y[:, 0] if n_signals == 1 else y


def make_texts(n=400, n_signals=2, seed=0):
    """Return a log in which lower-case letters are liked."""
    rng = np.random.default_rng(seed)
    pairs = [
        (f"q{i % 40}", "".join(rng.choice(LOWER if i % 2 else OTHER, 1 + rng.integers(12))))
        for i in range(n)
    ]
    preferred = np.arange(n) % 2 == 1
    y = (preferred[:, None] & (rng.uniform(size=(n, n_signals)) < 0.7)).astype(float)
    return pairs, y[:, 0] if n_signals == 1 else y


def fit_text(model, n_signals=2, embedder=None, **settings):
    settings = {"max_epochs": 40, "learning_rate_init": 3e-3, "random_state": 0} | settings
    embedder = LLMEmbedder(model, **(embedder or {"pooling": "mean"}))
    return ImplicitRewardEstimator(embedder=embedder, **settings).fit(
        *make_texts(n_signals=n_signals)
    )


@pytest.fixture(scope="module")
def on_vectors():
    est = ImplicitRewardEstimator(max_epochs=60, learning_rate_init=3e-3, random_state=0)
    return est.fit(*make_vectors(1000))


@pytest.fixture
def on_text(tiny_model):
    return fit_text(tiny_model())


def messages(pairs):
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in pairs
    ]


# ---------------------------------------------------------------------- best-of-n


def test_rank_orders_vectors_by_reward(on_vectors):
    X, _ = make_vectors(20)
    ranking = rank(on_vectors, None, X)
    reward, std = on_vectors.predict(X, return_std=True)
    assert_allclose(ranking.reward, reward, rtol=1e-6)
    assert_allclose(ranking.spread, std, atol=1e-6)
    assert_array_equal(ranking.order, np.argsort(-reward, kind="stable"))
    assert ranking.best == reward.argmax()
    # Equal candidates stay in the order given.
    assert_array_equal(rank(on_vectors, None, np.repeat(X[:1], 4, axis=0)).order, range(4))


def test_pessimism_takes_the_spread_off(on_vectors):
    X, _ = make_vectors(20)
    reward, std = on_vectors.predict(X, return_std=True)
    assert_allclose(rank(on_vectors, None, X, pessimism=2).reward, reward - 2 * std, rtol=1e-5)
    for pessimism in (-1, np.nan, "much", None):
        with pytest.raises(ValueError, match="pessimism must be a number >= 0"):
            rank(on_vectors, None, X, pessimism=pessimism)


def test_pessimism_needs_a_spread(on_vectors):
    X, y = make_vectors(200)
    one = clone(on_vectors).set_params(n_estimators=1).fit(X, y)
    ranking = rank(one, None, X)
    assert np.isfinite(ranking.reward).all() and np.isnan(ranking.spread).all()
    with pytest.raises(ValueError, match="pessimism=1 subtracts the spread .* has one member"):
        rank(one, None, X, pessimism=1)
    # With users, a fit may fill all places with the member that fits best.
    same = copy.deepcopy(on_vectors)
    same.model_.copy_members(on_vectors.model_, torch.zeros(4, dtype=int))
    with pytest.raises(ValueError, match="kept one of its 4 members.* with n_estimators=8"):
        rank(same, None, X, pessimism=1)
    assert "1 of 4 members kept" in model_card(same)


def test_rank_of_text(on_text):
    candidates = ["abcdef", "!!!!", "xyz"]
    ranking = rank(on_text, "q1", candidates)
    assert_allclose(ranking.reward, on_text.predict([("q1", c) for c in candidates]), rtol=1e-6)
    assert ranking.order[-1] == 1
    chat = rank(on_text, [{"role": "user", "content": "q1"}], candidates)
    assert_allclose(chat.reward, ranking.reward)


@pytest.mark.parametrize(
    ("prompt", "candidates", "error", "message"),
    [
        (None, ["a"], ValueError, "prompt is None, but candidates are text"),
        ("q", [[1.0, 2.0]], ValueError, "prompt must be None"),
        ("q", "abc", TypeError, "candidates is one string"),
        ("q", [], ValueError, "candidates is empty"),
    ],
)
def test_rank_says_what_is_wrong(on_vectors, prompt, candidates, error, message):
    with pytest.raises(error, match=message):
        rank(on_vectors, prompt, candidates)


def test_what_is_no_fitted_estimator_is_refused():
    for est, error in ((StandardScaler(), TypeError), (ImplicitRewardEstimator(), ValueError)):
        with pytest.raises(error, match=r"must be an ImplicitRewardEstimator|not fitted"):
            rank(est, None, [[1.0]])


def test_paired_accuracy_of_vectors_counts_ties_half(on_vectors):
    X, _ = make_vectors(50)
    reward = on_vectors.predict(X)
    order = np.argsort(reward)
    low, high = X[order[:10]], X[order[-10:]]
    assert evaluate_pairs(on_vectors, (high, low)).accuracy == 1
    assert evaluate_pairs(on_vectors, (low, high)).accuracy == 0
    result = evaluate_pairs(on_vectors, (low, low))
    assert result.accuracy == 0.5
    assert result.n_pairs == 10
    with pytest.raises(ValueError, match="X_chosen has 10 rows and X_rejected 9"):
        evaluate_pairs(on_vectors, (high, low[:9]))


@pytest.mark.parametrize("form", ["list", "pandas", "datasets"])
def test_paired_accuracy_in_the_form_of_rewardbench(on_text, form):
    rows = [
        {"prompt": "q1", "chosen": "abcdefg", "rejected": "!!!!!!", "subset": "easy"},
        {"prompt": "q2", "chosen": "hello", "rejected": "$$$$$", "subset": "easy"},
        {"prompt": "q3", "chosen": "((((((", "rejected": "letters", "subset": "wrong"},
    ]
    pairs = rows
    if form == "pandas":
        pairs = pytest.importorskip("pandas").DataFrame(rows)
    elif form == "datasets":
        pairs = pytest.importorskip("datasets").Dataset.from_list(rows)
    result = evaluate_pairs(on_text, pairs)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.by_subset == {"easy": (1.0, 2), "wrong": (0.0, 1)}
    assert "paired accuracy 0.667" in str(result)
    assert "easy   1.000  (2)" in str(result)
    # Whole conversations in place of a prompt.
    chats = [
        {key: messages([(row["prompt"], row[key])])[0] for key in ("chosen", "rejected")}
        for row in rows
    ]
    assert_allclose(evaluate_pairs(on_text, chats).reward_chosen, result.reward_chosen, rtol=1e-5)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, "pairs is empty"),
        ("text", TypeError, "pairs is a str"),
        ([{"prompt": "a", "chosen": "b"}], ValueError, "pairs lacks rejected"),
        ([{"chosen": "a", "rejected": "b"}], ValueError, "pairs lacks prompt"),
    ],
)
def test_paired_accuracy_says_what_is_wrong(on_vectors, pairs, error, message):
    with pytest.raises(error, match=message):
        evaluate_pairs(on_vectors, pairs)


# ---------------------------------------------------------------------- preference data


@pytest.fixture
def log():
    pandas = pytest.importorskip("pandas")
    X, y = make_vectors(200)
    frame = pandas.DataFrame(
        {
            "prompt": [f"prompt {i % 40}" for i in range(200)],
            "response": [f"response {i}" for i in range(200)],
            "copied": y[:, 0],
            "shared": y[:, 1],
        }
    )
    return frame, X


@pytest.mark.parametrize("actions", [None, ["copied", "shared"]])
def test_unpaired_data_hold_the_debiased_labels(on_vectors, log, actions):
    frame, X = log
    data = to_preference_dataset(on_vectors, frame, X=X, actions=actions, output="pandas")
    if actions is None:
        p = on_vectors.predict(X)
    else:
        groups = on_vectors.predict_proba(X, frame[actions])
        p = groups[:, 0] + groups[:, 2]
    assert list(data) == ["prompt", "completion", "label", "weight"]
    assert list(data["completion"]) == list(frame["response"])
    assert_array_equal(data["label"], p > 0.5)
    assert_allclose(data["weight"], abs(2 * p - 1), atol=1e-6)
    if actions is not None:
        acted = frame[actions].any(axis=1)
        assert data["label"][acted].all()
        assert (data["weight"][acted] > 1 - 1e-6).all()
    sure = to_preference_dataset(on_vectors, frame, X=X, min_confidence=0.8, output="pandas")
    assert 0 < len(sure) < 200
    assert sure["weight"].min() >= 0.8


def test_weight_makes_one_row_say_what_two_would():
    """For l(1) + l(0) = c: p l(1) + (1-p) l(0) = abs(2p - 1) l(label) + c (1 - abs(2p - 1)) / 2."""
    rng = np.random.default_rng(0)
    p, z = rng.uniform(size=100), rng.normal(size=100)
    liked, disliked = 1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))  # the loss of KTO
    weight = abs(2 * p - 1)
    both = p * liked + (1 - p) * disliked
    assert_allclose(both, weight * np.where(p > 0.5, liked, disliked) + (1 - weight) / 2)


def test_paired_data_are_the_largest_gaps_within_a_prompt(on_vectors, log):
    frame, X = log
    p = on_vectors.predict(X).astype(float)
    data = to_preference_dataset(on_vectors, frame, form="paired", X=X, output="pandas")
    assert list(data) == ["prompt", "chosen", "rejected", "reward_gap", "confidence"]
    assert len(data) == 40  # five responses each
    number = {response: i for i, response in enumerate(frame["response"])}
    for row in data.itertuples():
        of_prompt = [i for i in range(200) if frame["prompt"][i] == row.prompt]
        assert number[row.chosen] == max(of_prompt, key=lambda i: p[i])
        assert number[row.rejected] == min(of_prompt, key=lambda i: p[i])
        assert row.reward_gap == pytest.approx(max(p[of_prompt]) - min(p[of_prompt]), abs=1e-5)
        assert 0.5 < row.confidence <= 1
    two = to_preference_dataset(
        on_vectors, frame, form="paired", X=X, pairs_per_prompt=2, output="pandas"
    )
    assert len(two) == 80
    assert not set(two["chosen"]) & set(two["rejected"])
    some = to_preference_dataset(
        on_vectors,
        frame,
        form="paired",
        X=X,
        pairs_per_prompt=9,
        min_margin=0.3,
        min_confidence=0.9,
        output="pandas",
    )
    assert 0 < len(some) < 80
    assert some["reward_gap"].min() >= 0.3
    assert some["confidence"].min() >= 0.9
    # The mixture's spread is part of the confidence, and prompt_id tells prompts apart.
    alone = frame.assign(prompt_id=range(200))
    assert not len(to_preference_dataset(on_vectors, alone, form="paired", X=X, output="pandas"))


def test_data_as_datasets_and_parquet(on_vectors, log, tmp_path):
    pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    frame, X = log
    data = to_preference_dataset(on_vectors, frame, X=X)
    assert data.column_names == ["prompt", "completion", "label", "weight"]
    data.to_parquet(tmp_path / "data.parquet")
    assert len(pandas.read_parquet(tmp_path / "data.parquet")) == 200


def test_chat_prompts_make_chat_completions(on_text):
    pandas = pytest.importorskip("pandas")
    pairs, y = make_texts(20)
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in pairs]
    frame = pandas.DataFrame({"prompt": prompts, "response": [r for _, r in pairs]})
    data = to_preference_dataset(on_text, frame, actions=y, output="pandas")
    assert data["completion"][0] == [{"role": "assistant", "content": pairs[0][1]}]
    plain = pandas.DataFrame(pairs, columns=["prompt", "completion"])
    same = to_preference_dataset(on_text, plain, actions=y, output="pandas")
    assert_allclose(data["weight"], same["weight"])


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


#: A chat as APIs hold it: parts, calls as objects and as JSON, and results of tools.
CALLS = [
    {"role": "user", "content": parts("Weather?", "And tomorrow?")},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "1",
                "function": {"name": "look", "arguments": {"at": ["Bern"], "days": [1, 2]}},
            },
            {"id": "2", "function": {"name": "look", "arguments": {"days": [3]}}},
        ],
    },
    {"role": "tool", "content": parts("sun"), "tool_call_id": "1"},
    {"role": "assistant", "function_call": {"name": "show", "arguments": '{"town": "Bern"}'}},
    {"role": "function", "name": "show", "content": parts("shown")},
]


def nested(value):
    """Yield a value and all in it."""
    yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from nested(part)


@pytest.mark.parametrize("form", ["unpaired", "paired"])
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow.parquet"])
def test_chats_come_out_as_they_went_into_a_file(on_vectors, log, form, library, tmp_path):
    """A table holds lists as arrays, and every field in every row."""
    frame, X = log
    frame["prompt"] = [CALLS[:1] + [{"role": "user", "content": parts(p)}] for p in frame["prompt"]]
    frame["response"] = [
        [*CALLS[1:], {"role": "assistant", "content": parts(r)}] for r in frame["response"]
    ]
    expected = to_preference_dataset(on_vectors, frame, form=form, X=X, output="pandas")
    assert expected.loc[0, "prompt"][0] == CALLS[0]
    column = "completion" if form == "unpaired" else "chosen"
    assert expected.loc[0, column][:4] == CALLS[1:]
    frame.to_parquet(tmp_path / "log.parquet")
    module = pytest.importorskip(library)
    read = module.read_table if library == "pyarrow.parquet" else module.read_parquet
    table = read(tmp_path / "log.parquet")
    found = to_preference_dataset(on_vectors, table, form=form, X=X, output="pandas")
    assert found.to_dict("list") == expected.to_dict("list")
    kinds = {type(part) for row in found.to_dict("records") for part in nested(row)}
    assert kinds <= {dict, list, str, int, float, bool}


def test_text_beside_chats_becomes_chats(on_vectors, log):
    """One column cannot hold both, and trainers refuse a text prompt with chat completions."""
    pytest.importorskip("datasets")
    frame, X = log
    frame["response"] = frame["response"].astype(object)
    frame.at[3, "response"] = [{"role": "assistant", "content": "response 3"}]
    data = to_preference_dataset(on_vectors, frame, X=X)
    assert data[0]["prompt"] == [{"role": "user", "content": "prompt 0"}]
    for row in (0, 3):
        assert data[row]["completion"] == [{"role": "assistant", "content": f"response {row}"}]
    frame.at[5, "response"] = None
    with pytest.raises(ValueError, match="row 5 of df has no response"):
        to_preference_dataset(on_vectors, frame, X=X)
    for wrong in (b"text", 3, ["text"]):
        frame.at[5, "response"] = wrong
        with pytest.raises(TypeError, match="row 5 of df holds a .* as response; expected text or"):
            to_preference_dataset(on_vectors, frame, X=X)


def test_preference_data_know_who_acted(log):
    frame, X = log
    rng = np.random.default_rng(0)
    frame["user"] = [f"u{i % 10}" for i in range(200)]
    acts = (
        rng.random((200, 2)) < np.where(frame["user"].isin(["u0", "u1", "u2"]), 0.9, 0.1)[:, None]
    )
    y = ((X[:, :1] > 0) & acts).astype(int)
    frame[["copied", "shared"]] = y
    est = ImplicitRewardEstimator(
        max_epochs=20, n_estimators=2, random_state=0, learning_rate_init=0.02
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, y, user_id=frame["user"])
    names = ["copied", "shared"]
    assert est.user_loading_.max() > 0  # otherwise users make no difference
    for user in (frame["user"], None):
        groups = est.predict_proba(X, y, user_id=user)
        p = groups[:, 0] + groups[:, 2]
        for given in [None] if user is None else ["user", user, user.tolist()]:
            data = to_preference_dataset(
                est, frame, X=X, actions=names, user_id=given, output="pandas"
            )
            shown = np.where(data["label"], 0.5 + data["weight"] / 2, 0.5 - data["weight"] / 2)
            assert_allclose(shown, p, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "triples"}, "form must be 'unpaired' or 'paired'"),
        ({"output": "csv"}, "output must be 'datasets' or 'pandas'"),
        ({"X": np.zeros((3, 4))}, "X has 3 rows and df 200.*Pass as X= the vectors of the rows"),
        ({"min_confidence": 2}, "min_confidence must be a number from 0 to 1, got 2"),
        ({"min_confidence": np.nan}, "min_confidence must be a number from 0 to 1, got nan"),
        ({"min_margin": "0.1"}, "min_margin must be a number from 0 to 1, got '0.1'"),
        ({"pairs_per_prompt": 0}, "pairs_per_prompt must be an integer of at least 1, got 0"),
        ({"pairs_per_prompt": 1.5}, "pairs_per_prompt must be an integer of at least 1, got 1.5"),
        ({"X": None}, "fitted on vectors, so it cannot read the text of df. Pass.*as X="),
        ({"user_id": "copied"}, "user_id is given without actions"),
        (
            {"user_id": "who", "actions": ["copied", "shared"]},
            "df lacks the column 'who', which us",
        ),
        (
            {"user_id": "copied", "actions": ["copied", "shared"]},
            "user_id was given, but the estimator was fitted without user_id",
        ),
        ({"actions": ["copied", "liked"]}, r"df lacks the columns \['liked'\]"),
        ({"df": {"prompt": []}}, "expected a DataFrame with prompt and response"),
    ],
)
def test_data_say_what_is_wrong(on_vectors, log, change, message):
    frame, X = log
    arguments = {"df": frame, "X": X, "output": "pandas"} | change
    with pytest.raises((ValueError, TypeError), match=message):
        to_preference_dataset(on_vectors, arguments.pop("df"), **arguments)
    with pytest.raises(ValueError, match="expected 'prompt' and 'response'"):
        to_preference_dataset(on_vectors, frame.drop(columns="response"), X=X, output="pandas")


# ---------------------------------------------------------------------- TRL


def test_reward_function_follows_the_contract_of_trl(on_text):
    """prompts, completions and all else by keyword; a list of float back."""
    pairs, _ = make_texts(8)
    prompts, completions = map(list, zip(*pairs, strict=True))
    logged = []
    call = {
        "completion_ids": [[1, 2]] * 8,
        "trainer_state": SimpleNamespace(global_step=1),
        "log_extra": None,
        "log_metric": lambda name, value: logged.append((name, value)),
        "level": ["easy"] * 8,
    }
    reward = reward_function(on_text)
    found = reward(prompts=prompts, completions=completions, **call)
    assert isinstance(found, list) and all(type(value) is float for value in found)
    expected, std = on_text.predict(pairs, return_std=True)
    assert_allclose(found, expected, rtol=1e-5)
    assert reward.__name__ == "implicit_reward"
    assert logged == [("implicit_reward/spread", pytest.approx(std.mean(), rel=1e-3))]
    chat = reward(
        prompts=[[{"role": "user", "content": prompt}] for prompt in prompts],
        completions=[[{"role": "assistant", "content": text}] for text in completions],
    )
    assert_allclose(chat, found, rtol=1e-5)
    logit = reward_function(on_text, output="logit", name="mine")
    assert logit.__name__ == "mine"
    assert_allclose(logit(prompts, completions), on_text.decision_function(pairs), atol=1e-5)
    low = reward_function(on_text, pessimism=1.5)(prompts, completions)
    assert_allclose(low, expected - 1.5 * std, atol=1e-5)
    lower = reward_function(on_text, output="logit", pessimism=1.5)(prompts, completions)
    assert (np.array(lower) < np.array(logit(prompts, completions)) + 1e-9).all()
    assert reward([], []) == []
    assert_allclose(pickle.loads(pickle.dumps(reward))(prompts, completions), found, rtol=1e-5)
    with pytest.raises(ValueError, match="one prompt per completion"):
        reward(prompts[:2], completions)


def test_reward_function_of_a_pipeline(tiny_model):
    pairs, y = make_texts()
    pipe = make_pipeline(
        LLMEmbedder(tiny_model(), pooling="mean"), ImplicitRewardEstimator(max_epochs=5)
    ).fit(pairs, y)
    found = reward_function(pipe)(*map(list, zip(*pairs[:5], strict=True)))
    assert_allclose(found, pipe.predict(pairs[:5]), rtol=1e-5)


def test_reward_function_needs_text(on_vectors, on_text):
    with pytest.raises(ValueError, match="est reads vectors, but a trainer passes text"):
        reward_function(on_vectors)
    with pytest.raises(ValueError, match="output must be 'probability' or 'logit'"):
        reward_function(on_text, output="odds")


# ---------------------------------------------------------------------- transformers

STOCK = {"hidden_layer_sizes": (), "n_estimators": 1}
LAST = {"pooling": "last"}
EXPORTS = {
    "stock": (STOCK, LAST, 2),
    "unstandardised": (STOCK | {"standardize": False}, LAST, 2),
    "columns": (STOCK | {"reward_features": slice(0, 20), "propensity_features": [3]}, LAST, 2),
    "layers": ({}, LAST, 2),
    "mean": (STOCK, {"pooling": "mean"}, 2),
    "normalised-float16": (
        {}, {"pooling": "mean", "normalize": True, "output_dtype": "float16"}, 2),
    "cls": ({}, {"pooling": "cls"}, 2),
    "inner layer": (STOCK, {"pooling": "last", "layer": 1}, 2),
    "members": (STOCK | {"n_estimators": 3}, LAST, 2),
    "mirror images": ({}, LAST, 1),
    "mirror image of a linear one": (STOCK, LAST, 1),
    "columns of both heads": (
        {"reward_features": slice(0, 20), "propensity_features": slice(10, 30)}, LAST, 1),
    "naive": (STOCK | {"objective": "naive"}, LAST, 1),
    "root-naive": ({"objective": "root-naive"}, LAST, 1),
    "no template": ({}, {"pooling": "mean", "chat_template": None}, 2),
    "own template": (
        STOCK, {"pooling": "last", "chat_template": CHATML.replace("bos_token", "'A'")}, 2),
}  # fmt: skip
IS_STOCK = {"stock", "unstandardised", "columns", "naive", "own template"}


def in_bfloat16(est, pairs):
    """Return the rewards where the language model, which rounds most, runs in bfloat16 too."""
    embedder = clone(est.embedder_).set_params(dtype="bfloat16", cache_dir=None)
    return est.predict(embedder.fit().transform(pairs))


def rewards_of(export, pairs, dtype=torch.float32, padding_side=None):
    """Return what the exported folder makes of prompts and responses, by its own tokenizer."""
    model = AutoModel.from_pretrained(
        export.path, dtype=dtype, trust_remote_code=export.custom_code
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(export.path)
    if padding_side:
        tokenizer.padding_side = padding_side
    inputs = tokenizer.apply_chat_template(
        messages(pairs), return_tensors="pt", return_dict=True, padding=True
    )
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    assert logits.shape == (len(pairs), 1)
    shift = model.config.implicitrm["logit_shift"]
    assert shift == export.logit_shift
    return torch.sigmoid(logits[:, 0].double() + shift).numpy()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("llama", name) for name in EXPORTS if name != "cls"]
    + [(kind, name) for kind in ("qwen", "gemma", "bert") for name in ("stock", "layers", "mean")]
    + [("bert", "no template"), ("bert", "cls")],
)
def test_transformers_model_gives_the_rewards_of_the_estimator(tiny_model, tmp_path, kind, name):
    settings, embedder, n_signals = EXPORTS[name]
    est = fit_text(tiny_model(kind), n_signals, embedder, **settings)
    export = to_transformers(est, None, tmp_path / "rm")
    assert export.custom_code is not (name in IS_STOCK and kind != "bert")
    pairs, _ = make_texts(24, seed=1)
    expected = est.predict(pairs)
    assert expected.std() > 0.02  # something to reproduce
    # Rounded to float16, a number may round the other way.
    tolerance = 1e-3 if embedder.get("output_dtype") == "float16" else 1e-5
    assert_allclose(rewards_of(export, pairs), expected, atol=tolerance)
    half = rewards_of(export, pairs, torch.bfloat16)
    assert_allclose(half, in_bfloat16(est, pairs), atol=2e-2)
    if kind != "bert":
        left = rewards_of(export, pairs, padding_side="left")
        assert_allclose(left, expected, atol=tolerance)
    card = (tmp_path / "rm" / "README.md").read_text()
    assert ("trust_remote_code=True" in card) is export.custom_code
    assert ("the logits are shifted" in card) is not export.custom_code
    assert est.identification_.level in card
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert config["pad_token_id"] == 0
    assert ("auto_map" in config) is export.custom_code


def test_rewards_do_not_depend_on_the_batch(tiny_model, tmp_path):
    est = fit_text(tiny_model())
    export = to_transformers(est, None, tmp_path / "rm")
    pairs, _ = make_texts(6, seed=2)
    one_by_one = np.concatenate([rewards_of(export, [pair]) for pair in pairs])
    assert_allclose(one_by_one, rewards_of(export, pairs), atol=1e-6)
    # Without a mask, padding is told by its token.
    model = AutoModel.from_pretrained(export.path, trust_remote_code=True, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export.path)
    inputs = tokenizer.apply_chat_template(
        messages(pairs), return_tensors="pt", return_dict=True, padding=True
    )
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"]).logits[:, 0]
    assert_allclose(torch.sigmoid(logits).numpy(), one_by_one, atol=1e-6)
    with pytest.raises(ValueError, match="labels were given"):
        model(**inputs, labels=torch.zeros(6))


def test_long_texts_are_cut_from_the_left(tiny_model, tmp_path):
    """As the embedder does; the tiny Qwen has no BOS token, which the tokenizer would cut, too."""
    with pytest.warns(UserWarning, match="texts are longer than max_length"):
        est = fit_text(tiny_model("qwen"), 2, {"pooling": "mean", "max_length": 24})
        export = to_transformers(est, None, tmp_path / "rm")
        pairs, _ = make_texts(12, seed=1)
        pairs = [(prompt * 9, response) for prompt, response in pairs]
        expected = est.predict(pairs)
    model = AutoModel.from_pretrained(export.path, trust_remote_code=True, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export.path)
    inputs = tokenizer.apply_chat_template(
        messages(pairs), return_tensors="pt", return_dict=True, padding=True, truncation=True
    )
    assert inputs["input_ids"].shape == (12, 24)
    with torch.no_grad():
        found = torch.sigmoid(model(**inputs).logits[:, 0]).numpy()
    assert_allclose(found, expected, atol=1e-5)


def test_text_classification_pipeline(tiny_model, tmp_path):
    pairs, _ = make_texts(6, seed=2)
    for name, settings, embedder in (("own", {}, {"pooling": "mean"}), ("stock", STOCK, LAST)):
        est = fit_text(tiny_model(), 2, embedder, **settings)
        export = to_transformers(est, None, tmp_path / name)
        pipe = transformers.pipeline(
            "text-classification",
            export.path,
            trust_remote_code=export.custom_code,
            dtype=torch.float32,
            device="cpu",
        )
        texts = [pipe.tokenizer.apply_chat_template(row, tokenize=False) for row in messages(pairs)]
        found = pipe(texts, batch_size=3, add_special_tokens=False)
        assert {row["label"] for row in found} == {"reward"}
        score = np.array([row["score"] for row in found])
        if not export.custom_code:  # the logit as it is, since the shift is still to be added
            score = 1 / (1 + np.exp(-score - export.logit_shift))
        assert_allclose(score, est.predict(pairs), atol=1e-5)


def strip_pad(folder, pad):
    """Let a tokenizer pad with another token, or with none."""
    for name in ("tokenizer_config.json", "config.json"):
        path = os.path.join(folder, name)
        with open(path) as file:
            content = json.load(file)
        if name == "config.json":
            content["pad_token_id"] = None if pad is None else 2
        elif pad is None:
            content.pop("pad_token", None)
        else:
            content["pad_token"] = pad
        with open(path, "w") as file:
            json.dump(content, file)


@pytest.mark.parametrize(("pad", "reason"), [("</s>", "one token"), (None, "no padding token")])
def test_padding_that_would_be_taken_for_the_end_is_refused(tmp_path, pad, reason):
    """A stock class takes the last token that is not padding; here texts end with that token."""
    model = make_tiny_model(tmp_path / "base")
    strip_pad(model, pad)
    est = fit_text(model, 2, LAST, **STOCK)
    with pytest.raises(ValueError, match=f"no stock class gives this reward, because .*{reason}"):
        to_transformers(est, None, tmp_path / "rm", custom_code=False)
    assert not (tmp_path / "rm").exists()
    export = to_transformers(est, None, tmp_path / "rm")
    assert export.custom_code
    pairs, _ = make_texts(24, seed=1)
    assert_allclose(rewards_of(export, pairs), est.predict(pairs), atol=1e-5)
    loaded = AutoModel.from_pretrained(export.path, trust_remote_code=True)
    with pytest.raises(ValueError, match="attention_mask is missing"):
        loaded(input_ids=torch.ones((2, 3), dtype=torch.long))


def test_reasons_against_a_stock_class_are_all_named(tiny_model, tmp_path):
    est = fit_text(tiny_model(), 1, {"pooling": "mean", "normalize": True})
    with pytest.raises(ValueError) as caught:
        to_transformers(est, None, tmp_path / "rm", custom_code=False)
    for reason in ("pooled by mean", "normalised", "hidden layers", "4 members", "mirror image"):
        assert reason in str(caught.value)
    export = to_transformers(fit_text(tiny_model(), 2, LAST, **STOCK), None, tmp_path / "rm2")
    assert "a stock class without bias: reward = sigmoid(logits + " in str(export)
    own = to_transformers(
        fit_text(tiny_model(), 2, LAST, **STOCK), None, tmp_path / "rm3", custom_code=True
    )
    assert own.custom_code and own.logit_shift == 0


def test_far_shifts_take_the_class_of_its_own(tiny_model, tmp_path):
    """Where the logits of a stock class lie far from 0, bfloat16 has no digits left for them."""
    est = fit_text(tiny_model(), 2, LAST, **STOCK)
    est.scaler_.mean_ = est.scaler_.mean_ + 50 * np.sign(
        est.model_.reward.weights[0].detach().numpy()[:, 0, 0]
    )
    with pytest.raises(ValueError, match="too far for bfloat16"):
        to_transformers(est, None, tmp_path / "rm", custom_code=False)


def test_estimators_on_vectors_name_their_embedder(tiny_model, tmp_path):
    pairs, y = make_texts()
    embedder = LLMEmbedder(tiny_model(), pooling="last", cache_dir=None)
    est = ImplicitRewardEstimator(max_epochs=5, **STOCK).fit(embedder.transform(pairs), y)
    with pytest.raises(ValueError, match="Pass base_model, the LLMEmbedder that made them"):
        to_transformers(est, None, tmp_path / "rm")
    export = to_transformers(est, embedder, tmp_path / "rm")
    assert_allclose(
        rewards_of(export, pairs[:9]), est.predict(embedder.transform(pairs[:9])), atol=1e-5
    )
    small = ImplicitRewardEstimator(max_epochs=5).fit(*make_vectors())
    with pytest.raises(ValueError, match="gives vectors of 32 columns, but est was fitted on 4"):
        to_transformers(small, tiny_model(), tmp_path / "rm2")


def test_pipelines_are_exported_whole_or_not_at_all(tiny_model, tmp_path):
    pairs, y = make_texts()
    embedder = LLMEmbedder(tiny_model(), pooling="last")
    pipe = make_pipeline(embedder, ImplicitRewardEstimator(max_epochs=5)).fit(pairs, y)
    export = to_transformers(pipe, None, tmp_path / "rm")
    assert_allclose(rewards_of(export, pairs[:9]), pipe.predict(pairs[:9]), atol=1e-5)
    longer = make_pipeline(embedder, StandardScaler(), ImplicitRewardEstimator(max_epochs=5))
    with pytest.raises(ValueError, match="LLMEmbedder, StandardScaler before the estimator"):
        to_transformers(longer.fit(pairs, y), None, tmp_path / "rm2")


def test_base_model_must_be_the_one_that_made_the_vectors(tiny_model, tmp_path):
    est = fit_text(tiny_model())
    moved = make_tiny_model(tmp_path / "moved")
    other = make_tiny_model(tmp_path / "other", seed=9)
    to_transformers(est, moved, tmp_path / "rm")
    with pytest.raises(ValueError, match="gives other vectors than the model"):
        to_transformers(est, other, tmp_path / "rm2")
    with pytest.raises(TypeError, match="est has its own embedder"):
        to_transformers(est, LLMEmbedder(moved), tmp_path / "rm2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="exists. Choose a new"):
        to_transformers(est, None, tmp_path / "full")
    with pytest.raises(TypeError, match="path is missing"):
        to_transformers(est, None)
    assert not list(tmp_path.glob(".*"))


def test_saved_models_with_an_embedder(tiny_model, tmp_path):
    est = fit_text(tiny_model())
    pairs, _ = make_texts(20, seed=3)
    est.save(tmp_path / "model")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert_allclose(loaded.predict(pairs), est.predict(pairs), atol=1e-6)
    loaded.save(tmp_path / "again")
    text = [(tmp_path / name / "estimator.json").read_text() for name in ("model", "again")]
    assert text[0] == text[1]
    other = ImplicitRewardEstimator.load(tmp_path / "model")
    other.embedder_.set_params(model=make_tiny_model(tmp_path / "other", seed=9))
    with pytest.raises(ValueError, match="gives other vectors than the model that the reward was"):
        other.predict(pairs)
    assert "`" in (card := (tmp_path / "model" / "README.md").read_text())
    assert "mean pooling" in card and 'est.predict([("a prompt", "a response")])' in card
    assert str(tmp_path) not in card


def test_a_file_grants_no_permissions(tiny_model, tmp_path):
    est = fit_text(tiny_model(), 2, {"cache_dir": str(tmp_path / "mine")})
    est.embedder_.set_params(trust_remote_code=True)
    est.save(tmp_path / "model")
    with pytest.warns(UserWarning, match="trust_remote_code=True and cache_dir=.* not taken from"):
        loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert loaded.embedder_.trust_remote_code is False
    assert loaded.embedder_.cache_dir == "auto"


@pytest.mark.parametrize(
    "model_kwargs",
    [
        {"weights_only": False},
        {"attn_implementation": "someone/kernel"},
        {"trust_remote_code": True},
        {"attn_implementation": ["eager"]},
    ],
)
def test_arguments_that_could_run_code_are_neither_written_nor_read(
    tiny_model, tmp_path, model_kwargs, monkeypatch
):
    est = fit_text(tiny_model())
    est.embedder_.set_params(model_kwargs=model_kwargs)
    with pytest.raises(ValueError, match="model_kwargs of the embedder holds"):
        est.save(tmp_path / "model")
    monkeypatch.setattr(_values, "check_model_kwargs", lambda _: None)
    est.save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="model_kwargs of the embedder holds"):
        ImplicitRewardEstimator.load(tmp_path / "model")


# ---------------------------------------------------------------------- reinforcement learning


def train(trainer, reward_funcs, policy, tmp_path, *, chat=True, steps=25, **options):
    """Train a tiny policy; return the mean reward of every step, and the logged names."""
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    prompts = [f"q{i}" for i in range(4)]
    data = datasets.Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": q}] for q in prompts] if chat else prompts,
            "level": [1, 2, 3, 4],
        }
    )
    arguments = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path / "trl"),
        learning_rate=1e-2,
        max_completion_length=8,
        num_generations=8,
        per_device_train_batch_size=32,
        max_steps=steps,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        beta=0.0,
        seed=0,
        **options,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(policy, padding_side="left")
    run = getattr(trl, f"{trainer}Trainer")(
        model=policy,
        reward_funcs=reward_funcs,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
    )
    run.train()
    records = [record for record in run.state.log_history if "reward" in record]
    return np.array([record["reward"] for record in records]), set(records[0])


def assert_rises(rewards):
    early, late = rewards[:8], rewards[-8:]
    error = np.sqrt(early.var() / 8 + late.var() / 8)
    assert late.mean() - early.mean() > 3 * error, rewards


@pytest.fixture
def policy(tmp_path):
    return make_tiny_model(
        tmp_path / "policy", seed=5, model_class="LlamaForCausalLM", initializer_range=0.02
    )


@pytest.mark.parametrize(("trainer", "chat"), [("GRPO", False), ("RLOO", True)])
def test_a_policy_learns_by_the_reward_function(on_text, policy, tmp_path, trainer, chat):
    reward = reward_function(on_text, output="logit", pessimism=0.5)
    rewards, names = train(trainer, reward, policy, tmp_path, chat=chat)
    assert {"rewards/implicit_reward/mean", "implicit_reward/spread"} <= names
    assert_rises(rewards)


@pytest.mark.slow
def test_exported_models_are_reward_models_of_trl_by_path(tiny_model, policy, tmp_path):
    for name, settings, embedder in (("own", {}, {"pooling": "mean"}), ("stock", STOCK, LAST)):
        est = fit_text(tiny_model(), 2, embedder, **settings)
        export = to_transformers(est, None, tmp_path / name)
        options = {"trust_remote_code": True} if export.custom_code else {}
        rewards, names = train("GRPO", export.path, policy, tmp_path, **options)
        assert f"rewards/{name}/mean" in names
        if export.custom_code:
            assert_rises(rewards)


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "form"), [("KTO", "unpaired"), ("DPO", "paired")])
def test_preference_data_train_a_policy(on_text, policy, tmp_path, trainer, form):
    pandas = pytest.importorskip("pandas")
    trl = pytest.importorskip("trl")
    pairs, y = make_texts(64)
    frame = pandas.DataFrame(pairs, columns=["prompt", "response"])
    frame["prompt"] = [f"q{i % 16}" for i in range(64)]
    data = to_preference_dataset(on_text, frame, form=form, actions=y)
    arguments = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=8,
        max_steps=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        logging_steps=1,
    )
    run = getattr(trl, f"{trainer}Trainer")(
        model=policy,
        args=arguments,
        train_dataset=data,
        processing_class=transformers.AutoTokenizer.from_pretrained(policy),
    )
    run.train()
    assert np.isfinite(run.state.log_history[0]["loss"])


def end_to_end(model, pairs, y, policy, tmp_path, *, embedder, steps=25, half=None, **settings):
    """Log, embedder, fit, save, load elsewhere, export, load, train: the same reward throughout."""
    n_shown = 24
    est = ImplicitRewardEstimator(
        embedder=LLMEmbedder(model, **embedder), random_state=0, **settings
    ).fit(pairs, y)
    some = pairs[:n_shown]
    expected = est.predict(some)
    est.save(tmp_path / "reward.zip")
    code = f"""
        import json
        from implicitrm_sk import ImplicitRewardEstimator
        from implicitrm_sk.integrations import reward_function, to_transformers

        est = ImplicitRewardEstimator.load({str(tmp_path / "reward.zip")!r})
        pairs = json.loads({json.dumps(some)!r})
        prompts, completions = map(list, zip(*pairs))
        export = to_transformers(est, None, {str(tmp_path / "rm")!r})
        print(json.dumps([
            est.predict([tuple(pair) for pair in pairs]).tolist(),
            reward_function(est)(prompts=prompts, completions=completions),
            export.custom_code,
            export.logit_shift,
        ]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded, by_function, custom, shift = json.loads(done.stdout.splitlines()[-1])
    assert_allclose(loaded, expected, atol=1e-5)
    assert_allclose(by_function, expected, atol=1e-5)
    export = SimpleNamespace(path=str(tmp_path / "rm"), custom_code=custom, logit_shift=shift)
    assert_allclose(rewards_of(export, some), expected, atol=1e-5)
    rounded = rewards_of(export, some, torch.bfloat16)
    assert_allclose(rounded, in_bfloat16(est, some), atol=2e-2)
    if half is not None:
        assert expected.std() > 0.05  # something to reproduce
        assert_allclose(rounded, expected, atol=half)
    options = {"trust_remote_code": True} if custom else {}
    options["steps"] = steps
    return train("GRPO", export.path, policy, tmp_path, **options)[0]


@pytest.mark.slow
def test_end_to_end(tiny_model, policy, tmp_path):
    rewards = end_to_end(
        tiny_model(),
        *make_texts(),
        policy,
        tmp_path,
        embedder={"pooling": "mean"},
        max_epochs=40,
        learning_rate_init=3e-3,
    )
    assert_rises(rewards)


def real_texts(n):
    """Return a log of what scikit-learn's documentation says, in which models are liked."""
    modules = (linear_model, ensemble, svm, neighbors, cluster, decomposition)
    found = {
        name: getattr(module, name)
        for module in modules + (metrics, preprocessing)
        for name in module.__all__
    }
    found = {name: thing for name, thing in found.items() if inspect.getdoc(thing)}
    names = np.random.default_rng(0).permutation(sorted(found))[:n]
    pairs = [
        (f"What does {name} of scikit-learn do?", inspect.getdoc(found[name])[:500])
        for name in names
    ]
    preferred = np.array([hasattr(found[name], "predict") for name in names])
    rng = np.random.default_rng(1)
    return pairs, (preferred[:, None] & (rng.uniform(size=(len(names), 2)) < 0.6)).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embedder", "settings", "half"),
    [
        ({"pooling": "mean"}, {}, 2e-2),
        # In bfloat16 the language model moves the last token's vector by 0.06 logits (standard
        # deviation); head and shift add 0.003 at most.
        (LAST, STOCK, None),
    ],
    ids=["own", "stock"],
)
def test_end_to_end_with_smollm2(smollm2, policy, tmp_path, embedder, settings, half):
    """A real language model on real texts; `half`: of bfloat16 against the float32 estimator.

    In so few steps a policy learns little, but the rewards agree.
    """
    pairs, y = real_texts(200)
    rewards = end_to_end(
        smollm2, pairs, y, policy, tmp_path, embedder=embedder, steps=2, half=half, **settings
    )
    assert np.isfinite(rewards).all()
