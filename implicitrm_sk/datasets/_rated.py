"""Loader of rated responses: one parquet file, with ready embeddings beside it."""

import hashlib
import os
from os import PathLike
from pathlib import Path

import numpy as np

from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ._data import FeedbackData

_REQUIRED_COLUMNS = ("prompt", "response", "rating")
# On every set measured so far, smollm2 predicts the rating better than minilm.
_ENCODER_ORDER = ("smollm2", "minilm")
_ADVICE = (
    "Its rows must be the rows of the parquet file in the same order. "
    "Compute the embeddings from this file."
)


def load_rated_responses(
    name: str | PathLike[str],
    data_home: str | PathLike[str] | None = None,
    *,
    encoder: str | None = None,
    embeddings: str | PathLike[str] | None = None,
) -> FeedbackData:
    """Load responses with their ratings and, if they exist, their embeddings.

    A data set is one file ``NAME.parquet`` with one row per (prompt, response). Beside it may be
    embeddings of the same rows in the same order, ``NAME_ENCODER.safetensors``. Values in both
    files must agree, so that no embedding is paired with the rating of another row.

    Parameters
    ----------
    name : str or path-like
        Name of a data set in `data_home`, or the path of a parquet file (it ends in ``.parquet``).
        With a path, `data_home` is ignored, and embeddings are searched for beside the file.

    data_home : str or path-like, default=None
        Folder of the data sets. ``None`` means the environment variable ``IMPLICITRM_DATA`` if it
        is set, else ``~/implicitrm_data``.

    encoder : str, default=None
        The embeddings to load, the ``ENCODER`` of the file name. ``None`` takes the only encoder
        there is. With several, it takes ``"smollm2"``, else ``"minilm"``, else the first in
        alphabetical order. Without embeddings, `X` is ``None``.

    embeddings : str or path-like, default=None
        Path of a safetensors file with the embeddings to use instead. It excludes `encoder`.

    Returns
    -------
    data : FeedbackData
        It has the attributes below, where n is the number of rows.

        X : ndarray of shape (n, d), float32, or None
            The embeddings.
        prompt, response : ndarray of shape (n,), object
            The texts.
        rating : ndarray of shape (n,), float64
            The rating, on the scale of the data set. In a log of real feedback, it is the action
            itself (1 = copied, accepted) or the number of actions (upvotes).
        prompt_id : ndarray of shape (n,), object
            Identifier of the prompt. Without such a column, 16 hexadecimal digits of a hash of
            the prompt, so that rows with the same prompt share it.
        groups : ndarray of shape (n,), int64
            `prompt_id` as codes 0, 1, ... in order of first appearance, for the ``groups`` of
            `fit`, of splitters and of the paired accuracy.
        is_test : ndarray of shape (n,), bool, or None
            Whether the row belongs to the test split. Without a column ``split``, it comes from
            the embeddings file. It is ``None`` if that lacks it too; then choose a split (by
            `groups`).
        frame : DataFrame of shape (n, n_columns)
            The whole file, including other columns: for example ``views``, the exposures of a log
            of upvotes.
        name : str
            Name of the data set.
        encoder : str or None
            The encoder of `X`; for a file given by `embeddings`, the stem of its name.
        encoder_description : str or None
            The description of the encoder in the embeddings file.

    Raises
    ------
    FileNotFoundError
        If the folder, the parquet file or the embeddings do not exist. The message lists the files.
    ValueError
        If a file is empty, lacks a column or a tensor, or holds missing or non-numeric ratings. If
        the embeddings belong to other rows.
    ImportError
        If pandas or pyarrow is not installed: ``pip install "implicitrm-sk[data]"``.

    Notes
    -----
    The parquet file needs the columns ``prompt``, ``response`` (text) and ``rating`` (numbers, none
    missing). The columns ``prompt_id`` and ``split`` (``"train"`` or ``"test"``) are optional. The
    safetensors file needs the tensor ``embeddings`` (n, d). Its optional tensors are checked
    against the parquet file. ``labels`` (n,) must equal the rating (to float32 precision), and
    ``is_test`` (n,) the split. ``prompt_id_hash`` (n,) int64 must equal the hash of ``prompt_id``.
    This hash is the 8 bytes of BLAKE2b with ``digest_size=8`` of its UTF-8 text, read as a
    little-endian signed integer.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from implicitrm_sk.datasets import load_rated_responses
    >>> frame = pd.DataFrame(
    ...     {
    ...         "prompt": ["Name a prime.", "Name a prime.", "Say hello."],
    ...         "response": ["7", "8", "Hello!"],
    ...         "rating": [1.0, 0.0, 1.0],
    ...     }
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.to_parquet(Path(folder) / "toy.parquet")
    ...     data = load_rated_responses("toy", folder)
    >>> data.rating
    array([1., 0., 1.])
    >>> data.groups
    array([0, 0, 1])
    >>> data.X is None
    True
    """
    if embeddings is not None and encoder is not None:
        raise ImplicitRMError(
            f"embeddings={os.fspath(embeddings)!r} and encoder={encoder!r} both say which "
            "embeddings to load. Pass one of them."
        )
    parquet = find_parquet(name, data_home)
    frame = read_parquet(parquet)
    data = columns_of(frame, parquet)
    data.name = parquet.stem

    path = None
    if embeddings is not None:
        path = Path(embeddings).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"embeddings={os.fspath(embeddings)!r} is not a file. Pass the path of a "
                "safetensors file."
            )
    add_embeddings(data, parquet, encoder, path)
    return data


