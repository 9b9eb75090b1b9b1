"""A stage of Ray Data that reads parquet and writes parquet with more columns."""

import os

from ._optional import import_optional
from ._warnings import warn
from .exceptions import ImplicitRMError

#: Rows per group of the files written. `fit` reads them group by group, and shuffles groups.
ROWS_PER_GROUP = 1024


def map_parquet(
    source, destination, stage, arguments, *, new, batch_size, n_workers, gpus_per_worker
):
    """Read `source`, add columns batch by batch and write `destination`.

    Parameters
    ----------
    source : str, path-like or list
    destination : str or path-like
    stage : type
        ``stage(*arguments)`` lives in a worker and maps one pyarrow table to another.
    arguments : callable
        Returns the arguments, after `source` and `destination` were checked.
    new : list of str
        Columns that `stage` adds.
    batch_size, n_workers, gpus_per_worker : number
    """
    what = "Mapping a data set with Ray"
    import_optional("pyarrow", "ray", what)
    data = import_optional("ray.data", "ray", what)
    destination = os.fspath(destination)
    if os.path.isdir(destination) and os.listdir(destination):
        raise ImplicitRMError(
            f"destination={destination!r} is not empty: rows of another job would mix with these. "
            "Choose another folder, or empty it."
        )
    arguments = arguments()  # raises errors here, not in a worker
    paths = [os.fspath(path) for path in source] if isinstance(source, list) else os.fspath(source)
    rows = data.read_parquet(paths)
    names = rows.schema().names
    for column in new:
        if column in names:
            raise ImplicitRMError(
                f"source has a column {column!r} already. Drop it, or name another column."
            )
    stage.check_columns(names, *arguments)
    ray = import_optional("ray", "ray", what)
    if not gpus_per_worker:
        warn_if_starved(n_workers, ray.cluster_resources().get("CPU", 0))
    rows.map_batches(
        stage,
        fn_constructor_args=arguments,
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=n_workers,
        num_gpus=gpus_per_worker,
    ).write_parquet(destination, row_group_size=ROWS_PER_GROUP)


def warn_if_starved(n_workers, n_cpus):
    """Warn if workers of one CPU each leave no CPU to read and write."""
    if n_workers >= n_cpus:
        warn(
            f"n_workers={n_workers} leaves none of the cluster's {n_cpus:g} CPUs for reading and "
            "writing: Ray waits until there are more. Use fewer workers, unless the cluster grows."
        )
