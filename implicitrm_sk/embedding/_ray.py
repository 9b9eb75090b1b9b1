"""The embedder as a stage of Ray Data: parquet in, parquet with embeddings out."""

from os import PathLike

import numpy as np
from sklearn.base import clone

from .._ray import map_parquet
from ._embedder import LLMEmbedder


class _EmbedBatch:
    """One worker, with its own embedder, which loads the model on the worker's device."""

    def __init__(self, embedder, column):
        self.embedder = clone(embedder)
        self.column = column

    @staticmethod
    def check_columns(names, embedder, column):
        """Do nothing, because the embedder checks which columns hold text."""

    def __call__(self, table):
        import pyarrow

        vectors = np.asarray(self.embedder.transform(table.to_pandas()))
        flat = pyarrow.array(vectors.ravel())
        cells = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        return table.append_column(self.column, cells)


def embed_dataset(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    embedder: str | PathLike[str] | LLMEmbedder,
    *,
    column: str = "embedding",
    batch_size: int = 1024,
    n_workers: int = 1,
    gpus_per_worker: float = 0,
) -> None:
    """Embed a parquet data set on a Ray cluster.

    It reads `source`, adds a column of embeddings and writes `destination`, without holding the
    data set in memory. Every row keeps its columns. Ray may write blocks of rows in another order,
    so keep a column that identifies the rows. Every worker loads the model once. Workers on one
    machine share the store of the embedder, so a restarted job continues where it stopped.

    Parameters
    ----------
    source : str, path-like or list
        A parquet file, folder or list of files, in any place that Ray reads from. It has the
        columns ``prompt`` and ``response`` (or ``completion``), or ``messages``, or ``text``, as
        for `LLMEmbedder`. All columns are kept.
    destination : str or path-like
        Folder to write parquet files into. It must be empty or absent.
    embedder : LLMEmbedder, str or path-like
        The embedder, or a model for an embedder with default settings.
    column : str, default="embedding"
        Name of the new column, which contains lists of fixed length.
    batch_size : int, default=1024
        Rows that a worker embeds at a time. Duplicates are found within a batch; the store finds
        the others.
    n_workers : int, default=1
        Number of workers. Each holds a model in memory and, without a GPU, needs a CPU of its own.
        Reading and writing need another CPU.
    gpus_per_worker : float, default=0
        GPUs of each worker.

    Raises
    ------
    ImportError
        If Ray is not installed: ``pip install "implicitrm-sk[ray]"``.
    ValueError
        If `destination` is not empty or `source` has the column already.

    Examples
    --------
    >>> from implicitrm_sk.embedding import embed_dataset
    >>> embed_dataset("log/", "embedded/", "org/name", n_workers=4, gpus_per_worker=1)
    ... # doctest: +SKIP
    """

    def arguments():
        own = embedder if isinstance(embedder, LLMEmbedder) else LLMEmbedder(embedder)
        own = clone(own).fit()
        if own.commit_ is not None:
            own.set_params(revision=own.commit_)  # the same commit for all workers
        return clone(own), column

    map_parquet(
        source,
        destination,
        _EmbedBatch,
        arguments,
        new=[column],
        batch_size=batch_size,
        n_workers=n_workers,
        gpus_per_worker=gpus_per_worker,
    )