def add_embeddings(data, parquet, encoder=None, path=None, labels="rating"):
    """Add X, `encoder` and `encoder_description`; X is None without embeddings.

    Parameters
    ----------
    data : FeedbackData
        Data from `columns_of`.
    parquet : Path
        The file of `data`.
    encoder : str or None
    path : Path or None
        The file of the embeddings; None searches for it beside `parquet`.
    labels : str
        The column with which the tensor "labels" must agree.
    """
    if path is not None:
        data.encoder = path.stem
    else:
        path = _find_embeddings(parquet, encoder)
        data.encoder = None if path is None else _encoder_of(parquet, path)
    data.encoder_description = None
    if path is not None:
        _read_embeddings(data, path, parquet, labels)


def _data_home(data_home):
    if data_home is not None:
        return Path(data_home).expanduser(), "data_home"
    if os.environ.get("IMPLICITRM_DATA"):
        source = "the environment variable IMPLICITRM_DATA"
        return Path(os.environ["IMPLICITRM_DATA"]).expanduser(), source
    return Path("~/implicitrm_data").expanduser(), "the default of data_home"


def _listing(names):
    return ", ".join(names) if names else "none"


def find_parquet(name, data_home):
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise ImplicitRMError(
            f"name must be the name of a data set or the path of a .parquet file, got {name!r}. "
            "Correct it."
        )
    text = os.fspath(name)
    if text.endswith(".parquet"):
        path = Path(text).expanduser()
        if not path.is_file():
            found = sorted(p.name for p in path.parent.glob("*.parquet"))
            raise FileNotFoundError(
                f"name={text!r} is not a file. Parquet files in {str(path.parent)!r}: "
                f"{_listing(found)}. Correct the name."
            )
        return path
    folder, source = _data_home(data_home)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The data folder {str(folder)!r} (from {source}) does not exist. Pass data_home=, "
            "set the environment variable IMPLICITRM_DATA, or give the path of a .parquet file."
        )
    path = folder / f"{text}.parquet"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no data set {text!r} in {str(folder)!r} (from {source}). Data sets there: "
            f"{_listing(sorted(p.stem for p in folder.glob('*.parquet')))}. Correct the name."
        )
    return path


def _encoder_of(parquet, path):
    return path.stem[len(parquet.stem) + 1 :]


