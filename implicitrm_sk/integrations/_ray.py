"""Rewards of a parquet data set, as a stage of Ray Data."""

import os
from os import PathLike
from typing import Any

import numpy as np

from .._estimator import ImplicitRewardEstimator
from .._ray import map_parquet
from ..exceptions import ImplicitRMError
from ._rewards import split_pipeline


class _PredictBatch:
    """One worker, with its own estimator on the worker's device."""

    def __init__(self, est, embedding):
        self.est = est
        self.embedding = embedding

    @staticmethod
    def check_columns(names, est, embedding):
        if embedding is not None and embedding not in names:
            raise ImplicitRMError(
                f"source lacks the column {embedding!r}; it has {', '.join(names)}. Name the "
                "column of vectors in embedding. For an estimator with an embedder, pass "
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
    """Add the reward to every response of a parquet data set, on a Ray cluster.

    It reads `source`, adds the columns ``reward`` and ``reward_std`` (the spread over the members)
    and writes `destination`, without holding the data set in memory. Every row keeps its columns.
    Ray may write blocks of rows in another order, so keep a column that identifies the rows.

    Parameters
    ----------
    source : str, path-like or list
        A parquet file, folder or list of files, in any place that Ray reads from.
    destination : str or path-like
        Folder to write parquet files into. It must be empty or absent.
    est : ImplicitRewardEstimator, Pipeline, str or path-like
        A fitted estimator, or the path where `ImplicitRewardEstimator.save` saved it.
    embedding : str or None, default="embedding"
        The column of vectors, as `implicitrm_sk.embedding.embed_dataset` writes it. None: the
        columns of text, as `LLMEmbedder` reads them, for an estimator with an embedder.
    batch_size : int, default=8192
        Rows per batch.
    n_workers : int, default=1
        Number of workers. Each holds an estimator in memory and, without a GPU, needs a CPU of its
        own. Reading and writing need another CPU.
    gpus_per_worker : float, default=0
        GPUs of each worker.

    Raises
    ------
    ImportError
        If Ray is not installed: ``pip install "implicitrm-sk[ray]"``.
    ValueError
        If `destination` is not empty, or if `source` lacks the column `embedding` or already has a
        column of rewards.

    Examples
    --------
    >>> from implicitrm_sk.integrations import predict_dataset
    >>> predict_dataset("embedded/", "scored/", "reward.zip", n_workers=4)
    ... # doctest: +SKIP
    """

    def arguments():
        path = isinstance(est, str | os.PathLike)
        fitted = ImplicitRewardEstimator.load(est) if path else est
        split_pipeline(fitted)  # raises if it has no reward
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
