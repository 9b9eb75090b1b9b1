"""Checks of what the user passes in; every message names the argument, the finding and the cure."""

from numbers import Real

import numpy as np
import torch
from sklearn.utils.validation import check_array, validate_data


def to_numpy(value):
    """Return a torch tensor as an ndarray (bfloat16 as float32), anything else as it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return value


def check_features(estimator, X, *, reset):
    """Return X as a finite 2-D float array and check (or set) its width and column names.

    float16, float32 and float64 are kept as they are, other numbers become float64.
    """
    X = to_numpy(X)
    values = X.to_numpy() if hasattr(X, "iloc") else X
    first = values[0] if isinstance(values, list | tuple | np.ndarray) and len(values) else None
    cell = first[0] if isinstance(first, list | tuple | np.ndarray) and len(first) else first
    if isinstance(values, np.ndarray) and values.dtype == object and np.ndim(cell) == 1:
        raise ValueError(
            "X holds one array per cell, but expected is one number per cell, shape (n_samples, "
            "n_features): pass np.stack(column) of the column that holds the embeddings."
        )
    if isinstance(cell, str) or (isinstance(cell, dict) and not isinstance(first, np.ndarray)):
        raise ValueError(
            "X holds text, but expected are embeddings of shape (n_samples, n_features): embed "
            "the responses first and pass the vectors."
        )
    return validate_data(
        estimator, X, reset=reset, dtype=[np.float64, np.float32, np.float16], order=None
    )


def _as_float(y, name):
    try:
        # pandas' own missing value does not convert by itself.
        if hasattr(y, "to_numpy"):
            y = y.to_numpy(dtype=np.float64, na_value=np.nan)
        # A copy, because torch shares memory and objects to read-only arrays.
        return np.array(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Unknown label type: {name} must be numbers, but could not be read as such ({error}). "
            "Expected are actions 0 (did not act) or 1 (acted), NaN where a signal was not logged, "
            "of shape (n_samples,) or (n_samples, n_signals)."
        ) from error


def check_actions(y, n_samples, *, name="y", n_signals=None):
    """Return actions as a float array of shape (n, K) with values 0, 1 or NaN.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, K)
    n_samples : int
        Rows of X.
    name : str
        Name of the argument, for the messages.
    n_signals : int, optional
        The K of `fit`.

    Returns
    -------
    actions : ndarray of float64 of shape (n, K)
    one_dimensional : bool
    """
    if y is None:
        raise ValueError(
            f"This estimator requires {name} to be passed, but the target {name} is None. Pass "
            "the actions, 0 or 1 per response."
        )
    actions = _as_float(to_numpy(y), name)
    if actions.ndim not in (1, 2):
        raise ValueError(
            f"{name} has {actions.ndim} dimensions (shape {actions.shape}); expected are actions "
            "of shape (n_samples,) or (n_samples, n_signals)."
        )
    one_dimensional = actions.ndim == 1
    if one_dimensional:
        actions = actions[:, None]
    if len(actions) != n_samples:
        raise ValueError(
            f"{name} has {len(actions)} rows but X has {n_samples}: one row of actions per "
            "response is expected. Found input variables with inconsistent numbers of samples."
        )
    if n_signals is not None and actions.shape[1] != n_signals:
        raise ValueError(
            f"{name} has {actions.shape[1]} signal(s), but the estimator was fitted with "
            f"{n_signals}. Pass the same signals in the same order, NaN where one was not logged."
        )
    if actions.shape[1] == 0:
        raise ValueError(f"{name} has no columns; at least one action signal is expected.")
    valid = np.isnan(actions) | (actions == 0) | (actions == 1)
    if not valid.all():
        wrong = np.unique(actions[~valid])
        shown = ", ".join(f"{value:g}" for value in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        hint = (
            " (scikit-learn's cross_val_predict encodes y as class labels for method="
            "'predict_proba' and turns NaN into 2: pass y without NaN there)"
            if 2 in wrong
            else ""
        )
        raise ValueError(
            f"{name} must be an action in {{0,1}}, NaN where not logged, but "
            f"{(~valid).sum()} value(s) are something else: {shown}{hint}. Turn counts or ratings "
            "into actions first, e.g. (y > 0)."
        )
    return actions, one_dimensional


def check_both_classes(actions, sample_weight, name="y"):
    """Raise unless something is logged and the logged actions hold both a 0 and a 1."""
    counted = actions[sample_weight > 0]
    logged = counted[~np.isnan(counted)]
    if logged.size == 0:
        raise ValueError(
            f"{name} logs nothing: all {actions.size} entries are NaN or have zero sample_weight. "
            "At least some actions must be 0 or 1."
        )
    if logged.min() == logged.max():
        raise ValueError(
            f"{name} has one class only: all {logged.size} logged actions are {logged[0]:g}. A "
            "reward can be learned only from a log with rows that drew an action (1) and rows "
            "that drew none (0); check how the log was joined."
        )


def check_vector(value, n_samples, name):
    """Return a finite float vector of length n_samples."""
    if isinstance(value, str):
        raise ValueError(f"{name} must be one number per row of X, got {value!r}.")
    vector = check_array(to_numpy(value), ensure_2d=False, dtype=np.float64, input_name=name)
    if vector.shape != (n_samples,):
        raise ValueError(
            f"{name} has shape {vector.shape}, but one number per row of X is expected: "
            f"({n_samples},)."
        )
    return vector


def check_sample_weight(sample_weight, n_samples):
    """Return a copy of non-negative float weights of shape (n,), ones where None is given."""
    if sample_weight is None:
        return np.ones(n_samples)
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_samples, sample_weight)
    weight = check_vector(sample_weight, n_samples, "sample_weight")
    if (weight < 0).any():
        raise ValueError(
            f"sample_weight has {(weight < 0).sum()} negative value(s); weights must be >= 0."
        )
    if not weight.any():
        raise ValueError("sample_weight is zero for every row; at least one must be positive.")
    return weight.copy()


def check_groups(groups, n_samples):
    """Return group labels as a 1-D array of length n."""
    groups = np.asarray(to_numpy(groups))
    if groups.shape != (n_samples,):
        raise ValueError(
            f"groups has shape {groups.shape}, but one label per row of X is expected: "
            f"({n_samples},)."
        )
    try:
        np.unique(groups)
    except TypeError as error:
        raise ValueError(
            f"groups holds labels that cannot be put in order ({error}). Use one type for all "
            "labels, and fill in missing ones."
        ) from error
    return groups
