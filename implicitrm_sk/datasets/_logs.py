"""Public logs of what users did, together with the truth."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ..signals import Choice
from ._data import FeedbackData
from ._rated import add_embeddings, columns_of, find_parquet, read_parquet

#: Text for licences that were not checked in the repository of the data.
_UNVERIFIED = "not verified: evaluation only, do not redistribute; see the source"


@dataclass(frozen=True)
class _Log:
    """A published log: its source, and how its table becomes `FeedbackData`."""

    description: str
    source: str
    licence: str
    #: Columns of the table that are truth. They may neither train nor select.
    truth: tuple
    #: The column whose values no fold separates.
    groups: str
    fields: Callable[[Any], dict]
    has_text: bool = True


def _thumbs(frame):
    """Return the fields of counted thumbs: how many of the people who reacted chose up.

    People who looked at a response without reacting are not known, so reactions are the exposures.
    """
    return {
        "actions": frame[["n_up"]].astype(float),
        "signals": {"n_up": "positive"},
        "exposures": (frame["n_up"] + frame["n_down"]).to_numpy(float),
    }


def _survey_exposures(frame):
    return {
        # Only the answers are known of a pair, so all pairs have one prior.
        "X": np.ones((len(frame), 1), dtype=np.float32),
        "actions": frame[["yes", "no"]].astype(float),
        "signals": {"yes": "positive", "no": "negative"},
        "user_id": frame["user_id"].to_numpy(),
        "response_id": frame["response_id"].to_numpy(),
        "time": frame["ts"].to_numpy(),
    }


def _survey_counts(frame):
    # Without an answer, the published ratios do not show how often a pair was shown.
    exposures = frame["exposures"].fillna(0).to_numpy(float)
    return {
        "actions": frame[["n_yes", "n_no"]].astype(float),
        "signals": {"n_yes": "positive", "n_no": "negative"},
        "exposures": np.column_stack([exposures, exposures]),
    }


def _views(frame):
    names = ["click", "long_view", "profile_enter", "comment", "follow", "forward"]
    X = np.column_stack(
        [
            np.log1p(frame["duration_ms"]),
            *(frame["hour"] == hour for hour in range(24)),
            *(frame["weekday"] == day for day in range(7)),
        ]
    )
    return {
        "X": X.astype(np.float32),
        "actions": frame[names].astype(float),
        "signals": dict.fromkeys(names, "positive"),
        "user_id": frame["user_id"].to_numpy(),
        "time": frame["time_ms"].to_numpy(),
    }


def _self_selected_ratings(frame):
    features = [name for name in frame if name.startswith(("user_", "item_"))]
    features = [name for name in features if name not in ("user_id", "item_id")]
    pandas = import_optional("pandas", "data", "Reading a feedback log")
    choice = np.select(
        [frame[name] == 1 for name in ("high", "mid", "low")], ["high", "mid", "low"], "none"
    )
    return {
        "X": frame[features].to_numpy(np.float32),
        "actions": pandas.DataFrame({"rating": choice}),
        "signals": {"rating": Choice({"high": 1, "low": 0, "mid": None}, silent="none")},
        "user_id": frame["user_id"].to_numpy(),
        "feature_names": features,
    }


def _chats(frame):
    names = ["chosen", "next_adjustment"]
    return {
        "actions": frame[names].astype(float),
        "signals": {"chosen": "positive", "next_adjustment": "negative"},
        "user_id": frame["user_id"].to_numpy(),
    }


_OASST1_TRUTH = (
    "true_preference",
    "rating",
    "quality",
    "raters_quality",
    "helpfulness",
    "raters_helpfulness",
    "fails_task",
    "raters_fails_task",
    "spam",
    "raters_spam",
    "rank",
)
_OASST1 = (
    "Answers that people wrote in the role of an assistant, with the thumbs of volunteers who read "
    "them (counts; viewers are not known). Truth: quality by other volunteers, about three a "
    "response, 0.5 or more. Who reacts and who rates may overlap.",
    "https://huggingface.co/datasets/OpenAssistant/oasst1",
    "Apache-2.0",
)
LOGS = {
    "oasst1": _Log(*_OASST1, _OASST1_TRUTH, "prompt_id", _thumbs),
    "wikimedia_relevance": _Log(
        "Pairs of a search query and an article, shown to readers who were asked whether the "
        "article fits: yes, no, unsure, dismiss or nothing. The counts are rebuilt from three "
        "published ratios. Truth: relevance by other people, above 1 of 3.",
        "https://github.com/wikimedia-research/Discovery-Search-Adhoc-RelevanceSurveys",
        _UNVERIFIED,
        ("true_preference", "rating", "n_scores"),
        "prompt_id",
        _survey_counts,
    ),
    "wikimedia_mvp": _Log(
        "Single exposures of 50 pairs of a search query and an article to readers who answered "
        "yes, no or nothing. Truth: five grades by one expert, 'ok' or better; this cut was chosen "
        "after seeing the answers by grade.",
        "https://github.com/wikimedia-research/Discovery-Search-Adhoc-SurveyMVP",
        _UNVERIFIED,
        ("true_preference", "true_preference_strict", "rating", "opinion"),
        "prompt_id",
        _survey_exposures,
    ),
    "kuairand": _Log(
        "Views of short videos, six actions each, of the views with an explicit verdict. Truth: "
        "like (1) or hate (0). Video ids are left out, as they give the verdict away.",
        "https://github.com/chongminggao/KuaiRand",
        _UNVERIFIED,
        ("true_preference",),
        "user_id",
        _views,
        has_text=False,
    ),
    "coat": _Log(
        "Coats that shoppers rated by their own choice: high (4, 5), mid (3), low (1, 2), or not "
        "rated, which is the rule. Truth: ratings of random coats by the same shoppers, 4 or 5.",
        "https://www.cs.cornell.edu/~schnabts/mnar/",
        _UNVERIFIED,
        ("true_preference", "rating", "repeated"),
        "user_id",
        _self_selected_ratings,
        has_text=False,
    ),
    "ifllm": _Log(
        "Answers of language models: which of a pair was chosen, and whether the next query "
        "adjusts the last. Truth: the same user's rating, 4 or 5 of 5.",
        "https://github.com/themehulpatwari/llm-implicit-feedback",
        "Apache-2.0",
        ("true_preference", "rating"),
        "prompt_id",
        _chats,
    ),
}


def load_feedback_log(
    name: str, data_home: str | PathLike[str] | None = None, *, encoder: str | None = None
) -> FeedbackData:
    """Load a public log of what users did, with the truth kept apart.

    `actions`, `signals` and `fit_params` are one way to pass the log. It follows from the structure
    of the log, and was chosen without the truth. `frame` holds the columns for other ways.

    Parameters
    ----------
    name : {"oasst1", "wikimedia_relevance", "wikimedia_mvp", "kuairand", "coat", "ifllm"}
        The log, in the file ``log_NAME.parquet``.

    data_home : str or path-like, default=None
        Folder of the files. ``None`` means the environment variable ``IMPLICITRM_DATA`` if it is
        set, else ``~/implicitrm_data``.

    encoder : str, default=None
        The embeddings to load, as in `load_rated_responses`. Logs without text do not have any.

    Returns
    -------
    data : FeedbackData
        It has the attributes below, where n is the number of rows.

        X : ndarray of shape (n, d), float32, or None
            Embeddings of the texts, or the columns that describe a row. It is one constant column
            if only the answers are known.
        actions : DataFrame of shape (n, K)
            The actions of users: 0, 1 or NaN, the number of actions, or the label of a `Choice`.
        signals : dict
            The kind of each column of `actions`.
        exposures : ndarray of shape (n,) or (n, K), or None
            How often each response was shown; `actions` are then counts.
        prompt, response, user_id, response_id, time : ndarray of shape (n,), or None
            These fields as far as the log has them.
        groups : ndarray of shape (n,)
            Prompts or users, which no fold separates.
        fold : ndarray of shape (n,), int64
            0 to 4.
        is_test : ndarray of shape (n,), bool
            Whether the row is in fold 0.
        true_preference : ndarray of shape (n,), float64
            1 or 0, NaN if unknown.
        truth : DataFrame of shape (n, n_truths)
            All columns that are truth. Neither `frame` nor `fit_params` contains one of them.
        frame : DataFrame of shape (n, n_columns)
            All other columns.
        name, description, source, licence : str
            The name, content and origin of the log.
        encoder, encoder_description : str or None
            As in `load_rated_responses`.

    Raises
    ------
    FileNotFoundError
        If the folder, the file or the embeddings do not exist.
    ValueError
        If there is no log with this name, if it lacks text for an encoder, or if the file lacks
        columns.
    ImportError
        If pandas or pyarrow is not installed: ``pip install "implicitrm-sk[data]"``.

    See Also
    --------
    fetch_oasst1_feedback : Fetches the first of these logs from the hub, in full size.

    Notes
    -----
    The files are other people's data and not part of the package. ``benchmarks/prepare.py`` makes
    them from the published data.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from implicitrm_sk.datasets import load_feedback_log
    >>> frame = pd.DataFrame(
    ...     {
    ...         "prompt": ["Name a prime."] * 2,
    ...         "response": ["7", "8"],
    ...         "prompt_id": [0, 0],
    ...         "n_yes": [3, 0],
    ...         "n_no": [0, 4],
    ...         "exposures": [20, 30],
    ...         "rating": [3.0, 0.0],
    ...         "n_scores": [2, 2],
    ...         "true_preference": [1, 0],
    ...         "fold": [0, 0],
    ...         "split": ["test", "test"],
    ...     }
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.to_parquet(Path(folder) / "log_wikimedia_relevance.parquet")
    ...     data = load_feedback_log("wikimedia_relevance", folder)
    >>> data.signals
    {'n_yes': 'positive', 'n_no': 'negative'}
    >>> data.true_preference
    array([1., 0.])
    >>> sorted(data.fit_params())
    ['exposures', 'groups']
    >>> "rating" in data.frame
    False
    """
    log = LOGS.get(name) if isinstance(name, str) else None
    if log is None:
        raise ImplicitRMError(
            f"name is {name!r}; expected one of {', '.join(map(repr, LOGS))}. Correct the name."
        )
    if encoder is not None and not log.has_text:
        raise ImplicitRMError(
            f"encoder is {encoder!r}, but the log {name!r} does not contain text to embed. Leave "
            "it out."
        )
    parquet = find_parquet(f"log_{name}", data_home)
    frame = read_parquet(parquet)
    missing = sorted({"true_preference", log.groups, "fold"} - set(frame.columns))
    if missing:
        raise ImplicitRMError(
            f"{parquet.name!r} lacks the column(s) {', '.join(missing)}. Make the file with "
            "benchmarks/prepare.py."
        )
    rated = FeedbackData()
    if log.has_text:
        rated = columns_of(frame, parquet)
        add_embeddings(rated, parquet, encoder, labels="true_preference")
    try:
        return feedback_of(frame, log, rated, name)
    except KeyError as error:
        raise ImplicitRMError(
            f"{parquet.name!r} lacks the column(s) {error}. Make the file with "
            "benchmarks/prepare.py."
        ) from error


def feedback_of(frame, log, rated, name):
    """Return a table as `FeedbackData`, with its truth kept apart.

    Parameters
    ----------
    frame : DataFrame
    log : _Log
    rated : FeedbackData
        With prompt, response, X and its encoder, if they exist.
    name : str
    """
    truth = [column for column in log.truth if column in frame]
    apart = frame.drop(columns=truth)
    fields = {"X": rated.X} | log.fields(apart)
    fold = frame["fold"].to_numpy(np.int64)
    return FeedbackData(
        **fields,
        prompt=rated.prompt,
        response=rated.response,
        groups=frame[log.groups].to_numpy(),
        fold=fold,
        is_test=fold == 0,
        true_preference=frame["true_preference"].to_numpy(np.float64),
        truth=frame[truth],
        frame=apart,
        name=name,
        description=log.description,
        source=log.source,
        licence=log.licence,
        encoder=rated.get("encoder"),
        encoder_description=rated.get("encoder_description"),
    )
