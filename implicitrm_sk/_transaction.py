"""Fits that either succeed or leave the estimator as it was."""

import copy
import functools

#: What training continues from and changes in place, and how to keep it.
_IN_PLACE = {
    "scaler_": copy.deepcopy,
    "optimizer_state_": copy.deepcopy,
    "random_state_": copy.deepcopy,
    "history_": list,
}


def all_or_nothing(fit):
    """Make a method that fails or is interrupted leave its object as it was before the call.

    This covers attributes only. A generator or embedder that was passed as a parameter belongs to
    the caller and keeps its new state.
    """

    @functools.wraps(fit)
    def method(self, *args, **kwargs):
        before = dict(vars(self))
        for name, keep in _IN_PLACE.items():
            if name in before:
                before[name] = keep(before[name])
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before  # one assignment, so that a second interrupt cannot split it
            raise

    return method
