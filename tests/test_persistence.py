"""Saved models: complete, safe to open, readable for good."""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import stat
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_log
from hub import running_hub
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save
from sklearn import config_context
from sklearn.exceptions import NotFittedError

from implicitrm_sk import (
    IdentificationWarning,
    ImplicitRewardEstimator,
    ModelFileError,
)
from implicitrm_sk.objectives import OBJECTIVES, Naive, Objective
from implicitrm_sk.persistence._checks import FITTED
from implicitrm_sk.persistence._files import MAX_SIZE, digest
from implicitrm_sk.persistence._model import FORMAT_VERSION

FORMATS = Path(__file__).parent / "formats"
NAMES = ("implicitrm.json", "estimator.json", "arrays.safetensors")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving"),
    pytest.mark.filterwarnings("ignore:.*works on one signal"),
]


def draw_log(n_signals=2):
    X, y, _ = make_log(200, 5, None if n_signals == 1 else n_signals, propensity=0.6)
    return X, y.astype(float)


def fitted(n_signals=2, **kwargs):
    settings = {"max_epochs": 2, "random_state": 0, "n_estimators": 2, "hidden_layer_sizes": 3}
    return ImplicitRewardEstimator(**(settings | kwargs)).fit(*draw_log(n_signals=n_signals))


@pytest.fixture(scope="module")
def estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted()


