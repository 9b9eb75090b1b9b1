"""Embedding text: speed, equality, the store, the search, memory, and what the vectors are worth.

    python -m benchmarks.embedding --data-home DIR [--only PART ...]

Parts: `throughput` against sentence-transformers' `encode`, on real responses (extra `benchmark`);
`store`, the second pass; `search`, how often GridSearchCV embeds a text; `memory` with a
memory-mapped result; `engines`, ways to keep vectors on disk; `preference`, R2 against true
preference of rewards learned from text, by two encoders. Models: the packages that `make models`
installs. Times are of one run on one machine: compare them with each other only.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
from implicitrm_sk.datasets import load_rated_responses, simulate_feedback
from implicitrm_sk.embedding import _embedder
from implicitrm_sk.embedding._models import packaged_model
from implicitrm_sk.embedding._store import Records
from implicitrm_sk.metrics import reward_metrics

#: Of one text, for both sides.
MAX_LENGTH = 256
#: bfloat16 is twice as fast for a decoder on the processors that have it.
DTYPES = {"minilm": "float32", "smollm2": "bfloat16"}


def real_responses(data_home, n):
    """Return n distinct prompts and responses of two data sets, in random order."""
    texts = {}
    for name in ("beavertails_test", "pku_saferlhf_safe"):
        data = load_rated_responses(name, data_home)
        texts |= dict.fromkeys(
            f"{prompt}\n{response}"
            for prompt, response in zip(data.prompt, data.response, strict=True)
        )
    return list(np.random.default_rng(0).permutation(np.array(list(texts), dtype=object))[:n])


def clock(function):
    """Return wall seconds, processor seconds and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def throughput(args, folder):
    """Compare with sentence-transformers, slice by slice in turns; fills the store."""
    from sentence_transformers import SentenceTransformer

    texts = real_responses(args.data_home, args.texts)
    model = packaged_model("minilm")
    embedder = LLMEmbedder(model, normalize=True, max_length=MAX_LENGTH, cache_dir=folder).fit()
    peer = SentenceTransformer(model, device="cpu")
    peer.max_seq_length = MAX_LENGTH
    peer.tokenizer.truncation_side = "left"  # the same tokens on both sides
    lengths = [len(tokens) for tokens in embedder.tokenize(texts)]
    quantiles = np.percentile(lengths, (5, 25, 50, 75, 95)).astype(int)
    peer.encode(texts[:8])
    LLMEmbedder(model, cache_dir=None).transform(texts[:8])

    seconds = {"sentence-transformers": np.zeros(2), "LLMEmbedder": np.zeros(2)}
    difference = 0.0
    parts = np.array_split(np.arange(len(texts)), args.slices)
    for number, part in enumerate(parts):
        part = [texts[i] for i in part]
        sides = {
            "sentence-transformers": lambda part=part: peer.encode(part, show_progress_bar=False),
            "LLMEmbedder": lambda part=part: embedder.transform(part),
        }
        vectors = {}
        for name in sorted(sides, reverse=number % 2):
            *times, vectors[name] = clock(sides[name])
            seconds[name] += times
        difference = max(difference, np.abs(np.subtract(*vectors.values())).max())
        ratio = seconds["sentence-transformers"] / seconds["LLMEmbedder"]
        print(f"  slice {number + 1}/{len(parts)}: {ratio[0]:.2f} x", file=sys.stderr, flush=True)
    print(
        f"{len(texts):,} distinct responses in {len(parts)} slices; tokens (5, 25, 50, 75, 95 %): "
        f"{', '.join(map(str, quantiles))}; float32, {torch.get_num_threads()} threads\n"
    )
    print("| | responses per s | of processor time | ratio, wall | ratio, processor |")
    print("|---|---|---|---|---|")
    for name, (wall, cpu) in seconds.items():
        ratio = seconds["sentence-transformers"] / seconds[name]
        print(
            f"| {name} | {len(texts) / wall:.1f} | {len(texts) / cpu:.1f} | {ratio[0]:.2f} | "
            f"{ratio[1]:.2f} |"
        )
    print(f"\nlargest difference between the two: {difference:.1e}\n")
    return embedder, texts, seconds["LLMEmbedder"][0]


def second_pass(args, folder):
    """Time the same texts again, from the store."""
    embedder, texts, first = throughput(args, folder)
    embedder.transform(texts[:8])
    second, _, _ = clock(lambda: embedder.transform(texts))
    assert embedder.stats_["n_computed"] == 0
    print("| pass | seconds | ratio |")
    print("|---|---|---|")
    print(f"| first: computed and stored | {first:.1f} | 1 |")
    print(f"| second: from the store | {second:.2f} | {first / second:.0f} |\n")
    info = embedder.store.info()
    print(f"{info['n_embeddings']:,} vectors on disk in {info['n_bytes'] / 1e6:.1f} MB\n")


