"""The arguments of `fit` that a function of this package takes, or refuses with a reason."""

from inspect import signature
from types import MappingProxyType

import numpy as np

from .._estimator import ImplicitRewardEstimator
from .._keys import codes_of
from ..exceptions import ImplicitRMError

#: All arguments of `fit` beside X and y.
OF_FIT = tuple(
    name
    for name in signature(ImplicitRewardEstimator.fit).parameters
    if name not in ("self", "X", "y")
)
#: What a comparison of rows refuses: the reason, and one thing to do.
NOT_IN_ONE_STEP = MappingProxyType(
    {
        "response_id": (
            "its estimates are of single rows, each with a preference of its own",
            "Pass the ids as groups=, so that rows of one response may depend on each other.",
        ),
        "exposures": (
            "its estimates are of rows that were shown once",
            "Give each exposure a row of its own, and pass the response as groups=.",
        ),
        "propensity": (
            "its estimates are of reward and propensity together, and neither may be known",
            "Leave it out. The propensities are then estimated.",
        ),
        "age": (
            "its estimates are of actions that can no longer come",
            "Pass only rows that are old enough, with Action() in place of Action(delay=...).",
        ),
        "delay": (
            "its estimates are of actions that can no longer come",
            "Pass only rows that are old enough, with Action() in place of Action(delay=...).",
        ),
    }
)


def of_fit(caller, given, refused=NOT_IN_ONE_STEP):
    """Return the arguments that are not None.

    A `response_id` that is another in every row says nothing, and is left out where ids are
    refused.

    Parameters
    ----------
    caller : str
        Name of the function, for the messages.
    given : dict
        The further keyword arguments of a call.
    refused : dict of str to (str, str), default=NOT_IN_ONE_STEP
        The reason, and what to do, of each argument of `fit` that the function does not take.

    Raises
    ------
    TypeError
        If `fit` has no such argument either.
    ImplicitRMError
        If an argument is refused.
    """
    unknown = sorted(set(given) - set(OF_FIT))
    if unknown:
        raise TypeError(
            f"{caller} has no argument {', '.join(unknown)}, and neither has fit. It takes these "
            f"of fit: {', '.join(name for name in OF_FIT if name not in refused)}."
        )
    given = {name: value for name, value in given.items() if value is not None}
    if "response_id" in refused:
        given = without_single_rows(given)
    for name in given:
        if name in refused:
            reason, remedy = refused[name]
            raise ImplicitRMError(f"{caller} does not take {name}: {reason}. {remedy}")
    return given


def without_single_rows(given):
    """Return arguments of `fit` without a `response_id` that is another in every row.

    Such ids say nothing, and a log that has them can be passed whole.
    """
    if given.get("response_id") is None:
        return given
    ids = codes_of(list(given["response_id"]))
    if len(np.unique(ids)) < len(ids):
        return given
    return {name: value for name, value in given.items() if name != "response_id"}