def assert_same(one, other, X, y):
    """Assert that two estimators agree bit by bit in everything that they tell."""
    assert one.get_params() == other.get_params() or one.objective is not other.objective
    for method in ("predict", "decision_function", "predict_proba"):
        assert hasattr(one, method) == hasattr(other, method)
        if not hasattr(one, method):
            continue
        assert_array_equal(getattr(one, method)(X), getattr(other, method)(X))
    for part in zip(
        one.predict(X, return_std=True), other.predict(X, return_std=True), strict=True
    ):
        assert_array_equal(*part)
    if one.objective_.models_actions:
        assert one.score(X, y) == other.score(X, y)
    mine, its = (
        {name for name in vars(each) if name.endswith("_") and not name.startswith("__")}
        for each in (one, other)
    )
    assert mine == its
    for name in ("identification_", "evidence_", "history_", "n_iter_", "group_names_"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("feature_names_in_", "signal_names_in_", "classes_", "false_action_rate_"):
        assert_array_equal(getattr(one, name, None), getattr(other, name, None))


# ---------------------------------------------------------------------- completeness


@pytest.mark.parametrize("name", ["folder", "deep/er/model.zip"])
@pytest.mark.parametrize("n_signals", [1, 2])
def test_loads_as_it_was(name, n_signals, tmp_path):
    est = fitted(n_signals)
    est.save(tmp_path / name)
    assert_same(est, ImplicitRewardEstimator.load(tmp_path / name), *draw_log(n_signals=n_signals))
    assert not list(tmp_path.rglob(".*"))  # nothing temporary is left


@pytest.mark.parametrize(
    "name", [name for name, cls in OBJECTIVES.items() if not cls.needs_both_polarities]
)
def test_every_objective_of_the_package_is_saved(name, tmp_path):
    rate = 0.5 if OBJECTIVES[name].needs_preference_rate else None
    est = fitted(1, objective=name, preference_rate=rate)
    est.save(tmp_path / "model")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert type(loaded.objective_) is type(est.objective_)
    np.testing.assert_equal(vars(loaded.objective_), vars(est.objective_))
    assert_same(est, loaded, *draw_log(n_signals=1))


@pytest.mark.parametrize(
    "settings",
    [
        {"standardize": False},
        {"dtype": "float64"},
        {"dtype": "bfloat16"},
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": [4, 3], "propensity_hidden_layer_sizes": np.int64(2)},
        {"reward_features": [0, 1], "propensity_features": slice(1, None)},
        {"reward_features": np.array([True, True, False, False, False])},
        {"false_action_rate": [0.0, 0.05]},
        {"preference_rate": (0.4, 0.6)},
        {"learning_rate_init": np.float64(1e-3), "random_state": np.random.RandomState(3)},
        {"early_stopping": False, "objective": Naive()},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_are_saved(settings, tmp_path):
    est = fitted(**settings)
    est.save(tmp_path / "model.zip")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model.zip")
    for name in set(settings) - {"random_state", "objective"}:
        assert type(getattr(loaded, name)) is type(getattr(est, name))
        assert_array_equal(getattr(loaded, name), getattr(est, name))
    loaded.set_params(**{name: getattr(est, name) for name in settings})
    assert_same(est, loaded, *draw_log())


def test_names_of_columns_and_signals_are_saved(tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = draw_log()
    X = pandas.DataFrame(X, columns=["a", "b|`c", "d\n", "привет", "e"])
    y = pandas.DataFrame(y, columns=["copied", "# shared"])
    est = ImplicitRewardEstimator(max_epochs=2, reward_features=["a", "d\n"]).fit(X, y)
    est.save(tmp_path / "model")
    assert_same(est, ImplicitRewardEstimator.load(tmp_path / "model"), X, y)


def test_partial_fit_goes_on_bit_by_bit(tmp_path):
    X, y = draw_log()
    est = ImplicitRewardEstimator(n_estimators=2, random_state=np.random.RandomState(0))
    est.partial_fit(X[:100], y[:100])
    est.save(tmp_path / "model")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    for _ in range(2):
        est.partial_fit(X[100:], y[100:], sample_weight=np.linspace(0, 1, 100))
        loaded.partial_fit(X[100:], y[100:], sample_weight=np.linspace(0, 1, 100))
    assert_same(est, loaded, X, y)


def test_warm_start_goes_on(tmp_path):
    est = fitted(warm_start=True)
    est.save(tmp_path / "model")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert_same(est.fit(*draw_log()), loaded.fit(*draw_log()), *draw_log())


def test_metadata_requests_are_saved(tmp_path):
    with config_context(enable_metadata_routing=True):
        est = fitted().set_fit_request(sample_weight=False, labels="label")
        est.save(tmp_path / "model")
        loaded = ImplicitRewardEstimator.load(tmp_path / "model")
        requests = loaded.get_metadata_routing().fit.requests
        assert requests["sample_weight"] is False
        assert requests["labels"] == "label"
        assert requests == est.get_metadata_routing().fit.requests


def test_a_saved_model_is_replaced_and_nothing_else(estimator, tmp_path):
    for name in ("model", "model.zip"):
        estimator.save(tmp_path / name)
        fitted(n_estimators=3).save(tmp_path / name)
        assert ImplicitRewardEstimator.load(tmp_path / name).n_estimators == 3
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    (tmp_path / "folder.zip").mkdir()
    for name, message in {
        "model": r"not of a saved model \(notes.txt\)",
        "file": "something else than a folder",
        "link": "something else than a folder",
        "folder.zip": "a folder is in the way",
    }.items():
        with pytest.raises(OSError, match=message):
            estimator.save(tmp_path / name)
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert ImplicitRewardEstimator.load(tmp_path / "model").n_estimators == 3


@pytest.mark.parametrize("name", ["model", "model.zip"])
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failed_save_leaves_the_old_model(estimator, name, step, tmp_path, monkeypatch):
    fitted(n_estimators=3).save(tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    real = os.rename

    def fail(*args):
        # Only moving the new one into its place fails, not what puts the old one back.
        if step == "fsync" or ".tmp" in str(args[0]):
            raise OSError("disk full")
        return real(*args)

    monkeypatch.setattr(os, step if step == "fsync" or name == "model" else "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        estimator.save(tmp_path / name)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_same_model_gives_the_same_bytes(estimator, tmp_path):
    for name in ("a.zip", "b.zip"):
        estimator.save(tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


class Mine(Objective):
    """An objective that is none of the package's."""

    single_signal = True
    models_propensity = False

    def loss(self, reward_logit, propensity_logit, batch):
        return (torch.sigmoid(reward_logit) - batch.actions[:, 0]) ** 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": Mine()},
            "objective is an objective of class Mine, which is not part",
        ),
        (
            {"reward_features": lambda X: [0, 1]},
            r"reward_features is a callable .*set_params\(reward_features=est.reward_columns_\)",
        ),
        ({"verbose": np.array(["a"], dtype="S1")}, "verbose holds a ndarray of dtype .S1"),
        ({"device": b"cpu"}, "device holds a bytes, which cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(settings, message, tmp_path):
    late = {name: settings.pop(name) for name in ("verbose", "device") if name in settings}
    est = fitted(**settings).set_params(**late)
    with pytest.raises(ValueError, match=message):
        est.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    if "reward_features" in settings:
        est.set_params(reward_features=est.reward_columns_).save(tmp_path / "model")


def test_unknown_attributes_and_unfitted_estimators_are_refused(tmp_path):
    est = fitted()
    est.extra_ = 3
    with pytest.raises(ValueError, match="the attribute extra_ .* would be lost"):
        est.save(tmp_path / "model")
    with pytest.raises(NotFittedError, match="not fitted"):
        ImplicitRewardEstimator().save(tmp_path / "model")


def test_model_card(tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = draw_log()
    y = pandas.DataFrame(y, columns=["copied", "a|b`\n# Heading"])
    est = ImplicitRewardEstimator(max_epochs=2, false_action_rate=0.01).fit(
        X, y, labels=np.where(np.arange(200) < 30, y.iloc[:, 0], np.nan)
    )
    est.save(tmp_path / "model", metrics={"AUROC on rated responses": 0.8125})
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: implicitrm-sk\n")
    for text in (
        "200 responses with something logged",
        '2 kinds of feedback: `"copied"` (positive), `"a\\|b\'\\n# Heading"` (positive)',
        "30 responses with an explicit label",
        "false-action rates (given): 0.01, 0.01",
        f"**{est.identification_}**",
        "| AUROC on rated responses | 0.8125 |",
        "held-out criterion of early stopping",
        "## Intended use",
    ):
        assert text in card, text
    assert "\n# Heading" not in card
    assert "](http" not in card  # the package has no page of its own yet
    (tmp_path / "model" / "README.md").write_text("edited by its owner")
    ImplicitRewardEstimator.load(tmp_path / "model")
    with pytest.raises(ValueError, match="metrics must map names to numbers, got 'AUROC': '0.8'"):
        est.save(tmp_path / "model", metrics={"AUROC": "0.8"})


def test_card_says_what_one_signal_leaves_open(tmp_path):
    for objective, text in {
        "stratified": "any reward between P(action given x) and 1 fits the log equally well",
        "naive": "the probability of an action, which is not a reward",
    }.items():
        fitted(1, objective=objective).save(tmp_path / objective)
        card = (tmp_path / objective / "README.md").read_text()
        assert "**not identified**" in card
        assert text in card


# ---------------------------------------------------------------------- other machines, later times


def test_loads_on_a_machine_without_the_device(estimator, tmp_path):
    X, y = draw_log()
    estimator.set_params(device="xpu:7").save(tmp_path / "model")
    estimator.set_params(device="auto")
    with pytest.warns(UserWarning, match="device='xpu:7' is not available here"):
        loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert next(loaded.model_.parameters()).device.type == "cpu"
    assert_array_equal(loaded.predict(X), estimator.predict(X))


def test_loads_without_transformers_and_what_else_text_needs(estimator, tmp_path):
    estimator.save(saved := tmp_path / "model")
    code = f"""
        import sys
        for name in ("transformers", "huggingface_hub", "trl", "datasets", "pandas", "pyarrow"):
            sys.modules[name] = None
        import numpy as np
        from implicitrm_sk import ImplicitRewardEstimator
        est = ImplicitRewardEstimator.load({str(saved)!r})
        print(est.predict(np.zeros((1, 5))).tolist())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == estimator.predict(np.zeros((1, 5))).tolist()


@pytest.mark.parametrize("folder", sorted(FORMATS.glob("*_*/")), ids=lambda path: path.name)
def test_files_of_every_format_version_load(folder):
    """`formats/make.py` wrote these; after a release they are never written again."""
    est = ImplicitRewardEstimator.load(folder)
    expected = json.loads(folder.with_suffix(".json").read_text())
    X = np.array(expected["X"])
    if hasattr(est, "feature_names_in_"):
        X = pytest.importorskip("pandas").DataFrame(X, columns=est.feature_names_in_)
    assert_allclose(est.predict(X), expected["reward"], rtol=1e-5)
    assert_allclose(est.predict_action(X), expected["action"], rtol=1e-5)
    assert est.identification_.level == expected["level"]
    assert est.n_iter_ == len(est.history_) == expected["n_iter"]
    for name, value in est.__getstate__()["model_"]["parameters"].items():
        assert np.isfinite(value).all(), name


def test_there_is_a_file_of_every_format_version():
    versions = {path.name.split("_")[0] for path in FORMATS.glob("*_*/")}
    assert versions == {f"v{i + 1}" for i in range(FORMAT_VERSION)}


def test_newer_formats_are_refused(estimator, tmp_path):
    estimator.save(tmp_path / "model")
    reseal(tmp_path / "model", format_version=FORMAT_VERSION + 1)
    with pytest.raises(ModelFileError, match="Install a newer implicitrm-sk"):
        ImplicitRewardEstimator.load(tmp_path / "model")


# ---------------------------------------------------------------------- hostile input


def reseal(folder, **changes):
    """Let the manifest of a folder agree with what the folder holds now."""
    manifest = json.loads((folder / "implicitrm.json").read_text())
    for name in NAMES[1:]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    manifest.update(changes)
    manifest["sha256"] = digest(manifest)
    (folder / "implicitrm.json").write_text(json.dumps(manifest))


class Watch:
    """Records, while on, what the interpreter does besides reading: by `sys.addaudithook`."""

    EVENTS = re.compile(
        r"exec|compile|import|pickle\..*|marshal\..*|os\.(system|exec|fork|posix_spawn|rename|remove"
        r"|mkdir|rmdir|link|symlink|truncate|chmod|chown|putenv).*|subprocess\..*|socket\..*"
        r"|ctypes\..*|shutil\..*|tempfile\..*"
    )

    def __init__(self):
        self.on = False
        self.seen = []
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if not self.on:
            return
        writes = event == "open" and (
            (isinstance(args[1], str) and set(args[1]) & set("wax+"))
            or (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )
        if writes or self.EVENTS.fullmatch(event):
            self.seen.append((event, str(args)[:200]))


@pytest.fixture(scope="module")
def watch():
    return Watch()


def load_watched(path, watch):
    """Load and return the error, or None; fail if anything but reading happened."""
    watch.seen.clear()
    watch.on = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a device is not there
            ImplicitRewardEstimator.load(path)
        error = None
    except Exception as raised:
        error = raised
    finally:
        watch.on = False
    assert not watch.seen, watch.seen
    return error


def assert_refused(path, watch):
    error = load_watched(path, watch)
    assert isinstance(error, ModelFileError | FileNotFoundError), (path, repr(error))
    text = str(error)
    assert path.name in text
    assert 20 < len(text) < 1200
    assert "\n" not in text


def flipped(content, rng):
    position = rng.randrange(len(content))
    return (
        content[:position]
        + bytes([content[position] ^ (1 << rng.randrange(8))])
        + (content[position + 1 :])
    )


def damage(content, rng):
    """Yield damaged versions of a file."""
    for _ in range(12):
        yield flipped(content, rng)
    for _ in range(8):
        yield content[: rng.randrange(len(content))]
    yield content + b"\0"
    yield content[: len(content) // 2] + rng.randbytes(40) + content[len(content) // 2 :]
    yield b""
    yield rng.randbytes(300)
    yield content.swapcase()


PAYLOAD = "__import__('os').system('touch implicitrm_was_here')"


class Malicious:
    def __reduce__(self):
        return (exec, (PAYLOAD,))


def bad_settings():
    """Return named edits of estimator.json, as functions of the parsed file."""

    def put(part, name, value):
        def edit(settings):
            settings[part][name] = value

        return edit

    def drop(part, name):
        return lambda settings: settings[part].pop(name)

    def config(**changes):
        def edit(settings):
            ((_, pairs),) = settings["fitted"]["model_"].items()
            old = dict(pairs[0][1]["dict"])
            pairs[0][1]["dict"] = [[key, value] for key, value in (old | changes).items()]

        return edit

    nested = []
    for _ in range(900):
        nested = [nested]
    huge = 10**18
    kinds = ("pickle", "callable", "__class__", "call__", "array", "requires", "decode", "eval")
    values = {
        "null": None,
        "text": PAYLOAD,
        "huge": huge,
        "negative": -1,
        "nested": nested,
        "objects": {"dict": [["a", {"dict": [["b", 1]]}]]},
        "nan": {"float": "nan"},
    }
    fitted_names = [name for name, field in FITTED.items() if field.needed]
    edits = {
        f"fitted-{name}-{label}": put("fitted", name, value)
        for name in fitted_names
        for label, value in values.items()
        if not (name == "scaler_" and label == "null")  # no standardisation
        and not (name in ("n_iter_",) and label == "huge")
    }
    edits |= {f"lacks-{name}": drop("fitted", name) for name in fitted_names}
    edits |= {f"kind-{kind}": put("parameters", "tol", {kind: PAYLOAD}) for kind in kinds}
    edits |= {
        "parameter-unknown": put("parameters", "device_map", "auto"),
        "parameter-type": put("parameters", "n_estimators", "4"),
        "parameter-range": put("parameters", "dropout", 7),
        "parameter-objective": put("parameters", "objective", "os.system"),
        "objective-unknown": put("fitted", "objective_", {"objective": [PAYLOAD, {"dict": []}]}),
        "objective-state": put(
            "fitted", "objective_", {"objective": ["stratified", {"dict": [["loss", 1]]}]}
        ),
        "attribute-method": put("fitted", "predict", PAYLOAD),
        "attribute-dunder": put("fitted", "__class__", PAYLOAD),
        "attribute-private": put("fitted", "_secret", [0.1]),
        "part-unknown": lambda settings: settings.update(code=PAYLOAD),
        "part-missing": lambda settings: settings.pop("fitted"),
        "part-list": lambda settings: settings.update(fitted=[PAYLOAD]),
        "two-kinds": put("parameters", "tol", {"float": "nan", "tuple": []}),
        "array-twice": put("fitted", "classes_", {"array": "reward_columns_"}),
        "array-swapped": lambda settings: settings["fitted"].update(
            reward_columns_=settings["fitted"]["false_action_rate_"],
            false_action_rate_=settings["fitted"]["reward_columns_"],
        ),
        "array-path": put("fitted", "classes_", {"array": "../../etc/passwd"}),
        "config-huge-input": config(n_in=huge),
        "config-huge-members": config(n_members=huge),
        "config-many-members": config(n_members=10**9),
        "config-huge-layer": config(hidden_layer_sizes={"tuple": [10**12]}),
        "config-many-layers": config(hidden_layer_sizes={"tuple": [3] * 10**5}),
        "config-negative": config(hidden_layer_sizes={"tuple": [-3]}),
        "config-text": config(hidden_layer_sizes={"tuple": [PAYLOAD]}),
        "config-columns": config(reward_columns={"tuple": [0, 10**6]}),
        "config-unknown": config(activation="eval"),
        "config-dropout": config(dropout=PAYLOAD),
        "config-no-propensity": config(with_propensity=False),
        "requests-method": lambda settings: settings.update(metadata_requests={"__init__": {}}),
        "requests-alias": lambda settings: settings.update(
            metadata_requests={"fit": {"sample_weight": "not an identifier"}}
        ),
        "generator": put(
            "fitted",
            "random_state_",
            {"random_state": {"dict": [["bit_generator", "PCG64"], ["state", 1]]}},
        ),
        "optimizer": put("fitted", "optimizer_state_", {"dict": [["state", PAYLOAD]]}),
    }
    return edits


def bad_arrays(arrays):
    """Yield contents of arrays.safetensors that are not what the settings speak of."""
    weight = next(name for name in arrays if "weights" in name)
    for name, value in {
        "shape": arrays[weight][:-1],
        "dtype": arrays[weight].astype(np.int32),
        "half": arrays[weight].astype(np.float16),
        "mixed": arrays[weight].astype(np.float64),
        "empty": arrays[weight][:0],
    }.items():
        yield name, save(arrays | {weight: value})
    columns = arrays["reward_columns_"]
    for name, value in {"outside": columns + 10**9, "unsorted": columns[::-1].copy()}.items():
        yield name, save(arrays | {"reward_columns_": value})
    for name in ("scaler_.scale_", "scaler_.mean_", "false_action_rate_"):
        yield f"nan-{name}", save(arrays | {name: np.full_like(arrays[name], np.nan)})
        yield f"negative-{name}", save(arrays | {name: np.full_like(arrays[name], -1)[:1]})
    yield "more", save(arrays | {"more": np.zeros(3)})
    yield "fewer", save({name: arrays[name] for name in list(arrays)[1:]})
    yield "pickle", pickle.dumps(Malicious())
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}})
    yield "header-huge", struct.pack("<Q", 10**15) + b"{}"
    yield "header-lies", struct.pack("<Q", len(header)) + header.encode() + bytes(64)
    for dtype in ("F8_E4M3", "BF16", "OBJECT", "F4"):
        header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}})
        yield f"dtype-{dtype}", struct.pack("<Q", len(header)) + header.encode() + bytes(4)


def bad_archives(folder):
    """Yield functions that write an archive which is not one of a saved model."""
    files = {name: (folder / name).read_bytes() for name in (*NAMES, "README.md")}

    def archive(extra=(), leave_out=(), compress=zipfile.ZIP_STORED, mode=stat.S_IFREG | 0o644):
        def write(path):
            with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
                warnings.simplefilter("ignore")  # of a name that occurs twice
                members = [item for item in files.items() if item[0] not in leave_out]
                for name, content in [*members, *extra]:
                    info = zipfile.ZipInfo(name)
                    info.external_attr = mode << 16
                    file.writestr(info, content, compress_type=compress)

        return write

    for name in ("../evil", "/implicitrm_was_here", "a/../../evil", "..\\evil", "C:\\evil", "",
                 "sub/estimator.json", "pickle.pkl", "\u202egnosj", "x" * 5000):  # fmt: skip
        yield f"slip-{name[:12]!r}", archive([(name, b"evil")], leave_out=["README.md"])
    yield "twice", archive([("estimator.json", b"{}")], leave_out=["README.md"])
    yield "symlink", archive(mode=stat.S_IFLNK | 0o777)
    yield "compressed", archive(compress=zipfile.ZIP_DEFLATED)
    yield (
        "bomb",
        archive(
            [("arrays.safetensors", bytes(2**26))], ["arrays.safetensors"], zipfile.ZIP_DEFLATED
        ),
    )
    yield (
        "settings-too-large",
        archive([("estimator.json", b" " * (2**26 + 1))], ["estimator.json"]),
    )
    for name in NAMES:
        yield f"lacks-{name}", archive(leave_out=[name])
    yield "empty-archive", archive(leave_out=list(files))

    def lying(path):
        """Declare a member larger than it is."""
        archive()(path)
        content = path.read_bytes()
        size = struct.pack("<I", len(files["arrays.safetensors"]))
        path.write_bytes(content.replace(size, struct.pack("<I", 2**31)))

    yield "declares-too-much", lying
    yield "encrypted", lambda path: (
        archive()(path),
        path.write_bytes(path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00",
                                                   b"PK\x01\x02\x14\x03\x14\x00\x01\x00")),
    )  # fmt: skip
    yield "a pickle", lambda path: path.write_bytes(pickle.dumps(Malicious()))
    yield "text", lambda path: path.write_text(PAYLOAD)
    yield "empty", lambda path: path.write_bytes(b"")
    yield "weights alone", lambda path: path.write_bytes(files["arrays.safetensors"])
    yield "torch pickle", lambda path: torch.save({"a": torch.zeros(2)}, path)


def bad_folders(folder):
    """Yield functions that make a folder which is not one of a saved model."""

    def copied(change):
        def make(path):
            shutil.copytree(folder, path)
            change(path)

        return make

    def link(name, target):
        def change(path):
            (path / name).unlink()
            (path / name).symlink_to(target)

        return copied(change)

    for name in NAMES:
        yield f"lacks-{name}", copied(lambda path, name=name: (path / name).unlink())
        yield f"link-{name}", link(name, folder / name)
        yield f"link-root-{name}", link(name, "/etc/passwd")
        yield f"device-{name}", link(name, "/dev/zero")

        def fifo(path, name=name):
            (path / name).unlink()
            os.mkfifo(path / name)

        yield f"fifo-{name}", copied(fifo)

        def directory(path, name=name):
            (path / name).unlink()
            (path / name).mkdir()

        yield f"directory-{name}", copied(directory)

        def sparse(path, name=name):
            with open(path / name, "r+b") as file:
                file.truncate(MAX_SIZE[name] + 1)

        yield f"sparse-{name}", copied(sparse)
    yield "empty-folder", lambda path: path.mkdir()
    yield (
        "pickle-instead",
        copied(lambda path: (path / "estimator.json").write_bytes(pickle.dumps(Malicious()))),
    )


def bad_manifests(folder):
    manifest = json.loads((folder / "implicitrm.json").read_text())
    files = manifest["files"]
    for name, changes in {
        "format": {"format": "other"},
        "version-text": {"format_version": "1"},
        "version-zero": {"format_version": 0},
        "version-true": {"format_version": True},
        "version-float": {"format_version": 1.0},
        "class": {"class": "os.system"},
        "no-files": {"files": {}},
        "list-files": {"files": [PAYLOAD]},
        "file-outside": {"files": files | {"../../etc/passwd": files["estimator.json"]}},
        "size": {"files": files | {"estimator.json": files["estimator.json"] | {"size": 1}}},
        "no-hash": {"files": files | {"estimator.json": {"size": files["estimator.json"]["size"]}}},
    }.items():
        changed = manifest | changes
        changed["sha256"] = digest(changed)
        yield name, json.dumps(changed)
    yield "number", "3"
    yield "deep", "[" * 10**5
    yield "constants", '{"format": NaN}'
    yield "twice", '{"format": 1, "format": 2}'
    yield "digits", '{"format_version": ' + "9" * 10**5 + "}"


def test_damaged_and_hostile_files_are_refused(estimator, watch, tmp_path):
    """Each gives a clear error; nothing is executed, nothing written."""
    rng = random.Random(0)
    good = tmp_path / "good"
    estimator.save(good)
    estimator.save(tmp_path / "good.zip")
    for name in ("good", "good.zip"):
        ImplicitRewardEstimator.load(tmp_path / name)  # imports what is imported lazily
        assert load_watched(tmp_path / name, watch) is None
    cases = []

    def case(name):
        path = tmp_path / f"{len(cases):03}-{re.sub(r'[^a-z0-9.-]', '_', name.lower())[:60]}"
        cases.append(path)
        return path

    for name in NAMES:
        for content in damage((good / name).read_bytes(), rng):
            shutil.copytree(good, path := case(f"damaged-{name}"))
            (path / name).write_bytes(content)
    archive = (tmp_path / "good.zip").read_bytes()
    for content in damage(archive, rng):
        # The card is not part of the model, nor are dates: flips there change nothing.
        case("damaged.zip").write_bytes(content)
    for name, edit in bad_settings().items():
        settings = json.loads((good / "estimator.json").read_text())
        edit(settings)
        shutil.copytree(good, path := case(f"settings-{name}"))
        (path / "estimator.json").write_text(json.dumps(settings))
        reseal(path)
    for name, content in bad_arrays(load_file(good / "arrays.safetensors")):
        shutil.copytree(good, path := case(f"arrays-{name}"))
        (path / "arrays.safetensors").write_bytes(content)
        reseal(path)
    for name, content in bad_manifests(good):
        shutil.copytree(good, path := case(f"manifest-{name}"))
        (path / "implicitrm.json").write_text(content)
    for name, write in bad_archives(good):
        write(case(f"archive-{name}.zip"))
    for name, make in bad_folders(good):
        make(case(f"folder-{name}"))
    cases.append(tmp_path / "nowhere")

    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    harmless = 0
    for path in cases:
        if path.name.endswith("damaged.zip") and load_watched(path, watch) is None:
            # Flips of a date, of the card or of padding; then the model is the one saved.
            loaded = ImplicitRewardEstimator.load(path)
            assert_same(estimator, loaded, *draw_log())
            harmless += 1
        else:
            assert_refused(path, watch)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not Path("implicitrm_was_here").exists() and not Path("/implicitrm_was_here").exists()
    assert len(cases) - harmless >= 200
    assert harmless <= 8


def test_random_edits_of_the_settings_never_do_harm(estimator, watch, tmp_path):
    """A value may be replaced by another legal one; then the model still predicts rewards."""
    rng = random.Random(1)
    estimator.save(tmp_path / "good")
    assert load_watched(tmp_path / "good", watch) is None
    text = (tmp_path / "good" / "estimator.json").read_text()
    leaves = [
        match.span()
        for match in re.finditer(
            r'(?<=[ \[])(-?\d[\d.e-]*|"[^"]*"|true|false|null)(?=[,\]}\n])', text
        )
    ]
    replacements = ("null", "true", "0", "-1", "1e308", "999999999999", '"x"', "[]", "{}", "[[1]]")
    n_refused = 0
    for i in range(150):
        start, end = rng.choice(leaves)
        shutil.copytree(tmp_path / "good", path := tmp_path / str(i))
        (path / "estimator.json").write_text(text[:start] + rng.choice(replacements) + text[end:])
        reseal(path)
        error = load_watched(path, watch)
        if error is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reward = ImplicitRewardEstimator.load(path).predict(draw_log()[0])
            assert ((reward >= 0) & (reward <= 1)).all()
        else:
            assert isinstance(error, ModelFileError), repr(error)
            n_refused += 1
    assert n_refused > 75


# ---------------------------------------------------------------------- hub


@pytest.mark.slow
def test_hub(estimator, tmp_path):
    """In processes of their own: huggingface_hub reads its address when it is imported."""
    estimator.save(tmp_path / "model")
    code = """
        import json
        import os
        import sys
        import warnings
        import numpy as np
        from implicitrm_sk import ImplicitRewardEstimator

        warnings.simplefilter("error", UserWarning)
        model, cache, urls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        load = ImplicitRewardEstimator.from_pretrained
        if not urls:
            est = load(model)
            urls.append(est.push_to_hub(
                "someone/reward", metrics={"AUROC": 0.9}, commit_message="First", private=True,
                token="hf_secret",
            ))
            est.set_params(n_iter_no_change=7).push_to_hub("someone/reward", token="hf_secret")
        found = [load("someone/reward", cache_dir=cache, token=False)]
        found.append(
            load("someone/reward", revision=urls[0].split("/")[-1], cache_dir=cache)
        )
        errors = []
        for name, options in (
            ("someone/empty", {}), ("someone/none", {}), (model, {"revision": "main"})
        ):
            try:
                load(name, cache_dir=cache, **options)
            except Exception as error:
                errors.append(type(error).__name__ + " " + " ".join(str(error).split()))
        print(json.dumps({
            "urls": urls,
            "rewards": [est.predict(np.zeros((1, 5))).tolist() for est in found],
            "n_iter_no_change": [est.n_iter_no_change for est in found],
            "errors": errors,
        }))
    """

    def run(urls, **env):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), tmp_path / "model", tmp_path / "cache",
             json.dumps(urls)],
            capture_output=True,
            text=True,
            env=os.environ
            | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
            | env,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    with running_hub() as hub:
        hub.commits["someone/empty"] = [("0" * 40, {"README.md": b"nothing"})]
        online = run([])
        (first, files), (_, _) = hub.commits["someone/reward"]
    assert online["urls"] == [f"{hub.url}/someone/reward/commit/{first}"]
    assert set(files) == {*NAMES, "README.md"}
    assert b"| AUROC | 0.9 |" in files["README.md"]
    for name in NAMES:
        assert files[name] == (tmp_path / "model" / name).read_bytes()
    assert online["rewards"] == [estimator.predict(np.zeros((1, 5))).tolist()] * 2
    assert online["n_iter_no_change"] == [7, 10]
    empty, none, local = online["errors"]
    assert empty.startswith("ModelFileError 'someone/empty' cannot be loaded: the folder has no")
    assert none.startswith("RepositoryNotFoundError")
    assert local.startswith("ImplicitRMError") and "is a local path" in local
    # What was downloaded is there without the hub; the token is nowhere on the disk.
    offline = run(online["urls"], HF_HUB_OFFLINE="1")
    assert offline["rewards"] == online["rewards"]
    assert offline["n_iter_no_change"] == [7, 10]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes()


def test_identification_warning_is_not_given_on_loading(tmp_path):
    with pytest.warns(IdentificationWarning):
        est = fitted(1)
    est.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentificationWarning)
        ImplicitRewardEstimator.load(tmp_path / "model").predict(draw_log()[0])