@contextlib.contextmanager
def counted():
    """Count the texts that go through a model."""
    rows, forward = [], _embedder.embed_batch

    def count(model, tokens, part, **kwargs):
        rows.append(len(part))
        return forward(model, tokens, part, **kwargs)

    _embedder.embed_batch = count
    try:
        yield rows
    finally:
        _embedder.embed_batch = forward


def search(args, folder):
    """Count how often a search of 4 candidates and 3 folds embeds a text."""
    data = load_rated_responses("beavertails_test", args.data_home)
    rows = np.flatnonzero(~data.is_test)[: args.search_rows]
    pairs = [(data.prompt[i], data.response[i]) for i in rows]
    log = simulate_feedback(data.rating > 0.5, X=data.X, n_signals=2, random_state=0)
    embedder = LLMEmbedder(packaged_model("minilm"), max_length=MAX_LENGTH, cache_dir=folder)
    steps = make_pipeline(embedder, ImplicitRewardEstimator(max_epochs=20, random_state=0))
    grid = {"implicitrewardestimator__weight_decay": [0.001, 0.01, 0.1, 1.0]}
    with warnings.catch_warnings(), counted() as computed:
        warnings.simplefilter("ignore")
        found = GridSearchCV(steps, grid, cv=GroupKFold(3))
        wall, _, _ = clock(lambda: found.fit(pairs, log.actions[rows], groups=data.groups[rows]))
    n_calls = 4 * 3 * 2 + 1  # fit and score of each candidate and fold, and the refit
    print("| rows | distinct texts | fits and scores | texts embedded | seconds |")
    print("|---|---|---|---|---|")
    print(f"| {len(pairs)} | {len(set(pairs))} | {n_calls} | {sum(computed)} | {wall:.1f} |\n")


def resident_megabytes():
    """Return the resident set of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def memory(args, folder):
    """Watch the resident set while many short texts go into a memory-mapped array."""
    model = tiny_encoder(Path(folder) / "model", d=384)
    embedder = LLMEmbedder(model, cache_dir=Path(folder) / "store").fit()
    embedder.transform(["one text"])  # loads the model
    texts = [f"answer {i}: yes, {i * i}" for i in range(args.many)]
    out = np.lib.format.open_memmap(
        Path(folder) / "vectors.npy", "w+", dtype=np.float32, shape=(len(texts), 384)
    )
    before, samples, done = resident_megabytes(), [], threading.Event()

    def watch():
        while not done.wait(0.02):
            samples.append(resident_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wall, _, _ = clock(lambda: embedder.transform(texts, out=out))
    finally:
        done.set()
        watcher.join()
    half = len(samples) // 2
    print(
        "| texts | result | resident with the model | highest, first half | second half | growth |"
    )
    print("|---|---|---|---|---|---|")
    print(
        f"| {len(texts):,} | {out.nbytes / 1e6:.0f} MB | {before:.0f} MB | "
        f"{max(samples[:half]):.0f} MB | {max(samples[half:]):.0f} MB | "
        f"{max(samples) - before:.0f} MB |\n"
    )
    print(f"{wall:.0f} s")


def tiny_encoder(folder, d):
    """Save a small random BERT with MiniLM's tokenizer: what is measured is not the model."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model("minilm"))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=d,
        intermediate_size=d,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------- engines


class SQLiteEngine:
    """The store as it is."""

    def __init__(self, folder):
        self.records = Records(folder)
        self.records.__enter__()

    def put(self, keys, vectors):
        self.records.put(keys, vectors, [1] * len(keys), [0] * len(keys))

    def get(self, keys):
        return [vector for _, vector, *_ in self.records.get(keys)]

    def close(self):
        self.records.__exit__()


class LMDBEngine:
    """LMDB, one synced transaction per batch."""

    def __init__(self, folder):
        import lmdb

        self.environment = lmdb.open(str(folder), map_size=2**32)

    def put(self, keys, vectors):
        with self.environment.begin(write=True) as transaction:
            for key, vector in zip(keys, vectors, strict=True):
                transaction.put(key, vector.tobytes())

    def get(self, keys):
        with self.environment.begin() as transaction:
            return [np.frombuffer(transaction.get(key), dtype=np.float32) for key in keys]

    def close(self):
        self.environment.close()


