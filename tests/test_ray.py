"""Embedding a data set with Ray gives what the embedder gives, row by row."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk._ray import warn_if_starved
from implicitrm_sk.embedding import embed_dataset

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs pip install "implicitrm-sk[ray]"'
)
# A process of its own: what Ray warns of is not this package's doing. "local": a cluster that
# another job has left on this machine would be joined otherwise.
JOB = """
import sys, ray
from implicitrm_sk.embedding import embed_dataset
model, source, *destinations = sys.argv[1:]
ray.init("local", num_cpus=4, include_dashboard=False)
for destination in destinations:
    embed_dataset(source, destination, model, n_workers=2, batch_size=50)
try:
    embed_dataset(destinations[0], destinations[0] + "again", model)
except ValueError as error:
    print(error)
"""


# Two machines, as far as Ray can tell, of two cores each.
CLUSTER_JOB = """
import json, sys
import joblib, numpy as np, pandas as pd, ray
from ray.cluster_utils import Cluster
from ray.util.joblib import register_ray
from sklearn.model_selection import GridSearchCV
from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, _ray
from implicitrm_sk.integrations import predict_dataset

source, destination, saved = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
cluster.add_node(num_cpus=2)
ray.init(address=cluster.address)
frame = pd.read_parquet(source)
X, y = np.stack(frame["embedding"]), frame[["copied", "shared"]].to_numpy()
est = ImplicitRewardEstimator(max_epochs=3, random_state=0)
grid = {"dropout": [0.0, 0.2], "learning_rate_init": [1e-3, 1e-2]}
register_ray()
scores = {"nodes": len({node["NodeID"] for node in ray.nodes() if node["Alive"]})}
for cls in (GridSearchCV, BatchedSearchCV):
    search = cls(est, grid, cv=2, n_jobs=2)
    alone = search.fit(X, y).cv_results_["mean_test_score"].tolist()
    with joblib.parallel_config("ray"):
        there = search.fit(X, y).cv_results_["mean_test_score"].tolist()
    scores[cls.__name__] = [alone, there]
search.best_estimator_.save(saved)
_ray.ROWS_PER_GROUP = 50
predict_dataset(source, destination, saved, n_workers=2, batch_size=64)
print(json.dumps(scores))
try:
    predict_dataset(source, destination + "again", saved, embedding="vector")
except ValueError as error:
    print(error)
ray.shutdown()  # before its nodes go
cluster.shutdown()
"""


def make_frame(n):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "prompt": [f"question {i}" for i in range(n)],
            "rating": rng.uniform(size=n),
            "response": ["word " * rng.integers(0, 30) + str(i % 150) for i in range(n)],
        }
    )


def run_job(code, *arguments):
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    return process


@needs_ray
@pytest.mark.alone
@pytest.mark.slow
def test_equal_to_the_local_path_row_by_row(tmp_path, tiny_model):
    frame = make_frame(400)
    (tmp_path / "source").mkdir()
    for part in range(4):  # several files, read side by side
        frame[100 * part : 100 * (part + 1)].to_parquet(tmp_path / "source" / f"{part}.parquet")
    places = [str(tmp_path / name) for name in ("source", "one", "two")]
    process = run_job(JOB, tiny_model(), *places)
    assert "source has a column 'embedding' already" in process.stdout
    expected = LLMEmbedder(tiny_model(), cache_dir=None).transform(frame)
    for place in places[1:]:  # computed, and from the store
        result = pd.read_parquet(place)
        # Ray writes blocks in the order in which they are done.
        number = result["prompt"].str.removeprefix("question ").astype(int)
        result = result.iloc[number.argsort()].reset_index(drop=True)
        pd.testing.assert_frame_equal(result[list(frame.columns)], frame)
        np.testing.assert_allclose(np.stack(result["embedding"]), expected, atol=1e-5)
    assert LLMEmbedder(tiny_model()).store.info()["n_embeddings"] == 400


@needs_ray
@pytest.mark.alone
@pytest.mark.slow
def test_searches_and_rewards_on_a_cluster_of_two(tmp_path):
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 8)).astype(np.float32)
    preferred = X[:, 0] > 0
    frame = pd.DataFrame(
        {
            "number": np.arange(400),
            "embedding": list(X),
            "copied": (preferred & (rng.uniform(size=400) < 0.6)).astype(float),
            "shared": (preferred & (rng.uniform(size=400) < 0.4)).astype(float),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    names = ("log.parquet", "scored", "reward.zip")
    places = [str(tmp_path / name) for name in names]
    process = run_job(CLUSTER_JOB, *places)
    assert "source lacks the column 'vector'; it has number, embedding" in process.stdout
    scores = json.loads(
        next(line for line in process.stdout.splitlines() if line.startswith('{"nodes"'))
    )
    assert scores.pop("nodes") == 2
    for alone, there in scores.values():
        np.testing.assert_allclose(there, alone, atol=1e-5)
    est = ImplicitRewardEstimator.load(places[2])
    reward, std = est.predict(X, return_std=True)
    result = pd.read_parquet(places[1]).sort_values("number")
    np.testing.assert_allclose(result["reward"], reward, atol=1e-6)
    np.testing.assert_allclose(result["reward_std"], std, atol=1e-6)
    assert result["copied"].tolist() == frame["copied"].tolist()
    for path in (tmp_path / "scored").iterdir():
        metadata = pyarrow.parquet.ParquetFile(path).metadata
        assert metadata.row_group(0).num_rows <= 50


def test_workers_that_take_all_cpus():
    """Ray would wait for ever, without a word at first."""
    warn_if_starved(3, 4.0)
    with pytest.warns(UserWarning, match="n_workers=4 leaves none of the cluster's 4 CPUs"):
        warn_if_starved(4, 4.0)


def test_destination_that_is_not_empty(tmp_path, tiny_model):
    pytest.importorskip("ray", reason='needs pip install "implicitrm-sk[ray]"')
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty: rows of another job would mix"):
        embed_dataset("nothing.parquet", tmp_path, tiny_model())


def test_without_ray(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r'with Ray needs .* pip install "implicitrm-sk\[ray\]"'):
        embed_dataset("nothing.parquet", tmp_path, tiny_model())
