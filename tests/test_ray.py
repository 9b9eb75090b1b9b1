"""Embedding a data set with Ray gives what the embedder gives, row by row."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from implicitrm_sk import LLMEmbedder
from implicitrm_sk.embedding import embed_dataset

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs pip install "implicitrm-sk[ray]"'
)
# A process of its own: what Ray warns of is not this package's doing.
JOB = """
import sys, ray
from implicitrm_sk.embedding import embed_dataset
model, source, *destinations = sys.argv[1:]
ray.init(num_cpus=4, include_dashboard=False)
for destination in destinations:
    embed_dataset(source, destination, model, n_workers=2, batch_size=50)
try:
    embed_dataset(destinations[0], destinations[0] + "again", model)
except ValueError as error:
    print(error)
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


@needs_ray
@pytest.mark.slow
def test_equal_to_the_local_path_row_by_row(tmp_path, tiny_model):
    frame = make_frame(400)
    (tmp_path / "source").mkdir()
    for part in range(4):  # several files, read side by side
        frame[100 * part : 100 * (part + 1)].to_parquet(tmp_path / "source" / f"{part}.parquet")
    places = [str(tmp_path / name) for name in ("source", "one", "two")]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", JOB, tiny_model(), *places],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
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


def test_destination_that_is_not_empty(tmp_path, tiny_model):
    pytest.importorskip("ray", reason='needs pip install "implicitrm-sk[ray]"')
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty: rows of another job would mix"):
        embed_dataset("nothing.parquet", tmp_path, tiny_model())


def test_without_ray(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r'with Ray needs .* pip install "implicitrm-sk\[ray\]"'):
        embed_dataset("nothing.parquet", tmp_path, tiny_model())