class ShardEngine:
    """A safetensors file per batch, and its keys in the header."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()

    def put(self, keys, vectors):
        from safetensors.numpy import save

        data = save({"vectors": vectors, "keys": np.frombuffer(b"".join(keys), dtype=np.uint8)})
        path = self.folder / f"{len(list(self.folder.iterdir())):06}.safetensors"
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def get(self, keys):
        from safetensors.numpy import load_file

        found = {}
        for path in self.folder.iterdir():  # the index, read from the shards
            shard = load_file(path)
            names = shard["keys"].tobytes()
            found |= {
                names[16 * i : 16 * i + 16]: vector for i, vector in enumerate(shard["vectors"])
            }
        return [found[key] for key in keys]

    def close(self):
        pass


def engines(args, folder):
    """Time durable writes batch by batch, and reads in random order, of several engines."""
    rng = np.random.default_rng(0)
    n, d, batch = args.engine_rows, 384, 64
    keys = [rng.bytes(16) for _ in range(n)]
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    print(f"{n:,} vectors of {d} float32 numbers, durable in batches of {batch}\n")
    print("| engine | write, ms per batch | read all, s | read 100, ms | MB on disk |")
    print("|---|---|---|---|---|")
    for name, engine_class in (
        ("SQLite, as in the store", SQLiteEngine),
        ("LMDB", LMDBEngine),
        ("safetensors shards", ShardEngine),
    ):
        place = Path(folder) / engine_class.__name__
        try:
            engine = engine_class(place)
        except ImportError as error:
            print(f"| {name} | {error} | | | |")
            continue
        write, _, _ = clock(
            lambda engine=engine: [
                engine.put(keys[i : i + batch], vectors[i : i + batch]) for i in range(0, n, batch)
            ]
        )
        order = [keys[i] for i in rng.permutation(n)]
        read, _, got = clock(lambda engine=engine, order=order: engine.get(order))
        some, _, _ = clock(lambda engine=engine, order=order[:100]: engine.get(order))
        assert len(got) == n
        engine.close()
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        print(
            f"| {name} | {1000 * write / (n / batch):.1f} | {read:.2f} | {1000 * some:.1f} | "
            f"{size / 1e6:.0f} |",
            flush=True,
        )
    print(f"\n(the numbers alone: {vectors.nbytes / 1e6:.0f} MB)\n")


# ---------------------------------------------------------------------- what the vectors are worth


def preference(args, folder):
    """Learn rewards from text by two encoders, and compare with true preference."""
    data = load_rated_responses("beavertails_test", args.data_home)
    truth, test = data.rating > 0.5, data.is_test
    pairs = list(zip(data.prompt, data.response, strict=True))
    print("| encoder | dimension | learned from | naive, R2 | estimator, R2 | all labels, R2 |")
    print("|---|---|---|---|---|---|")
    for name in args.encoders:
        dtype = DTYPES[name]
        embedder = LLMEmbedder(
            packaged_model(name),
            max_length=MAX_LENGTH,
            dtype=dtype,
            cache_dir=args.cache_dir or folder,
            verbose=True,
        )
        X = embedder.fit_transform(pairs)
        scores = {}
        for seed in range(args.seeds):
            log = simulate_feedback(truth, X=X, n_signals=3, random_state=seed)
            fits = {("all labels", 0): ("naive", truth)}
            for k in (1, 2, 3):
                fits["naive", k] = "naive", log.actions[:, :k].max(axis=1)
                fits["estimator", k] = "stratified", log.actions[:, :k]
            for key, (objective, y) in fits.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    estimator = ImplicitRewardEstimator(objective, random_state=seed)
                    estimator.fit(X[~test], y[~test], groups=data.groups[~test])
                r2 = reward_metrics(truth[test], estimator.predict(X[test]))["r2"]
                scores.setdefault(key, []).append(r2)
        for k in (1, 2, 3):
            cells = [mean_and_error(scores[key, k]) for key in ("naive", "estimator")]
            cells.append(mean_and_error(scores["all labels", 0]))
            signals = f"{k} signal{'s' if k > 1 else ''}"
            print(f"| {name} | {X.shape[1]} | {signals} | {' | '.join(cells)} |", flush=True)
        print(
            f"{name}: {embedder.pooling_} of at most {embedder.max_length_} tokens, {dtype}, "
            f"{embedder.stats_['n_truncated']} texts cut",
            file=sys.stderr,
        )
    print(f"\n(mean ± standard error over {args.seeds} simulated logs)\n")


def mean_and_error(values):
    """Format mean and standard error."""
    values = np.asarray(values)
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


PARTS = {
    "throughput and store": second_pass,
    "search": search,
    "memory": memory,
    "engines": engines,
    "preference": preference,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "throughput"], metavar="PART")
    parser.add_argument("--texts", type=int, default=5000, help="of throughput and store")
    parser.add_argument("--slices", type=int, default=10, help="in which the two take turns")
    parser.add_argument("--search-rows", type=int, default=600)
    parser.add_argument("--many", type=int, default=200_000, help="texts, of memory")
    parser.add_argument("--engine-rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5, help="logs, of preference")
    parser.add_argument("--encoders", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--cache-dir", help="store to keep the vectors of preference in")
    args = parser.parse_args(argv)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} processors\n"
    )
    for name, part in PARTS.items():
        if args.only and not any(wanted in name for wanted in args.only):
            continue
        print(f"## {name}\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            part(args, folder)


if __name__ == "__main__":
    main()
