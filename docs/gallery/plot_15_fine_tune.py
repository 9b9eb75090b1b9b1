"""
Train the language model itself
===============================

A reward can use only what the vectors of its language model contain. `fine_tune` starts at a fitted
estimator and trains the language model too, with the same likelihood of the same actions.
"""

# %%
# The language model of this example has two layers, random weights and a vocabulary of words, so
# that everything runs in seconds. Users copy answers that they like and regenerate the others. They
# like answers in the right order, which say "open" before they say "save".
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.integrations import fine_tune
from implicitrm_sk.metrics import reward_metrics

words = "open save file menu line again then twice".split()
rng = np.random.default_rng(0)
texts = [" ".join(rng.permutation(words)[rng.integers(3) :]) for _ in range(2000)]
texts = [text for text in texts if "open" in text and "save" in text][:1200]
liked = np.array([text.index("open") < text.index("save") for text in texts])
log = simulate_feedback(
    liked.astype(int),
    signals=["positive", "negative"],
    propensity="constant",
    rate=0.6,
    random_state=0,
)

folder = tempfile.mkdtemp()
vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *words])}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
).save_pretrained(folder)
with torch.random.fork_rng():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)

# %%
# **Frozen first.** All texts contain both words. The vector of a text is a mean over its words, so
# it hardly shows which one came first.
train = np.arange(1200) < 900
train_texts, test_texts = texts[:900], texts[900:]
frozen = ImplicitRewardEstimator(
    embedder=LLMEmbedder(folder, cache_dir=None),
    signals=["positive", "negative"],
    learning_rate_init=0.01,
    random_state=0,
).fit(train_texts, log.actions[train])


def r2(est):
    """Return R2 against the true preference of the test texts."""
    return reward_metrics(liked[~train].astype(int), est.predict(test_texts))["r2"]


print(f"R2 of the frozen model: {r2(frozen):.2f}")

# %%
# **Then the language model.** The rows that early stopping of `fit` held out are held out again.
# The steps are large because the model is tiny. For a real one leave `args` out.
tuned = fine_tune(
    frozen,
    train_texts,
    log.actions[train],
    output_dir=folder + "/run",
    args={"learning_rate": 0.005, "num_train_epochs": 8},
)
print(f"R2 of the tuned model: {r2(tuned):.2f}")
run = tuned.fine_tuning_
before, after = run["log_likelihood_frozen"], run["log_likelihood"]
print(f"held-out log-likelihood: {after:.3f}, before {before:.3f}")

# %%
# Training stops by the held-out likelihood, which does not need labels.
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
steps, values = zip(*((e["step"], e["log_likelihood"]) for e in run["history"]), strict=True)
ax.plot(steps, values, "o-", color="#0072B2", label="language model and heads")
ax.axhline(before, color="#999999", label="frozen language model")
ax.set(xlabel="step", ylabel="held-out log-likelihood\n(nats per row)")
_ = ax.legend(loc="upper left")
