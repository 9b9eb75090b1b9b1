"""Checks of the user's arguments; each message names the argument, the problem and a remedy."""

from numbers import Real

import numpy as np
import torch
from sklearn.utils.validation import check_array, validate_data

from ._keys import as_rounded, codes_of, in_two_forms, is_absent, rounded_id, two_forms
from ._tables import (
    as_frame,
    as_list,
    as_numbers,
    as_series,
    as_values,
    as_vectors,
    column_names,
    first_no_number,
    opened,
    times_in,
)
from .exceptions import ImplicitRMError


def check_not_text(X):
    """Raise if X holds text, or arrays in its cells, instead of numbers."""
    frame = as_frame(X)
    values = X if frame is None else np.array(frame.head(1).rows(), dtype=object)
    if as_series(X) is not None:
        values = as_list(X)
    times = times_in(X)
    if times or (isinstance(values, np.ndarray) and values.dtype.kind in "Mm"):
        raise ImplicitRMError(
            f"X holds times{f' in the columns {times}' if times else ''}; expected numbers. Encode "
            "them first, for example as hours since an event, or select other columns."
        )
    first = values[0] if isinstance(values, list | tuple | np.ndarray) and len(values) else None
    cell = first[0] if isinstance(first, list | tuple | np.ndarray) and len(first) else first
    if isinstance(values, np.ndarray) and values.dtype == object and np.ndim(cell) == 1:
        raise ImplicitRMError(
            "Each cell of X contains an array; expected a 2-D array of numbers of shape "
            "(n_samples, n_features). Pass np.stack(column) of the column that holds the "
            "embeddings."
        )
    if isinstance(first, np.ndarray) and first.dtype == object:
        text = [column for column, value in enumerate(first) if isinstance(value, str)]
        if 0 < len(text) < len(first):
            names = text if frame is None else [frame.columns[column] for column in text]
            raise ImplicitRMError(
                f"X holds text in the columns {list(names)}; expected numbers. Encode them first "
                "(OneHotEncoder in a ColumnTransformer), or select other columns."
            )
    if isinstance(cell, str | bytes) or (
        isinstance(cell, dict) and not isinstance(first, np.ndarray)
    ):
        raise ImplicitRMError(
            "X holds text; expected embeddings of shape (n_samples, n_features). Set embedder= of "
            "ImplicitRewardEstimator to a language model ('org/name', a folder, or an "
            "LLMEmbedder), or put an LLMEmbedder before it in a pipeline."
        )


_FLOATS = [np.float64, np.float32, np.float16]


def check_features(estimator, X, *, reset):
    """Return X as a finite 2-D float array and check (or set) its width and column names.

    float16, float32 and float64 are kept; other numbers become float64.
    """
    X = as_vectors(X)
    check_not_text(X)
    names = column_names(X)
    options = {"dtype": _FLOATS, "order": None, "ensure_all_finite": False}
    if as_frame(X) is not None:
        _check_names(estimator, X, reset=reset)
        X = as_table(X)
        is_finite = _is_surely_finite(X)
        X = check_array(X, estimator=estimator, input_name="X", **options)
    else:
        X = as_table(X)
        is_finite = _is_surely_finite(X)
        try:
            X = validate_data(estimator, X, reset=reset, **options)
        except ValueError as error:
            if reset or "is expecting" not in str(error):
                raise
            raise ImplicitRMError(f"{error} Pass the columns of fit, in their order.") from None
    if not is_finite:
        check_finite(X, "X", names)
    return X