def _find_embeddings(parquet, encoder):
    folder, stem = parquet.parent, parquet.stem
    # NAME_ENCODER is ambiguous if another name begins with NAME_; the longest name owns the file.
    longer = [p.stem for p in folder.glob("*.parquet") if p.stem.startswith(f"{stem}_")]
    found = {
        _encoder_of(parquet, path): path
        for path in sorted(folder.glob("*.safetensors"))
        if path.stem.startswith(f"{stem}_")
        and not any(path.stem.startswith(f"{other}_") for other in longer)
    }
    if encoder is None:
        for preferred in _ENCODER_ORDER:
            if preferred in found:
                return found[preferred]
        return next(iter(found.values()), None)
    if encoder not in found:
        raise FileNotFoundError(
            f"There are no embeddings of {stem!r} by encoder={encoder!r} in {str(folder)!r} "
            f"(looked for '{stem}_{encoder}.safetensors'). Encoders there: {_listing(found)}. "
            "Pass one of them, or embeddings= with the path of a safetensors file."
        )
    return found[encoder]


def read_parquet(path):
    purpose = f"Reading the parquet file {path.name!r}"
    pandas = import_optional("pandas", "data", purpose)
    import_optional("pyarrow", "data", purpose)
    try:
        return pandas.read_parquet(path)
    except Exception as error:
        raise ImplicitRMError(
            f"{str(path)!r} could not be read as a parquet file: {error}. Write it again."
        ) from error


def columns_of(frame, path):
    """Return the checked columns of a table of rated responses as `FeedbackData`."""
    missing = [column for column in _REQUIRED_COLUMNS if column not in frame.columns]
    if missing:
        raise ImplicitRMError(
            f"{path.name!r} lacks the column(s) {_listing(missing)}. "
            f"Columns found: {_listing([str(column) for column in frame.columns])}. Rename or add "
            "them: prompt and response (text), rating (a number)."
        )
    if len(frame) == 0:
        raise ImplicitRMError(
            f"{path.name!r} has no rows; expected at least one rated response. Check it."
        )

    data = FeedbackData()
    data.prompt = _text_column(frame, "prompt", path)
    data.response = _text_column(frame, "response", path)
    data.rating = _rating_column(frame, path)
    if "prompt_id" in frame.columns:
        data.prompt_id = frame["prompt_id"].to_numpy(dtype=object)
        _raise_if_missing(frame["prompt_id"].isna().to_numpy(), "prompt_id", path)
    else:
        data.prompt_id = np.array([_digest(text).hex() for text in data.prompt], dtype=object)
    data.groups = _codes(data.prompt_id)
    data.is_test = _split_column(frame, path) if "split" in frame.columns else None
    data.frame = frame
    return data


def _raise_if_missing(missing, column, path):
    if missing.any():
        raise ImplicitRMError(
            f"Column {column!r} of {path.name!r} has {int(missing.sum())} missing value(s), the "
            f"first in row {int(missing.argmax())}. Drop these rows, and the same rows of the "
            "embeddings."
        )


def _text_column(frame, column, path):
    values = frame[column].to_numpy(dtype=object)
    _raise_if_missing(frame[column].isna().to_numpy(), column, path)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ImplicitRMError(
                f"Column {column!r} of {path.name!r} must hold text, but row {row} holds a "
                f"{type(value).__name__}. Convert the column to strings."
            )
    return values


def _rating_column(frame, path):
    pandas = import_optional("pandas", "data", "Reading ratings")
    column = frame["rating"]
    if not (
        pandas.api.types.is_numeric_dtype(column.dtype)
        or pandas.api.types.is_bool_dtype(column.dtype)
    ):
        raise ImplicitRMError(
            f"Column 'rating' of {path.name!r} must hold numbers, got dtype {column.dtype}. "
            "Convert it with pandas.to_numeric."
        )
    _raise_if_missing(column.isna().to_numpy(), "rating", path)
    rating = column.to_numpy(dtype=np.float64)
    if not np.isfinite(rating).all():
        raise ImplicitRMError(
            f"Column 'rating' of {path.name!r} holds an infinite value in row "
            f"{int(np.argmin(np.isfinite(rating)))}; expected finite ratings. Correct it."
        )
    return rating


