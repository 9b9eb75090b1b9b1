"""Fetch a data set of the ImplicitRM paper, embed it, and store both for the benchmarks.

    python -m benchmarks.prepare --data helpsteer --data-home DIR [--model NAME]
    python -m benchmarks.reward_modeling --data helpsteer --data-home DIR

The first command needs a network and, for the default model, that of the paper (8 billion
parameters), a GPU; the second does not. Texts are rendered by the model's chat template, and the
vector is the last hidden state of the last token, as in the paper.

Logs of what users did, for `load_feedback_log` and `benchmarks.real_feedback`, are written from the
files as they were published, a copy of which `--path` names (oasst1 is downloaded without it):

    python -m benchmarks.prepare --data log_kuairand --path KuaiRand-1K --data-home DIR

- log_oasst1: OpenAssistant/oasst1 of the Hugging Face hub; texts are embedded too;
- log_kuairand: KuaiRand-1K (chongminggao/KuaiRand), the files ``data/log_*.csv``;
- log_coat: the archive of www.cs.cornell.edu/~schnabts/mnar;
- log_wikimedia_mvp: wikimedia-research/Discovery-Search-Adhoc-SurveyMVP.

log_wikimedia_relevance was rebuilt from ratios (user score, share unsure, engagement) that
wikimedia-research/Discovery-Search-Adhoc-RelevanceSurveys publishes, and log_ifllm is made of the
tables ``dataset/*.csv`` of themehulpatwari/llm-implicit-feedback; both are not automated here. Our
own copies hold a part of the rows only, with ids numbered anew.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from implicitrm_sk import LLMEmbedder
from implicitrm_sk.datasets import (
    fetch_helpsteer,
    fetch_oasst1_feedback,
    fetch_pku_saferlhf,
    fetch_ultrafeedback,
)

FETCH = {
    "helpsteer": fetch_helpsteer,
    "ultrafeedback": fetch_ultrafeedback,
    "pku_saferlhf": fetch_pku_saferlhf,
}


#: What KuaiRand calls the actions of `load_feedback_log`.
VIEWS = {
    "is_click": "click",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_forward": "forward",
    "is_profile_enter": "profile_enter",
    "long_view": "long_view",
}
GRADES = {"very bad": -2, "bad": -1, "ok": 0, "good": 1, "best": 2}


def folds_of(groups):
    """Return folds 0 to 4 that cut no group, drawn once and for all."""
    codes, found = pd.factorize(groups)
    return np.random.default_rng(0).integers(5, size=len(found))[codes]


def kuairand(path):
    """Return the views with an explicit verdict, a like or a hate and not both."""
    views = pd.concat(pd.read_csv(file) for file in sorted(Path(path).glob("data/log_*.csv")))
    views = views[views["is_like"] != views["is_hate"]].reset_index(drop=True)
    time = pd.to_datetime(views["time_ms"], unit="ms", utc=True).dt.tz_convert("Asia/Shanghai")
    kept = ["time_ms", "play_time_ms", "duration_ms", "comment_stay_time"]
    # Not the video: it gives the verdict away.
    return (
        views[["user_id", *kept, *VIEWS]]
        .rename(columns=VIEWS)
        .assign(
            hour=time.dt.hour,
            weekday=time.dt.day_of_week,
            true_preference=views["is_like"],
            fold=folds_of(views["user_id"]),
        )
    )


def coat(path):
    """Return a row for each shopper and coat: rated by choice, and rated where asked at random."""
    chosen, asked = (np.loadtxt(Path(path) / f"{part}.ascii") for part in ("train", "test"))
    features = Path(path) / "user_item_features"
    users, items = (
        np.loadtxt(features / f"{kind}_features.ascii", ndmin=2) for kind in ("user", "item")
    )
    user, item = np.indices(chosen.shape).reshape(2, -1)
    own, random = chosen.ravel(), asked.ravel()
    known = (random > 0) & (own == 0)  # in both, the truth would be the action
    rating = np.where(known, random, np.nan)
    columns = {
        "user_id": user,
        "item_id": item,
        "rated": own > 0,
        "high": own >= 4,
        "mid": own == 3,
        "low": (own > 0) & (own <= 2),
        "rating": rating,
        "true_preference": np.where(known, random >= 4, np.nan),
        "repeated": (random > 0) & (own > 0),
        "fold": folds_of(user),
    }
    columns |= {f"user_{j}": users[user, j] for j in range(users.shape[1])}
    columns |= {f"item_{j}": items[item, j] for j in range(items.shape[1])}
    frame = pd.DataFrame(columns)
    return frame.astype(dict.fromkeys(("rated", "high", "mid", "low"), int))


def wikimedia_mvp(path):
    """Return the exposures of the first wave, with the grade of the expert."""
    folder = Path(path) / "data"
    events = pd.read_csv(folder / "17069968.tsv", sep="\t", parse_dates=["ts"])
    grades = pd.read_csv(folder / "trey_opinion.tsv", sep="\t").drop(columns="rating")
    events = events.merge(grades, on=["query", "article"]).reset_index(drop=True)
    rating = events["opinion"].map(GRADES)
    return pd.DataFrame(
        {
            "user_id": pd.factorize(events["session_id"])[0],
            "ts": events["ts"],
            "prompt": events["query"],
            "response": events["article"],
            "question": events["question"],
            **{name: (events["choice"] == name).astype(float) for name in ("yes", "no", "dismiss")},
            "prompt_id": events["query"],
            "response_id": events.groupby(["query", "article"]).ngroup(),
            "opinion": events["opinion"],
            "rating": rating,
            "true_preference": (rating >= 0).astype(int),
            "true_preference_strict": (rating >= 1).astype(int),
            "fold": folds_of(events["query"]),
        }
    )


LOGS = {"log_kuairand": kuairand, "log_coat": coat, "log_wikimedia_mvp": wikimedia_mvp}


def prepare_log(name, data_home, path):
    """Write NAME.parquet of a log without texts to embed."""
    if path is None:
        raise SystemExit(f"--data {name} needs --path, a copy of the files as published.")
    Path(data_home).mkdir(parents=True, exist_ok=True)
    LOGS[name](path).to_parquet(Path(data_home) / f"{name}.parquet")


def prepare_oasst1(embedder, data_home, path=None):
    """Write log_oasst1.parquet and its embeddings."""
    data = fetch_oasst1_feedback(path)
    X = np.asarray(embedder.fit_transform(list(zip(data.prompt, data.response, strict=True))))
    folder = Path(data_home)
    folder.mkdir(parents=True, exist_ok=True)
    data.frame.join(data.truth).to_parquet(folder / "log_oasst1.parquet")
    tensors = {"embeddings": X, "labels": data.true_preference.astype(np.float32)}
    save_file(tensors, folder / "log_oasst1_llm.safetensors")


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
    parser.add_argument("--data", required=True, choices=[*FETCH, "log_oasst1", *LOGS])
    parser.add_argument("--data-home", required=True, help="folder to write into")
    parser.add_argument("--model", default="sfairXC/FsfairX-LLaMA3-RM-v0.1")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens kept of a text")
    parser.add_argument("--path", help="copy of the data set's repository, to use no network")
    args = parser.parse_args(argv)
    if args.data in LOGS:
        prepare_log(args.data, args.data_home, args.path)
        return
    embedder = LLMEmbedder(
        args.model,
        pooling="last",
        max_length=args.max_length,
        output_dtype="float16",
        verbose=True,
    )
    if args.data == "log_oasst1":
        prepare_oasst1(embedder, args.data_home, args.path)
        return
    prepare(args.data, embedder, args.data_home, args.path)


if __name__ == "__main__":
    main()