def as_table(X):
    """Return X as an array of two dimensions that holds no text and no times."""
    if X is None:
        raise ImplicitRMError(
            "X is None; expected numbers of shape (n_samples, n_features). Pass the embeddings of "
            "the responses."
        )
    check_rectangular(X, "X")
    names = column_names(X)
    X = as_numbers(X)
    if not isinstance(X, np.ndarray):
        return X
    shape = X.shape
    if len(shape) != 2:
        remedy = "Pass one row for each response."
        if len(shape) == 1:
            remedy = (
                "Reshape your data: X.reshape(1, -1) if it is one response, X.reshape(-1, 1) if it "
                "is one feature."
            )
        found = "Expected 2D array, got 1D array instead" if len(shape) == 1 else (
            f"Found array with dim {len(shape)}"
        )  # fmt: skip
        raise ImplicitRMError(
            f"{found}: X has the shape {shape}; expected (n_samples, n_features). {remedy}"
        )
    if X.dtype.kind == "c":
        raise ImplicitRMError(
            "Complex data not supported: X holds complex numbers; expected real ones. Pass X.real "
            "and X.imag as columns side by side."
        )
    wrong = first_no_number(X)
    if wrong is not None and isinstance(wrong[1], str | bytes):
        raise ImplicitRMError(
            f"X holds {wrong[1]!r} ({_type_of(wrong[1])}) in {_cell(wrong[0], names)}; expected "
            "numbers. Convert it."
        )
    return X


def _cell(position, names=None):
    """Return the place of a value of an array in words."""
    row, *column = map(int, position)
    if not column:
        return f"row {row}"
    return f"row {row}, column {column[0] if names is None else repr(names[column[0]])}"


def _type_of(value):
    return type(value).__name__.removesuffix("_")


def check_rectangular(value, name):
    """Raise if the rows of a list have different lengths."""
    if not isinstance(value, list | tuple):
        return
    kinds = (list, tuple, np.ndarray)
    if not any(isinstance(row, kinds) for row in value):
        return
    lengths = [
        len(row) if isinstance(row, kinds) and getattr(row, "ndim", 1) else -1 for row in value
    ]
    wrong = next((row for row, found in enumerate(lengths) if found != lengths[0]), None)
    if wrong is not None:
        held, before = (
            "no list" if lengths[row] < 0 else f"{lengths[row]} values" for row in (wrong, 0)
        )
        raise ImplicitRMError(
            f"{name} holds {held} in row {wrong}, but {before} in row 0; expected equal lengths. "
            "Correct this row, or leave it out."
        )


def check_finite(values, name, names=None):
    """Raise if values of shape (n,) or (n, d) hold NaN or infinity."""
    finite = np.isfinite(values)
    if finite.all():
        return
    first = np.argwhere(~finite)[0]
    kind = "NaN" if np.isnan(values[tuple(first)]) else "infinity"
    n = int((~finite).reshape(len(values), -1).any(axis=1).sum())
    what = f"Input {name}" if name == "X" else name
    remedy = "Leave such rows out."
    if name == "X":
        remedy = "Leave such rows out, or put an imputer before the estimator in a pipeline."
    expected = "expected finite numbers"
    error = ImplicitRMError(
        f"{what} contains {kind} in {_cell(first, names)}; {expected}. {n:,} "
        f"row{' is' if n == 1 else 's are'} not finite. {remedy}"
    )
    column = "" if len(first) == 1 else f" in {_cell(first, names).partition(', ')[2]}"
    # For a file, whose reader names the row itself.
    error.brief = f"{what} contains {kind}{column}; {expected}. Repair or remove the row."
    raise error


def _check_names(estimator, X, *, reset):
    """Check (or set) the width and the column names of a table.

    scikit-learn refuses columns in another order, without saying which.
    """
    try:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    except ValueError as error:
        before = list(getattr(estimator, "feature_names_in_", ()))
        names = column_names(X) or []
        if reset:
            raise
        if not before or not set(before) <= set(names):
            names_of = "in their order" if not before else "X[list(est.feature_names_in_)]"
            raise ImplicitRMError(
                f"{str(error).strip()}\nPass the columns of fit, {names_of}."
            ) from None
        moved = [name for name, other in zip(before, names, strict=False) if name != other]
        shown = [
            f"{str(name)!r} is column {names.index(name)}, in fit {before.index(name)}"
            for name in moved[:3]
        ]
        found = f"{len(moved)} columns moved: {'; '.join(shown)}{'; ...' * (len(moved) > 3)}. "
        raise ImplicitRMError(
            f"{str(error).strip()}\n{found if moved else ''}Pass the columns of fit in its order, "
            "X[list(est.feature_names_in_)]."
        ) from None


