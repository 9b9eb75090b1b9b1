"""Published data sets from the Hugging Face hub: those of the ImplicitRM paper, and a real log."""

import gzip
import json
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

from .._optional import import_optional
from .._warnings import warn
from ..exceptions import ImplicitRMError
from ._data import FeedbackData
from ._logs import LOGS, feedback_of
from ._rated import columns_of

_PARAMETERS = """\
    Parameters
    ----------
    path : str or path-like, default=None
        Folder with a copy of the repository. ``None`` downloads it into the cache of
        huggingface_hub.
    revision : str, default=None
        Branch, tag or commit of the repository; ``None`` means its main branch.
    cache_dir : str or path-like, default=None
        Folder of the downloads; ``None`` means the cache of huggingface_hub.

    Returns
    -------
    data : FeedbackData
{returns}
    Raises
    ------
    OSError
        If the data set can be neither downloaded nor found in the cache.
    ValueError
        If its files or columns differ from the published ones.
    ImportError
        If pandas or pyarrow is not installed: ``pip install "implicitrm-sk[data]"``.

    Warns
    -----
    UserWarning
        If rows without a rating were left out, or the number of rows is not the published one.
"""
_RATED = """\
        As for `load_rated_responses`, training rows first, without embeddings (``X`` is None).
        There are two more attributes:

        threshold : float
            Ratings above it count as positive.
        true_preference : ndarray of shape (n,), int64
            1 if the rating is above the threshold.

"""
_FEEDBACK = """\
        As for `load_feedback_log`, without embeddings (``X`` is None). Folds are by message tree.

"""


