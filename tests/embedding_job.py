"""A process that embeds texts, to be killed, doubled and watched by the tests of the store."""

import multiprocessing
import os
import signal
import time

import numpy as np

context = multiprocessing.get_context("forkserver")
# Children are forks of a process that has imported what takes seconds.
context.set_forkserver_preload(
    [
        "embedding_job",
        "implicitrm_sk.embedding",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        "transformers.tokenization_utils_tokenizers",
    ]
)


def make_texts(first, last):
    return [f"text number {i} " + "and more " * (i % 7) for i in range(first, last)]


def work(model, folder, first, last, pause, log, out):
    """Embed texts; log each batch before it is computed: rows, and a hash of its first text."""
    import torch

    from implicitrm_sk.embedding import LLMEmbedder, _embedder

    torch.set_num_threads(1)
    forward = _embedder.embed_batch

    def watched(model, tokens, rows, **kwargs):
        first = tokens.flat[tokens.starts[rows[0]] : tokens.starts[rows[0] + 1]]
        with open(log, "a") as file:
            file.write(f"{len(rows)} {first.tobytes().hex()}\n")
        time.sleep(pause)
        return forward(model, tokens, rows, **kwargs)

    _embedder.embed_batch = watched
    embedder = LLMEmbedder(model, cache_dir=folder, batch_tokens=1000)
    np.save(out, embedder.transform(make_texts(first, last)))


class Job:
    """One such process."""

    def __init__(self, model, folder, name, first, last, *, pause=0.0, store="store"):
        self.log, self.out = folder / f"{name}.log", folder / f"{name}.npy"
        arguments = model, folder / store, first, last, pause, self.log, self.out
        self.process = context.Process(target=work, args=arguments)
        self.process.start()

    def batches(self):
        """Return the batches that it began to compute."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def n_rows(self):
        return sum(int(batch.split()[0]) for batch in self.batches())

    def wait(self):
        self.process.join(300)
        assert self.process.exitcode == 0
        return np.load(self.out)

    def kill(self):
        """Kill it without a chance to clean up; it must not be done yet."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL, "the job was done before it was killed"
