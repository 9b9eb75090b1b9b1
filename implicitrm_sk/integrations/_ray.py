"""Rewards of a parquet data set, as a stage of Ray Data."""

import os
from os import PathLike
from typing import Any

import numpy as np

from .._estimator import ImplicitRewardEstimator
from .._ray import map_parquet
from ._rewards import split_pipeline


class _PredictBatch:
    """One worker: an estimator of its own, on the worker's device."""

    def __init__(self, est, embedding):
        self.est = est
        self.embedding = embedding

    @staticmethod
    def check_columns(names, est, embedding):
        if embedding is not None and embedding not in names:
            raise ValueError(
                f"source has no column {embedding!r}; there are {', '.join(names)}. Name the "
                "column of vectors in embedding, or, for an estimator with an embedder, pass "
                "embedding=None and the columns prompt and response."
            )

    def __call__(self, table):
        import pyarrow

        if self.embedding is None:
            X = table.to_pandas()
        else:
            X = np.stack(table.column(self.embedding).to_numpy())
        reward, std = self.est.predict(X, return_std=True)
        table = table.append_column("reward", pyarrow.array(np.asarray(reward)))
        return table.append_column("reward_std", pyarrow.array(np.asarray(std)))


def predict_dataset(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    est: Any,
    *,
    embedding: str = "embedding",
    batch_size: int = 8192,
    n_workers: int = 1,
    gpus_per_worker: float = 0,
) -> None:
    """Give every response of a parquet data set its reward, on a Ray cluster.

    Reads `source`, adds the columns ``reward`` and ``reward_std`` (the spread over the members) and
    writes `destination`, without holding the data set in memory. Every row keeps its columns, but
    Ray may write blocks of rows in another order: keep a column that identifies them.

    Parameters
    ----------
    source : str, path-like or list
        Parquet file, folder or files, in any place that Ray reads from.
    destination : str or path-like
        Folder to write parquet files into. It must be empty or absent.
    est : ImplicitRewardEstimator, Pipeline, str or path-like
        Fitted, or where `ImplicitRewardEstimator.save` saved it.
    embedding : str or None, default="embedding"
        The column of vectors, as `implicitrm_sk.embedding.embed_dataset` writes it. None: the
        columns of text, as `LLMEmbedder` reads them, for an estimator with an embedder.
    batch_size : int, default=8192
        Rows at a time.
    n_workers : int, default=1
        Workers, each with an estimator in its memory and, without GPU, a CPU of its own; reading
        and writing need another.
    gpus_per_worker : float, default=0
        GPUs of each.

    Raises
    ------
    ImportError
        Without Ray: ``pip install "implicitrm-sk[ray]"``.
    ValueError
        If `destination` is not empty, or `source` lacks the column `embedding` or has a column of
        rewards already.

    Examples
    --------
    >>> from implicitrm_sk.integrations import predict_dataset
    >>> predict_dataset("embedded/", "scored/", "reward.zip", n_workers=4)
    ... # doctest: +SKIP
    """

    def arguments():
        path = isinstance(est, str | os.PathLike)
        fitted = ImplicitRewardEstimator.load(est) if path else est
        split_pipeline(fitted)  # refuses what has no reward
        return fitted, embedding

    map_parquet(
        source,
        destination,
        _PredictBatch,
        arguments,
        new=["reward", "reward_std"],
        batch_size=batch_size,
        n_workers=n_workers,
        gpus_per_worker=gpus_per_worker,
    )