def fetch_helpsteer(
    path: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> FeedbackData:
    """Fetch HelpSteer: responses with a human rating of their helpfulness, 0 to 4.

    Positive means helpful (3, 4), above 2. There are 35,331 training rows. The 1,789 rows of the
    published validation split are the test rows. Source: ``nvidia/HelpSteer``, CC-BY-4.0 [1]_.

    {parameters}

    References
    ----------
    .. [1] Wang et al., "HelpSteer: Multi-attribute Helpfulness Dataset for SteerLM", arXiv
       2311.09528, 2023.

    Examples
    --------
    >>> from implicitrm_sk.datasets import fetch_helpsteer  # doctest: +SKIP
    >>> data = fetch_helpsteer()  # doctest: +SKIP
    >>> data.true_preference.shape, data.threshold  # doctest: +SKIP
    """

    def rows(record):
        yield record["prompt"], record["response"], record["helpfulness"]

    return _fetch(
        "nvidia/HelpSteer",
        {"train": "train.jsonl.gz", "test": "validation.jsonl.gz"},
        rows,
        threshold=2.0,
        counts=(35_331, 1_789),
        source=(path, revision, cache_dir),
    )


def fetch_ultrafeedback(
    path: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> FeedbackData:
    """Fetch UltraFeedback, binarised: two responses to a prompt, scored by GPT-4 from 1 to 10.

    Both the chosen and the rejected response of a pair become a row with its own score. Positive
    means good, above 6.5. There are 61,135 training and 2,000 test pairs, the splits
    ``train_prefs`` and ``test_prefs``. Source: ``HuggingFaceH4/ultrafeedback_binarized``, MIT [1]_.

    {parameters}

    References
    ----------
    .. [1] Cui et al., "UltraFeedback: Boosting Language Models with Scaled AI Feedback", arXiv
       2310.01377, 2023.

    Examples
    --------
    >>> from implicitrm_sk.datasets import fetch_ultrafeedback  # doctest: +SKIP
    >>> data = fetch_ultrafeedback()  # doctest: +SKIP
    >>> data.true_preference.shape, data.threshold  # doctest: +SKIP
    """

    def rows(record):
        for side in ("chosen", "rejected"):
            answers = [m["content"] for m in record[side] if m["role"] == "assistant"]
            yield record["prompt"], answers[-1], record[f"score_{side}"]

    return _fetch(
        "HuggingFaceH4/ultrafeedback_binarized",
        {"train": "data/train_prefs-*.parquet", "test": "data/test_prefs-*.parquet"},
        rows,
        threshold=6.5,
        counts=(2 * 61_135, 2 * 2_000),
        source=(path, revision, cache_dir),
    )


def fetch_pku_saferlhf(
    path: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> FeedbackData:
    """Fetch PKU-SafeRLHF: two responses to a prompt, each with the severity of its harm, 0 to 3.

    Positive means **harmful** (2, 3), above 1.5, as in the paper. So a reward learned from it is
    the probability of harm; for safety, use ``1 - true_preference``. There are 73,907 training and
    8,211 test pairs. Source: ``PKU-Alignment/PKU-SafeRLHF``, CC-BY-NC-4.0 [1]_.

    {parameters}

    References
    ----------
    .. [1] Ji et al., "PKU-SafeRLHF: Towards Multi-Level Safety Alignment for LLMs with Human
       Preference", arXiv 2406.15513, 2024.

    Examples
    --------
    >>> from implicitrm_sk.datasets import fetch_pku_saferlhf  # doctest: +SKIP
    >>> data = fetch_pku_saferlhf()  # doctest: +SKIP
    >>> data.true_preference.shape, data.threshold  # doctest: +SKIP
    """

    def rows(record):
        for i in (0, 1):
            severity = record[f"response_{i}_severity_level"]
            yield record["prompt"], record[f"response_{i}"], severity

    return _fetch(
        "PKU-Alignment/PKU-SafeRLHF",
        {"train": "data/*/train.jsonl", "test": "data/*/test.jsonl"},
        rows,
        threshold=1.5,
        counts=(2 * 73_907, 2 * 8_211),
        source=(path, revision, cache_dir),
    )


#: Emojis that readers press on a message, and the columns of their counts.
_EMOJIS = {
    "+1": "n_up",
    "-1": "n_down",
    "red_flag": "n_flag",
    "_skip_reply": "n_skip_reply",
    "_skip_labeling": "n_skip_labeling",
}
#: Labels that are kept, as their mean over raters and the number of raters.
_LABELS = ("quality", "helpfulness", "fails_task", "spam")


def fetch_oasst1_feedback(
    path: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> FeedbackData:
    """Fetch the reactions of volunteers to the answers of OpenAssistant, with their rated quality.

    The rows are the answers that a person wrote in the role of the assistant, in all languages
    (`frame` has the column ``lang``). Other people rated them. The log is
    ``load_feedback_log("oasst1")`` in full size: 88,838 messages, including prompts. Source:
    ``OpenAssistant/oasst1``, Apache-2.0 [1]_.

    {parameters}

    References
    ----------
    .. [1] Köpf et al., "OpenAssistant Conversations - Democratizing Large Language Model
       Alignment", arXiv 2304.07327, 2023.

    Examples
    --------
    >>> from implicitrm_sk.datasets import fetch_oasst1_feedback  # doctest: +SKIP
    >>> data = fetch_oasst1_feedback()  # doctest: +SKIP
    >>> data.actions.shape, data.exposures.shape  # doctest: +SKIP
    """
    repository = "OpenAssistant/oasst1"
    pandas = import_optional("pandas", "data", f"Fetching {repository}")
    patterns = {"train": "data/train-*.parquet", "test": "data/validation-*.parquet"}
    folder = _folder(repository, patterns, (path, revision, cache_dir))
    rows, counts = [], []
    for split, pattern in patterns.items():
        messages = list(_records_of(folder, repository, pattern, pandas))
        counts.append(len(messages))
        try:
            rows += [row | {"split": split} for row in _answers(messages)]
        except (KeyError, TypeError) as error:
            raise _not_as_published(repository, split, error) from error
    _check_counts(repository, path, counts, (84_437, 4_401), "messages")
    if not rows:
        raise ImplicitRMError(
            f"{repository} in {str(folder)!r} does not have a rated answer. Pass the revision= of "
            "one that has some."
        )
    frame = pandas.DataFrame(rows)
    rated = columns_of(frame, Path(repository))
    return feedback_of(frame, LOGS["oasst1"], rated, "oasst1")


def _answers(messages):
    """Yield a row of the log for each answer of a person that raters saw."""
    text = {message["message_id"]: message["text"] for message in messages}
    for message in messages:
        quality = _named(message["labels"], "value").get("quality")
        if (
            message["role"] != "assistant"
            or message["synthetic"]
            or message["deleted"]
            or quality is None
        ):
            continue
        pressed = _named(message["emojis"], "count")
        value, raters = (_named(message["labels"], part) for part in ("value", "count"))
        tree = message["message_tree_id"]
        row = {
            "prompt": text[message["parent_id"]],
            "response": message["text"],
            "prompt_id": message["parent_id"],
            "tree_id": tree,
            "lang": message["lang"],
            # By tree, because the messages of one tree continue each other.
            "fold": zlib.crc32(tree.encode()) % 5,
            "rating": float(quality),
            "true_preference": int(quality >= 0.5),
            "rank": message["rank"],
        }
        row |= {column: int(pressed.get(name, 0)) for name, column in _EMOJIS.items()}
        for name in _LABELS:
            row |= {name: value.get(name), f"raters_{name}": raters.get(name, 0)}
        yield row


def _named(values, part):
    """Return {name: value} of the columns "name" and `part`, as in the published files."""
    return {} if values is None else dict(zip(values["name"], values[part], strict=True))


for _function, _returns in (
    (fetch_helpsteer, _RATED),
    (fetch_ultrafeedback, _RATED),
    (fetch_pku_saferlhf, _RATED),
    (fetch_oasst1_feedback, _FEEDBACK),
):
    if _function.__doc__:  # python -OO removes it
        _function.__doc__ = _function.__doc__.replace(
            "    {parameters}\n", _PARAMETERS.replace("{returns}\n", _returns)
        )


def _fetch(repository, patterns, rows, *, threshold, counts, source):
    """Return a data set, where `rows` yields prompt, response and rating of a record."""
    pandas = import_optional("pandas", "data", f"Fetching {repository}")
    folder = _folder(repository, patterns, source)
    parts = []
    for split, pattern in patterns.items():
        records = _records_of(folder, repository, pattern, pandas)
        try:
            part = pandas.DataFrame(
                [row for record in records for row in rows(record)],
                columns=["prompt", "response", "rating"],
            )
        except (KeyError, TypeError, IndexError) as error:
            raise _not_as_published(repository, split, error) from error
        parts.append(part.assign(split=split))
    _check_counts(repository, source[0], [len(part) for part in parts], counts, "rows")
    frame = pandas.concat(parts, ignore_index=True)
    rating = pandas.to_numeric(frame["rating"], errors="coerce")
    if rating.isna().any():
        warn(f"{repository}: {int(rating.isna().sum())} rows without a rating were left out.")
    frame = frame.assign(rating=rating)[rating.notna()].reset_index(drop=True)
    data = columns_of(frame, Path(repository))
    data.name = repository.split("/")[1]
    data.encoder = data.encoder_description = None
    data.threshold = threshold
    data.true_preference = (data.rating > threshold).astype(np.int64)
    return data


def _folder(repository, patterns, source):
    """Return the folder with a copy of a repository, downloaded if no path is given."""
    path, revision, cache_dir = source
    if path is None:
        return _download(repository, list(patterns.values()), revision, cache_dir)
    folder = Path(path).expanduser()
    if revision is not None:
        raise ImplicitRMError(
            f"path={str(path)!r} is a folder, which does not have a revision. Leave "
            f"revision={revision!r} out."
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is not a folder. Correct the path.")
    return folder


def _records_of(folder, repository, pattern, pandas):
    """Return an iterator over the records of the files of one split."""
    files = sorted(folder.glob(pattern))
    if not files:
        found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*"))[:20]
        raise ImplicitRMError(
            f"{repository} lacks the file {pattern!r} in {str(folder)!r}. Files there: "
            f"{', '.join(found) or 'none'}. Its published form may have changed. Pass the "
            "revision= of one that has the file."
        )
    return (record for file in files for record in _records(file, pandas))


def _not_as_published(repository, split, error):
    return ImplicitRMError(
        f"{repository}: a record of the {split} split differs from the published form "
        f"({type(error).__name__}: {error}). Pass the revision= of one that does not."
    )


def _check_counts(repository, path, found, published, what):
    """Warn if a download has more or fewer rows than were published."""
    if path is None and tuple(found) != published:
        warn(
            f"{repository} has {found[0]} training and {found[1]} test {what}, but was published "
            f"with {published[0]} and {published[1]}."
        )


def _records(file, pandas):
    """Yield the records of a parquet or JSON lines file."""
    if file.suffix == ".parquet":
        import_optional("pyarrow", "data", f"Reading {file.name!r}")
        yield from pandas.read_parquet(file).to_dict("records")
        return
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else file.open(encoding="utf-8") as lines
    ):
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _download(repository, patterns, revision, cache_dir):
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=patterns,
            )
        )
    except (OSError, ValueError) as error:  # no network, not in the cache, no such revision
        raise OSError(
            f"{repository} could not be downloaded and is not in the cache "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Run this once with a network "
            "connection, or copy the repository and pass its folder as path=."
        ) from error
