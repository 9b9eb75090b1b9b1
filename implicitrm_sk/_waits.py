"""Ages of rows and delays of actions, for signals that may come late."""

import numpy as np

from ._tables import opened
from ._validation import as_float
from .exceptions import ImplicitRMError

#: If delays are exponential, 1.8 % of the actions come after this many mean delays.
MATURE = 4.0


def refuse_late_with(signals, side, assumptions, name):
    """Raise if late actions cannot be combined with the other arguments.

    Parameters
    ----------
    signals : sequence of Signal
    side : dict
        Arguments of `fit` other than X and y.
    assumptions : Assumptions
    name : str
        Name of y in the messages.
    """
    late = [k for k, signal in enumerate(signals) if "age" in signal.takes]
    if not late:
        return
    rate = assumptions.false_action_rate
    rate = np.asarray(0.0 if rate is None or isinstance(rate, str) else rate, dtype=object)
    # A wrong shape is rejected later.
    of_late = rate if rate.shape != (len(signals),) else rate[late]
    for what, asked, why in (
        (
            "response_id",
            side["response_id"] is not None,
            "the rows of a response are compared as exposures whose actions have all come",
        ),
        (
            "user_id",
            side["user_id"] is not None,
            "a link between activity and delay is not modelled",
        ),
        ("false_action_rate", np.any(of_late), "the delay of false actions is not modelled"),
    ):
        if asked:
            raise ImplicitRMError(
                f"{what} is not available for the signal {signals[late[0]]!r} of {name}: {why}. "
                f"Leave {what} out. Or leave the delay out, and pass NaN for rows younger than a "
                "window."
            )


def check_waits(age, delay, actions, signals):
    """Return checked ages and delays with the shape of the actions, or None if not given.

    Parameters
    ----------
    age, delay : array-like of shape (n,) or (n, K), or None
        Arguments of `fit`; time differences are converted to days.
    actions : ndarray of shape (n, K)
    signals : sequence of Signal
    """
    late = np.array(["age" in signal.takes for signal in signals], dtype=bool)
    if not late.any():
        for name, value in (("age", age), ("delay", delay)):
            if value is not None:
                raise ImplicitRMError(
                    f"{name} was given, but the signals do not have a delay. Name the late ones in "
                    f"signals, as Action(delay='exponential'), or leave {name} out."
                )
        return None, None
    logged = ~np.isnan(actions) & late
    if age is None:
        if logged.any() or delay is not None:
            raise ImplicitRMError(
                f"age is missing, but the signal {signals[np.flatnonzero(late)[0]]!r} may come "
                "late. Pass the time since each row was shown, inf for rows that are old enough."
            )
        return None, None
    age = _as_times(age, actions.shape, "age")
    wrong = logged & ~(age > 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ImplicitRMError(
            f"age is {age[row, column]:g} in row {row}, the first of {wrong.any(axis=1).sum()} "
            "such rows; expected a time above 0 where a late signal was logged. Use NaN in y for "
            "rows that were not watched."
        )
    age = np.where(logged, age, np.inf)
    if delay is None:
        return age, None
    delay = _as_times(delay, actions.shape, "delay", one_per_row=late.sum() == 1)
    delay = np.where(late, delay, np.nan)
    acted = logged & (actions > 0)
    for wrong, what, cure in (
        (
            ~np.isnan(delay) & ~acted,
            "is given without an action",
            "Use NaN there",
        ),
        (acted & (delay < 0), "is negative", "It counts from when the row was shown"),
        (acted & (delay > age), "is longer than the age", "Both count from when the row was shown"),
        (acted & np.isinf(delay), "is not finite", "Use NaN where it is not known"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ImplicitRMError(
                f"delay {what} in {wrong.any(axis=1).sum()} rows; the first is row {row} (delay "
                f"{delay[row, column]:g}, age {age[row, column]:g}). {cure}."
            )
    return age, None if np.isnan(delay).all() else delay


def _as_times(values, shape, name, one_per_row=True):
    values = opened(values)
    table = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if table.dtype.kind == "m":
        missing = np.isnat(table)
        table = np.where(missing, np.nan, table / np.timedelta64(1, "D"))
    elif table.dtype.kind == "M":
        raise ImplicitRMError(
            f"{name} holds points in time; expected the time that had passed since each row was "
            "shown. Subtract the time at which it was shown."
        )
    else:
        try:
            table = as_float(values, name)
        except ValueError as error:
            raise ImplicitRMError(
                f"{name} must be numbers or time differences, NaN where not known ({error}). "
                "Convert it."
            ) from None
    if table.ndim == 1 and len(table) == shape[0] and (one_per_row or shape[1] == 1):
        table = np.broadcast_to(table[:, None], shape)
    if table.shape != shape:
        raise ImplicitRMError(
            f"{name} has shape {table.shape}; expected "
            + (f"one number per row of y, ({shape[0]},), or " if one_per_row else "")
            + f"one per row and signal of y, {shape}."
        )
    return table.astype(np.float64)
