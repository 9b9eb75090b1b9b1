"""Choice of the best of several responses, and the accuracy of a reward on pairs."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._tables import as_list, column_names, is_numeric, opened
from .._typing import Rows
from ..exceptions import ImplicitRMError
from ..metrics import paired_accuracy
from ._rewards import check_pessimism, rewards

_COLUMNS = ("prompt", "chosen", "rejected", "subset")


@dataclass
class Ranking:
    """Candidates from best to worst.

    Attributes
    ----------
    order : ndarray of int of shape (n,)
        Positions of the candidates, best first; equal ones stay in the order given.
    reward : ndarray of shape (n,)
        The value that ranks them, in the order given: reward minus pessimism times spread.
    spread : ndarray of shape (n,)
        Standard deviation of the reward over the members.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.integrations import Ranking
    >>> Ranking(order=np.array([1, 0]), reward=np.array([0.2, 0.7]), spread=np.zeros(2)).best
    1
    """

    order: np.ndarray
    reward: np.ndarray
    spread: np.ndarray

    @property
    def best(self) -> int:
        """Position of the best candidate.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.integrations import Ranking
        >>> Ranking(order=np.array([1, 0]), reward=np.array([0.2, 0.7]), spread=np.zeros(2)).best
        1
        """
        return int(self.order[0])


def rank(est: Any, prompt: Any, candidates: Rows, *, pessimism: float = 0.0) -> Ranking:
    """Rank candidate responses to one prompt by their reward (best-of-n).

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        A fitted estimator.
    prompt : str, list of chat messages or None
        None if `candidates` are vectors, which already include the prompt.
    candidates : list of n responses, or array-like of shape (n, n_features)
        Text (or chat messages) if the estimator has an embedder, else vectors.
    pessimism : float, default=0.0
        This many times the spread over the members is subtracted from the reward. The best of many
        often has a wrong reward; this accounts for the uncertainty.

    Returns
    -------
    ranking : Ranking
        Order, rewards and spreads of the candidates.

    Raises
    ------
    TypeError, ValueError
        If there are no candidates, or `prompt` does not match them: text needs a prompt, vectors do
        not.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.integrations import rank
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 3))
    >>> y = (X[:, :1] + rng.normal(size=(1000, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> rank(est, None, [[0.0, 0, 0], [2.0, 0, 0], [-2.0, 0, 0]]).order
    array([1, 0, 2])
    """
    pessimism = check_pessimism(pessimism)
    candidates = opened(candidates)
    numeric = is_numeric(candidates)
    if numeric != (prompt is None):
        raise ImplicitRMError(
            "prompt must be None, because candidates are vectors, which already include the "
            "prompt. Leave prompt out."
            if numeric
            else "prompt is None, but candidates are text; expected the prompt that they answer. "
            "Pass it."
        )
    if isinstance(candidates, str):
        raise TypeError("candidates is one string; expected a list of responses. Pass a list.")
    if len(candidates) == 0:
        raise ImplicitRMError("candidates is empty; expected at least one response. Pass some.")
    X = candidates if numeric else [(prompt, candidate) for candidate in as_list(candidates)]
    reward, spread = rewards(est, X, pessimism=pessimism)
    return Ranking(np.argsort(-reward, kind="stable"), reward, spread)


@dataclass
class PairedAccuracy:
    """How often a reward prefers the chosen response of a pair. Prints as text.

    Attributes
    ----------
    accuracy : float
        Share of pairs in which the chosen response has the higher reward; equal rewards count half.
    standard_error : float
        Standard error of `accuracy`, if pairs are independent.
    n_pairs : int
    by_subset : dict of str to (float, int)
        Accuracy and number of pairs of each subset.
    reward_chosen, reward_rejected : ndarray of shape (n_pairs,)

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.integrations import evaluate_pairs
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = (X[:, :1] + rng.normal(size=(400, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> print(evaluate_pairs(est, ([[2.0, 0], [0, 0]], [[0.0, 0], [1, 0]])))
    paired accuracy 0.500 ± 0.354 (2 pairs)
    """

    accuracy: float
    standard_error: float
    n_pairs: int
    by_subset: dict
    reward_chosen: np.ndarray = field(repr=False)
    reward_rejected: np.ndarray = field(repr=False)

    def __str__(self):
        lines = [
            f"paired accuracy {self.accuracy:.3f} ± {self.standard_error:.3f} "
            f"({self.n_pairs:,} pairs)"
        ]
        width = max(map(len, self.by_subset), default=0)
        lines += [
            f"  {name:{width}}  {value:.3f}  ({n:,})" for name, (value, n) in self.by_subset.items()
        ]
        return "\n".join(lines)


def evaluate_pairs(est: Any, pairs: Any) -> PairedAccuracy:
    """Compute the accuracy on pairs of a chosen and a rejected response, as in RewardBench [1]_.

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        A fitted estimator.
    pairs : DataFrame, Hugging Face Dataset, list of dict, or (X_chosen, X_rejected)
        A table with the columns ``prompt``, ``chosen``, ``rejected`` (text or chat messages) and,
        optionally, ``subset``. Without ``prompt``, the other two are whole conversations. Or two
        arrays of vectors of shape (n_pairs, n_features).

    Returns
    -------
    result : PairedAccuracy
        The accuracy, which prints as text.

    Raises
    ------
    TypeError, ValueError
        If `pairs` is not such a table, is empty, or lacks a column.

    References
    ----------
    .. [1] Lambert et al., "RewardBench: Evaluating Reward Models for Language Modeling", Findings
       of NAACL 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.integrations import evaluate_pairs
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = (X[:, :1] + rng.normal(size=(400, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> chosen, rejected = [[2.0, 0], [1, 0]], [[0.0, 0], [-1, 0]]
    >>> evaluate_pairs(est, (chosen, rejected)).accuracy
    1.0
    """
    chosen, rejected, subset = _read_pairs(pairs)
    n = len(chosen)
    if is_numeric(chosen):  # the names of their columns may differ
        (a, _), (b, _) = rewards(est, chosen), rewards(est, rejected)
    else:
        both, _ = rewards(est, [*chosen, *rejected])
        a, b = both[:n], both[n:]
    reward = np.concatenate([a, b])
    won = (a > b) + 0.5 * (a == b)
    truth, groups = np.repeat([1, 0], n), np.tile(np.arange(n), 2)
    accuracy = paired_accuracy(truth, reward, groups)
    names = sorted(set(subset)) if subset is not None else []
    subset = np.asarray(subset, dtype=object)
    return PairedAccuracy(
        accuracy=accuracy,
        standard_error=math.sqrt(won.var() / n),
        n_pairs=n,
        by_subset={
            name: (float(won[subset == name].mean()), int((subset == name).sum())) for name in names
        },
        reward_chosen=a,
        reward_rejected=b,
    )


def _read_pairs(pairs):
    if isinstance(pairs, tuple) and len(pairs) == 2 and all(map(is_numeric, pairs)):
        chosen, rejected = map(opened, pairs)
        if len(chosen) != len(rejected):
            raise ImplicitRMError(
                f"X_chosen has {len(chosen)} rows and X_rejected {len(rejected)}; expected equal "
                "numbers, because rows i of both are a pair. Pass the missing rows."
            )
        return chosen, rejected, None
    pairs = opened(pairs)
    columns = column_names(pairs)
    if columns is not None:
        table = {name: as_list(pairs[name]) for name in _COLUMNS if name in columns}
    elif isinstance(pairs, list | tuple) and all(isinstance(row, dict) for row in pairs):
        columns = set().union(*pairs)
        table = {
            name: [row[name] for row in pairs]
            for name in _COLUMNS
            if pairs and all(name in row for row in pairs)
        }
    else:
        raise TypeError(
            f"pairs is a {type(pairs).__name__}; expected a table or a list of dicts with chosen "
            "and rejected, or a tuple of two arrays of vectors. Convert it."
        )
    if len(pairs) == 0:
        raise ImplicitRMError("pairs is empty; expected at least one pair. Pass some.")
    missing = [name for name in ("chosen", "rejected") if name not in table]
    if missing:
        raise ImplicitRMError(
            f"pairs lacks {' and '.join(missing)} in some rows. It has "
            f"{', '.join(sorted(map(str, columns)))}; expected prompt, chosen, rejected and, "
            "optionally, subset. Rename or add them."
        )
    sides = [table["chosen"], table["rejected"]]
    if "prompt" in table:
        sides = [list(zip(table["prompt"], side, strict=True)) for side in sides]
    elif any(isinstance(response, str) for response in sides[0]):
        raise ImplicitRMError(
            "pairs lacks prompt, so chosen and rejected must be whole conversations (lists of "
            "chat messages), but they are text. Add the column prompt."
        )
    else:
        sides = [[{"messages": response} for response in side] for side in sides]
    return *sides, list(map(str, table["subset"])) if "subset" in table else None