def _is_surely_finite(X):
    """Return whether the sum of X is finite, several times faster than scikit-learn does."""
    if not isinstance(X, np.ndarray) or X.dtype not in (np.float32, np.float64):
        return False
    if not (X.flags.writeable and X.flags.c_contiguous):  # torch would not share the memory
        return False
    return bool(torch.from_numpy(X).sum().isfinite())


def in_range(X, dtype):
    """Return rows of X, a tensor, in the model's number format; raise if one becomes infinite."""
    converted = X.to(dtype)
    if X.dtype == torch.float64 and converted.isinf().any():
        raise ImplicitRMError(
            f"X holds values beyond the range of {dtype}. Use dtype='float64' or scale the columns."
        )
    return converted


#: What an argument is expected to hold.
_EXPECTED = {
    "sample_weight": "a number of at least 0 for each row of X",
    "reward": "numbers of shape (n,)",
    "age": "times in one unit, NaN where not known",
    "delay": "times in one unit, NaN where not known",
    "labels": "labels in [0, 1], NaN where unknown, of shape (n_samples,)",
    "exposures": "counts, of the shape of the actions or one column",
    "propensity": "probabilities in (0, 1], NaN where unknown, of the shape of the actions",
}
_EXPECTED_ACTIONS = (
    "actions 0 (did not act) or 1 (acted), NaN where a signal was not logged, of shape "
    "(n_samples,) or (n_samples, n_signals)"
)