def _split_column(frame, path):
    _raise_if_missing(frame["split"].isna().to_numpy(), "split", path)
    split = frame["split"].to_numpy(dtype=object)
    unknown = sorted({str(value) for value in split} - {"train", "test"})
    if unknown:
        raise ImplicitRMError(
            f"Column 'split' of {path.name!r} must hold 'train' or 'test', but also holds "
            f"{_listing([repr(value) for value in unknown])}. Map these rows to one of the two, or "
            "drop the column."
        )
    return split == "test"


def _codes(values):
    codes = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)


def _digest(value):
    return hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _prompt_id_hash(prompt_id):
    return np.array(
        [int.from_bytes(_digest(value), "little", signed=True) for value in prompt_id],
        dtype=np.int64,
    )


def _read_embeddings(data, path, parquet, label_column):
    from safetensors import SafetensorError, safe_open

    try:
        # The torch reader, because numpy lacks bfloat16, in which embeddings are often stored.
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            description = (file.metadata() or {}).get("encoder")
    except SafetensorError as error:
        raise ImplicitRMError(
            f"{str(path)!r} could not be read as a safetensors file: {error}. Write it again."
        ) from error

    if "embeddings" not in tensors:
        raise ImplicitRMError(
            f"{path.name!r} lacks the tensor 'embeddings'. It has the tensors "
            f"{_listing(sorted(tensors))}. Rename one."
        )
    n_rows = len(data.rating)
    shape = tuple(tensors["embeddings"].shape)
    if len(shape) != 2 or shape[1] == 0:
        raise ImplicitRMError(
            f"The tensor 'embeddings' of {path.name!r} must have shape (n, d), got {shape}. "
            "Reshape it."
        )
    for key in ("embeddings", "labels", "is_test", "prompt_id_hash"):
        if key in tensors and tensors[key].shape[:1] != (n_rows,):
            raise ImplicitRMError(
                f"{path.name!r} has shape {tuple(tensors[key].shape)} in {key!r}, but "
                f"{parquet.name!r} has {n_rows} rows. {_ADVICE}"
            )

    if "labels" in tensors:
        labels = tensors["labels"].double().numpy().reshape(n_rows, -1)
        expected = data.frame[label_column].to_numpy(dtype=np.float64)[:, None]
        _raise_if_different(
            ~np.isclose(labels, expected, rtol=1e-6, atol=1e-6, equal_nan=True).all(axis=1),
            "labels",
            f"the column {label_column!r}",
            path,
            parquet,
        )
    if "prompt_id_hash" in tensors and "prompt_id" in data.frame.columns:
        found = tensors["prompt_id_hash"].numpy().reshape(n_rows, -1)
        _raise_if_different(
            (found != _prompt_id_hash(data.prompt_id)[:, None]).any(axis=1),
            "prompt_id_hash",
            "the hash of the column 'prompt_id' (see the Notes of load_rated_responses)",
            path,
            parquet,
        )
    if "is_test" in tensors:
        is_test = tensors["is_test"].bool().numpy().reshape(n_rows)
        if data.is_test is None:
            data.is_test = is_test.copy()
        else:
            _raise_if_different(
                is_test != data.is_test, "is_test", "the column 'split'", path, parquet
            )

    X = tensors["embeddings"].float().numpy().copy()
    if not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).all(axis=1)))
        raise ImplicitRMError(
            f"The tensor 'embeddings' of {path.name!r} holds NaN or infinity; the first is in row "
            f"{row}. Compute the embeddings again."
        )
    data.X = X
    data.encoder_description = description


def _raise_if_different(different, key, column, path, parquet):
    if different.any():
        raise ImplicitRMError(
            f"The tensor {key!r} of {path.name!r} differs from {column} of {parquet.name!r} in "
            f"{int(different.sum())} of {len(different)} rows; the first is row "
            f"{int(different.argmax())}. {_ADVICE}"
        )
