"""Ages of rows and delays of actions, for signals that may come late."""

import numpy as np

from ._tables import opened
from ._validation import as_float

#: Of actions whose delay is exponential, 1.8 % are still to come after this many mean delays.
MATURE = 4.0


def refuse_late_with(signals, side, assumptions, name):
    """Raise where late actions cannot be combined with what else is known of a log.

    Parameters
    ----------
    signals : sequence of Signal
    side : dict
        Arguments of `fit` beside X and y.
    assumptions : Assumptions
    name : str
        Of y, for the messages.
    """
    late = [k for k, signal in enumerate(signals) if "age" in signal.takes]
    if not late:
        return
    rate = assumptions.false_action_rate
    rate = np.asarray(0.0 if rate is None or isinstance(rate, str) else rate, dtype=object)
    # Of the wrong shape it is refused later.
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
            "whether active users are also quicker is not modelled",
        ),
        ("false_action_rate", np.any(of_late), "when false actions come is not modelled"),
    ):
        if asked:
            raise ValueError(
                f"{what} is not available for the signal {signals[late[0]]!r} of {name}: {why}. "
                f"Leave {what} out, or the delay, with NaN for rows younger than a window."
            )


def check_waits(age, delay, actions, signals):
    """Return checked ages and delays, of the shape of the actions, None where there are none.

    Parameters
    ----------
    age, delay : array-like of shape (n,) or (n, K), or None
        Arguments of `fit`; differences of times are read as days.
    actions : ndarray of shape (n, K)
    signals : sequence of Signal
    """
    late = np.array(["age" in signal.takes for signal in signals], dtype=bool)
    if not late.any():
        for name, value in (("age", age), ("delay", delay)):
            if value is not None:
                raise ValueError(
                    f"{name} was given, but no signal has a delay. Name the late ones in signals, "
                    "as Action(delay='exponential'), or leave it out."
                )
        return None, None
    logged = ~np.isnan(actions) & late
    if age is None:
        if logged.any() or delay is not None:
            raise ValueError(
                f"age is missing: the signal {signals[np.flatnonzero(late)[0]]!r} may come late. "
                "Pass the time since each row was shown, inf for rows that are old enough."
            )
        return None, None
    age = _as_times(age, actions.shape, "age")
    wrong = logged & ~(age > 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"age is {age[row, column]:g} in row {row} of {wrong.any(axis=1).sum()} such rows; "
            "expected a time above 0 wherever a late signal was logged. Use NaN in y for rows that "
            "were not watched."
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
            "is given where there is no action",
            "Use NaN there",
        ),
        (acted & (delay < 0), "is negative", "It counts from when the row was shown"),
        (acted & (delay > age), "is longer than the age", "Both count from when the row was shown"),
        (acted & np.isinf(delay), "is not finite", "Use NaN where it is not known"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"delay {what} in {wrong.any(axis=1).sum()} rows, the first is row {row} (delay "
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
        raise ValueError(
            f"{name} holds points in time, but expected how much time had passed since each row "
            "was shown. Subtract the time at which it was shown."
        )
    else:
        try:
            table = as_float(values, name)
        except ValueError as error:
            raise ValueError(
                f"{name} must be numbers, or differences of times, NaN where not known ({error})."
            ) from None
    if table.ndim == 1 and len(table) == shape[0] and (one_per_row or shape[1] == 1):
        table = np.broadcast_to(table[:, None], shape)
    if table.shape != shape:
        raise ValueError(
            f"{name} has shape {table.shape}; expected "
            + (f"one number per row of y, ({shape[0]},), or " if one_per_row else "")
            + f"one per row and signal of y, {shape}."
        )
    return table.astype(np.float64)