def as_float(y, name, expected=None):
    """Return y as a new array of floats, NaN where it is missing.

    Text such as '1', bytes and times are refused: they are not converted to numbers.
    """
    expected = expected or _EXPECTED.get(name, _EXPECTED_ACTIONS)
    check_rectangular(y, name)
    names = column_names(opened(y))
    y = as_numbers(y)
    if isinstance(y, np.ndarray):
        wrong = first_no_number(y)
        if wrong is not None:
            position, value = wrong
            where = f" in {_cell(position, names)}" if len(position) else ""
            value = value.item() if isinstance(value, np.str_ | np.bytes_) else value
            held = repr(value) if isinstance(value, str | bytes) else str(value)
            raise ImplicitRMError(
                f"Unknown label type: {name} must be numbers, but holds {held[:40]} "
                f"({_type_of(value)}){where}. Expected {expected}. Convert it first."
            )
    try:
        # A copy, because torch shares memory and objects to read-only arrays.
        return np.array(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ImplicitRMError(
            f"Unknown label type: {name} must be numbers ({error}). Expected {expected}."
        ) from error


def check_actions(y, n_samples, *, name="y", n_signals=None, exposures=None):
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
    exposures : array-like of shape (n,) or (n, K), optional
        How often each row was shown; y then counts actions, 0 to exposures.

    Returns
    -------
    actions : ndarray of float64 of shape (n, K)
        NaN also where `exposures` is 0 or NaN.
    one_dimensional : bool
        Whether y was one-dimensional.
    exposures : ndarray of float64 of shape (n, K) or None
        1 where nothing is logged.
    """
    if y is None:
        raise ImplicitRMError(
            f"This estimator requires {name} to be passed, but the target {name} is None. Pass the "
            "actions, 0 or 1 per response."
        )
    actions, one_dimensional = _check_table(y, n_samples, name, "actions")
    if n_signals is not None:
        check_n_signals(actions.shape[1], n_signals, name)
    if actions.shape[1] == 0:
        raise ImplicitRMError(
            f"{name} has no columns; expected one column per action signal. Pass at least one."
        )
    if exposures is not None:
        actions, exposures = _check_counts(actions, exposures, name)
        return actions, one_dimensional, exposures
    return actions, one_dimensional, None


def check_n_signals(found, n_signals, name):
    """Raise unless y has as many columns as in fit."""
    if found != n_signals:
        raise ImplicitRMError(
            f"{name} has {found} signal(s), but the estimator was fitted with {n_signals}. Pass "
            "the same signals in the same order, with NaN where one was not logged."
        )


def check_binary(actions, name):
    """Return actions, of any shape, if all of them are 0, 1 or NaN."""
    valid = np.isnan(actions) | (actions == 0) | (actions == 1)
    if not valid.all():
        wrong = np.unique(actions[~valid])
        shown = ", ".join(map(_exactly, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        row = int((~valid).reshape(len(valid), -1).any(axis=1).argmax())
        hint = ""
        if wrong.tolist() == [2.0] and not (actions == 0).any():
            hint = " (if 1 and 2 are codes of no and yes, pass y - 1)"
        elif wrong.tolist() == [2.0]:
            hint = (
                " (scikit-learn's cross_val_predict encodes y as class labels for "
                "method='predict_proba' and turns NaN into 2: pass y without NaN there)"
            )
        raise ImplicitRMError(
            f"{name} must be an action in {{0,1}}, NaN where not logged, but {(~valid).sum()} "
            f"value(s) are something else: {shown}{hint}. The first is in row {row}. Turn ratings "
            "into actions first by a threshold of your scale, as in (y >= 4). Pass counts together "
            "with exposures=."
        )
    return actions


def _exactly(value):
    """Return a number in as few digits as show its difference from an integer."""
    short = f"{value:g}"
    return repr(float(value)) if float(short) != value and float(short).is_integer() else short


def in_columns(name, columns):
    """Return some columns of an argument in words."""
    *before, last = map(repr, columns)
    listed = f"columns {', '.join(before)} and {last}" if before else f"column {last}"
    return f"{listed} of {name}"


def _check_table(value, n_samples, name, content):
    """Return value as floats of shape (n, K), and whether it was one-dimensional."""
    table = as_float(value, name)
    if table.ndim not in (1, 2):
        raise ImplicitRMError(
            f"{name} has {table.ndim} dimensions (shape {table.shape}); expected {content} of "
            "shape (n_samples,) or (n_samples, n_signals). Reshape it."
        )
    one_dimensional = table.ndim == 1
    if one_dimensional:
        table = table[:, None]
    if len(table) != n_samples:
        raise ImplicitRMError(
            f"{name} has {len(table)} rows but X has {n_samples}; expected one row of {content} "
            "per response. Found input variables with inconsistent numbers of samples."
        )
    return table, one_dimensional


def _check_like_actions(value, actions, name, *, shared):
    """Return value as floats with the shape of actions.

    With `shared`, a single column applies to every signal.
    """
    table, one_dimensional = _check_table(value, len(actions), name, name)
    if table.shape == actions.shape:
        return table
    if one_dimensional and shared:
        return np.repeat(table, actions.shape[1], axis=1)
    shape = table.shape[:1] if one_dimensional else table.shape
    other = f", or one column for all signals, ({len(actions)},)." if shared else (
        ". Pass one column for each signal, NaN where it is not known."
    )  # fmt: skip
    raise ImplicitRMError(
        f"{name} has shape {shape}; expected the shape of the actions, {actions.shape}{other}"
    )


def _check_counts(actions, exposures, name):
    exposures = _check_like_actions(exposures, actions, "exposures", shared=True)
    logged = ~np.isnan(actions)
    for values, what in ((actions[logged], name), (exposures[logged], "exposures")):
        bad = ~((values >= 0) & (values == np.floor(values)) & (values < np.inf))
        if bad.any():
            raise ImplicitRMError(
                f"with exposures, {what} must hold counts (integers >= 0) where {name} is logged, "
                f"but {bad.sum()} value(s) do not, e.g. {values[bad][0]:g}. Use NaN in {name} "
                "where a signal was not logged."
            )
    too_many = logged & (actions > exposures)
    if too_many.any():
        row, column = np.argwhere(too_many)[0]
        raise ImplicitRMError(
            f"{name} counts more actions than exposures in {too_many.any(axis=1).sum()} rows. The "
            f"first is row {row}: {actions[row, column]:g} actions in {exposures[row, column]:g} "
            "exposures, but each exposure allows one. Check how the counts were joined, or cap "
            "them at the exposures."
        )
    # A row that was never shown carries no more information than one that was not logged.
    actions = np.where(exposures > 0, actions, np.nan)
    return actions, np.where(np.isnan(actions), 1.0, exposures)


def check_propensity(propensity, actions, false_action_rate):
    """Return known propensities with the shape of actions, in (e_k, 1] or NaN."""
    propensity = _check_like_actions(propensity, actions, "propensity", shared=False)
    known = ~np.isnan(propensity)
    bad = known & ~((propensity > 0) & (propensity <= 1))
    if bad.any():
        raise ImplicitRMError(
            f"propensity must lie in (0, 1], NaN where it is not known, but {bad.sum()} value(s) "
            f"do not, e.g. {propensity[bad][0]:g}. It is P(action | preferred). If users could not "
            "act at all, the signal was not logged: use NaN in y."
        )
    low = known & (propensity <= false_action_rate)
    if low.any():
        raise ImplicitRMError(
            f"propensity is not above false_action_rate in {low.sum()} value(s), e.g. "
            f"{propensity[low][0]:g}. Users must act more often on preferred responses than on "
            "others. Lower false_action_rate."
        )
    return propensity


def check_interval(rate, name):
    """Return (lower, upper) in [0, 1] of a number or an interval."""
    try:
        interval = np.atleast_1d(np.asarray(rate, dtype=np.float64))
    except (TypeError, ValueError):
        interval = np.zeros(0)
    if interval.shape not in ((1,), (2,)):
        raise ImplicitRMError(
            f"{name} must be a number or an interval (lower, upper), got {rate!r}."
        )
    lower, upper = interval[0], interval[-1]
    if not (0 <= lower and upper <= 1):
        raise ImplicitRMError(f"{name} must lie in [0, 1], got {rate!r}.")
    if lower > upper:
        raise ImplicitRMError(
            f"{name}={rate!r} is reversed; expected the lower end first. Pass ({upper:g}, "
            f"{lower:g})."
        )
    if upper == 0 or lower == 1:
        raise ImplicitRMError(
            f"{name}={rate!r} means that {'no' if upper == 0 else 'every'} response is preferred, "
            "which leaves nothing to learn. Pass a rate between 0 and 1."
        )
    return float(lower), float(upper)


def check_both_classes(actions, sample_weight, exposures=None, name="y"):
    """Raise unless the logged actions contain both a 0 and a 1."""
    counted = ~np.isnan(actions) & (sample_weight > 0)[:, None]
    if not counted.any():
        raise ImplicitRMError(
            f"{name} logs nothing: all {actions.size} entries are NaN or have zero sample_weight; "
            "expected some actions 0 or 1. Check how the log was joined."
        )
    acted = actions[counted] > 0
    not_acted = actions[counted] < (1 if exposures is None else exposures[counted])
    if not (acted.any() and not_acted.any()):
        cure = "Check how the log was joined."
        if acted.any() and not counted.all():
            cure = "NaN means not logged: write 0 where users saw the response and did not act."
        raise ImplicitRMError(
            f"{name} has one class only: all {acted.size} logged actions are {int(acted.any())}; "
            f"expected both 0 and 1. A reward cannot be learned from one of them. {cure}"
        )


def check_vector(value, n_samples, name):
    """Return a finite float vector of length n_samples."""
    if isinstance(value, str):
        raise ImplicitRMError(f"{name} must be one number per row of X, got {value!r}.")
    vector = as_float(value, name)
    if vector.shape != (n_samples,):
        raise ImplicitRMError(
            f"{name} has shape {vector.shape}; expected one number per row of X, ({n_samples},)."
        )
    check_finite(vector, name)
    return vector


def check_sample_weight(sample_weight, n_samples):
    """Return a copy of non-negative float weights of shape (n,), or ones if None is given."""
    if sample_weight is None:
        return np.ones(n_samples)
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_samples, sample_weight)
    weight = check_vector(sample_weight, n_samples, "sample_weight")
    if (weight < 0).any():
        raise ImplicitRMError(
            f"sample_weight has {(weight < 0).sum()} negative value(s); expected weights >= 0. "
            "Leave such rows out, or give them the weight 0."
        )
    if not weight.any():
        raise ImplicitRMError(
            "sample_weight is zero for every row; expected a positive weight. Leave it out for "
            "equal weights."
        )
    return weight.copy()


def check_out(out, like):
    """Return `out` if results of the shape of `like` can be written to it."""
    is_array = isinstance(out, np.ndarray)
    if not (
        is_array
        and out.shape == like.shape
        and np.issubdtype(out.dtype, np.floating)
        and out.flags.writeable
    ):
        found = repr(out)
        if is_array:
            found = f"an array of {out.dtype} of shape {out.shape}"
            found += "" if out.flags.writeable else " that is read-only"
        raise ImplicitRMError(
            f"out must be a writeable array of shape {like.shape} and a floating dtype, got "
            f"{found}. For example np.lib.format.open_memmap('reward.npy', 'w+', np.{like.dtype}, "
            f"{like.shape})."
        )
    return out


def as_labels(groups):
    """Return labels as an array that can be sorted: objects become numbers.

    Equal conversations form one group, and each missing label forms a group of its own.
    """
    groups = as_values(groups)
    return codes_of(groups) if groups.dtype == object or is_missing(groups).any() else groups


def check_shape(labels, n_samples, name):
    """Return labels if there is one for each row; raise otherwise."""
    if labels.shape != (n_samples,):
        raise ImplicitRMError(
            f"{name} has shape {labels.shape}; expected one value per row of X, ({n_samples},)."
        )
    return labels


def check_groups(groups, n_samples, name="groups"):
    """Return group labels as a 1-D array of length n, as numbers if they cannot be sorted.

    Equal conversations form one group. A row whose label is missing is a group of its own, except
    that a `response_id` may not be missing.
    """
    groups = check_shape(as_values(groups), n_samples, name)
    missing = is_missing(groups)
    if missing.any() and name == "response_id":
        raise ImplicitRMError(
            f"{name} is missing (NaN) in {missing.sum()} rows; the first is row "
            f"{missing.argmax()}. Give each response an id of its own; rows with equal ids share "
            "one preference."
        )
    check_one_form(groups, name)
    return as_labels(groups)


def check_same_rows(X, **others):
    """Raise if a table or column of pandas has the row labels of X in another order.

    Rows are matched by their position, as everywhere in scikit-learn.
    """
    labels = _row_labels(X)
    for name, value in others.items():
        given = None if labels is None else _row_labels(value)
        if given is None or len(given) != len(labels) or given.equals(labels):
            continue
        if labels.is_unique and given.is_unique and labels.isin(given).all():
            row = int((labels != given).argmax())
            raise ImplicitRMError(
                f"{name} has the row labels of X in another order: row {row} is "
                f"{shown_id(given[row])}, but {shown_id(labels[row])} in X. Rows are matched by "
                f"position. Reorder them with {name}.loc[X.index], or pass "
                f"{name}.to_numpy() if the positions are right."
            )


def _row_labels(value):
    return value.index if hasattr(value, "iloc") and hasattr(value, "index") else None


def check_one_form(ids, name):
    """Raise if an id occurs as text and as another value that prints the same, or was rounded."""
    if ids.dtype.kind in "fO" and (rounded := rounded_id(ids)) is not None:
        raise ImplicitRMError(as_rounded(f"{name} has ids", rounded))
    if ids.dtype == object and (mixed := two_forms(ids.tolist())):
        raise ImplicitRMError(in_two_forms(f"{name} has ids", len(mixed), mixed[0]))


def is_missing(labels):
    """Return where labels are NaN, NaT, None or the NA of pandas."""
    if labels.dtype != object:
        return labels != labels
    return np.array([is_absent(label) for label in labels], dtype=bool)


def shown_id(value):
    """Return an id in the form that messages show."""
    # Shows 'a' and 1 rather than np.str_('a') and np.int64(1).
    return repr(str(value)) if isinstance(value, str) else str(value)
