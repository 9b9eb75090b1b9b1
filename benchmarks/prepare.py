"""Fetch a data set of the ImplicitRM paper, embed it, and store both for the benchmarks.

    python -m benchmarks.prepare --data helpsteer --data-home DIR [--model NAME]
    python -m benchmarks.reward_modeling --data helpsteer --data-home DIR

The first command needs a network and, for the default model, that of the paper (8 billion
parameters), a GPU; the second does not. Texts are rendered by the model's chat template, and the
vector is the last hidden state of the last token, as in the paper.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from implicitrm_sk import LLMEmbedder
from implicitrm_sk.datasets import fetch_helpsteer, fetch_pku_saferlhf, fetch_ultrafeedback

FETCH = {
    "helpsteer": fetch_helpsteer,
    "ultrafeedback": fetch_ultrafeedback,
    "pku_saferlhf": fetch_pku_saferlhf,
}


def prepare(name, embedder, data_home, path=None):
    """Write NAME.parquet and NAME_llm.safetensors into a folder."""
    data = FETCH[name](path)
    pairs = list(zip(data.prompt, data.response, strict=True))
    X = np.asarray(embedder.fit_transform(pairs))
    folder = Path(data_home)
    folder.mkdir(parents=True, exist_ok=True)
    data.frame.assign(prompt_id=data.prompt_id).to_parquet(folder / f"{name}.parquet")
    tensors = {"embeddings": X, "labels": data.rating.astype(np.float32), "is_test": data.is_test}
    save_file(tensors, folder / f"{name}_llm.safetensors")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, choices=FETCH)
    parser.add_argument("--data-home", required=True, help="folder to write into")
    parser.add_argument("--model", default="sfairXC/FsfairX-LLaMA3-RM-v0.1")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens kept of a text")
    parser.add_argument("--path", help="copy of the data set's repository, to use no network")
    args = parser.parse_args(argv)
    embedder = LLMEmbedder(
        args.model,
        pooling="last",
        max_length=args.max_length,
        output_dtype="float16",
        verbose=True,
    )
    prepare(args.data, embedder, args.data_home, args.path)


if __name__ == "__main__":
    main()
