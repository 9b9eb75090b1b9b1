"""
GRPO in twenty lines
====================

A reward that was learned from users' actions trains a policy (a language model) with TRL's
GRPOTrainer. The models are tiny and random, so that this page builds in seconds on a CPU. It shows
the code, which is the same for a model of any size. It does not show that a random model learns.
"""

# %%
# A tiny language model
# ---------------------
# It has two layers, and its tokens are bytes. Use ``"HuggingFaceTB/SmolLM2-135M-Instruct"`` or your
# own model in its place.
import tempfile
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

transformers.utils.logging.disable_progress_bar()
folder = tempfile.mkdtemp()
tokens = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
tokenizer = Tokenizer(
    models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>")
)
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), tokens, strict=False))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
tokenizer.chat_template = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
)
config = transformers.LlamaConfig(
    vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
torch.manual_seed(0)
transformers.LlamaForCausalLM(config).save_pretrained(folder)
_ = tokenizer.save_pretrained(folder)

# %%
# The twenty lines
# ----------------
# The log has answers that were copied and shared. The trainer takes the reward that was learned
# from it.
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk.integrations import reward_function

rng = np.random.default_rng(0)
answers = np.array(["Here is how: first ...", "I cannot help."])
good = rng.integers(2, size=400) == 0
questions = [f"How do I fix bug {i}?" for i in range(400)]
log = pd.DataFrame({"prompt": questions, "response": np.where(good, *answers)})
actions = good[:, None] & (rng.random((400, 2)) < [0.6, 0.4])

reward = ImplicitRewardEstimator(embedder=LLMEmbedder(folder, cache_dir=None), random_state=0)
reward.fit(log, actions.astype(int))
prompts = [[{"role": "user", "content": question}] for question in questions[:8]]
warnings.filterwarnings("ignore", category=FutureWarning)
settings = GRPOConfig(
    tempfile.mkdtemp(), max_steps=3, num_generations=4, per_device_train_batch_size=4,
    max_completion_length=16, logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
)  # fmt: skip
trainer = GRPOTrainer(
    model=folder,
    reward_funcs=reward_function(reward, output="logit", pessimism=1.0),
    args=settings,
    train_dataset=Dataset.from_dict({"prompt": prompts}),
)
trainer.remove_callback(transformers.PrinterCallback)
_ = trainer.train()

# %%
# The figure shows the rewards that the trainer logged, and the logits of two answers of the log:
history = pd.DataFrame(trainer.state.log_history).filter(regex="implicit_reward").dropna()
print(history.round(1).to_string())
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
mean = history.filter(like="mean").iloc[:, 0]
ax.plot(range(1, len(mean) + 1), mean, "o-", color="#0072B2", label="policy")
for answer, style in zip(answers, ("--", ":"), strict=True):
    (logit,) = reward.decision_function([("How do I fix bug 3?", answer)])
    ax.axhline(logit, color="black", linestyle=style, label=f'"{answer}"')
ax.set(xlabel="step", ylabel="reward (logit)", xticks=range(1, len(mean) + 1))
_ = figure.legend(loc="outside lower center", ncols=3, frameon=False)

# %%
# A random policy writes random bytes, which are unlike anything in the log. The rewards are low,
# and the networks of the fit disagree about them: this is the spread. ``pessimism`` subtracts it,
# which is not a guarantee. In a real run compare the policy's answers with the log from time to
# time, as the example on drift does.
