"""Fits that continue where they were interrupted."""

import tempfile
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._sklearn import callbacks_of
from .exceptions import ImplicitRMError
from .training._state import TrainingState, settled

#: Parameters that do not affect an epoch.
_FREE = ("max_epochs", "verbose")


class ResumableMixin:
    """Marks an estimator whose `fit` a `Checkpoint` can keep, and lists what it must have."""

    random_state: Any
    get_params: Any
    history_: list[dict[str, list[float]]]
    reward_columns_: NDArray[np.intp]
    propensity_columns_: NDArray[np.intp]


class Checkpoint:
    """Callback that keeps an unfinished `fit` in a file, from which the next `fit` continues.

    After each epoch it writes everything that training depends on: weights, optimiser state, best
    weights of each member, generators and history. If a `fit` with the same settings and data
    finds the file, it continues after the last epoch in it. It ends with the weights of an
    uninterrupted fit, bit for bit on a CPU with the same number of threads. The file is removed
    when a fit is done.

    A hash of all data shows whether they are the same. For large files this costs one more pass
    before the first epoch.

    With `warm_start`, the weights that the fit started from must be the same too. An interrupted
    fit can continue in the same process: it leaves the estimator as it was before, and the file
    holds what it had learned.

    Parameters
    ----------
    path : str or path-like
        The file, in a folder that exists. It is first written beside this place and then moved
        there. Each fit needs a file of its own, so a search cannot use this callback.

    Raises
    ------
    ValueError
        Raised by `fit` before it trains. The file belongs to other settings or data, has more
        epochs than `max_epochs`, or is not a checkpoint. Or a file cannot be written at this path.
        Or `random_state` is not an integer, so a fit cannot be repeated. Or the estimator has
        another `Checkpoint`, or is not an `ImplicitRewardEstimator`.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from implicitrm_sk import Checkpoint, ImplicitRewardEstimator
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     est = est.set_callbacks(Checkpoint(f"{folder}/reward.checkpoint"))
    ...     est = est.fit(X, y)  # called again after an interruption, it continues from the file
    ...     print(os.listdir(folder))  # it is done
    []
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path
        #: By the id of the estimator, because workers of a search share their callbacks.
        self._fits: dict[int, TrainingState] = {}

    # ------------------------------------------------------------------ callback protocol

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the fit can be repeated, and that the file can be written."""
        if not isinstance(estimator, ResumableMixin):
            raise ImplicitRMError(
                "Checkpoint is a callback of ImplicitRewardEstimator. It cannot keep the training "
                f"of {type(estimator).__name__}. Leave it out."
            )
        if sum(isinstance(callback, Checkpoint) for callback in callbacks_of(estimator)) > 1:
            raise ImplicitRMError(
                "the estimator has several Checkpoint callbacks; expected one, because a fit is "
                "kept in one file. Pass one of them to set_callbacks."
            )
        if not isinstance(estimator.random_state, Integral):
            raise ImplicitRMError(
                f"random_state={estimator.random_state!r}; expected an integer, because a fit that "
                "continues from a Checkpoint must repeat its random numbers. Set random_state to "
                "an integer."
            )
        path = Path(self.path).expanduser()
        if path.is_dir():
            raise ImplicitRMError(
                f"the path of the Checkpoint, {str(path)!r}, is a folder; expected the path of a "
                f"file, which need not exist. For example {str(path / 'reward.checkpoint')!r}."
            )
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise ImplicitRMError(
                f"the Checkpoint {str(path)!r} cannot be written into the folder "
                f"{str(path.parent)!r} ({error.strerror}). Create the folder, or name another one "
                "that is writable."
            ) from error
        self._fits[id(estimator)] = TrainingState(
            path,
            {
                name: settled(value)
                for name, value in estimator.get_params(deep=False).items()
                if name not in _FREE
            },
            (estimator.reward_columns_, estimator.propensity_columns_),
            estimator.history_,
        )

    def teardown(self, estimator: Any, context: Any) -> None:
        """Forget the fit, whether done or not."""
        self._fits.pop(id(estimator), None)

    def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any, **_: Any) -> None:
        """Do nothing, because another callback can still fail until `fit` returns."""

    # ------------------------------------------------------------------ for the engine

    @classmethod
    def of(cls, estimator: Any) -> "TrainingState | None":
        """Return the state of an estimator's fit, or None if it does not have this callback.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator
            The estimator, during `fit`.

        Returns
        -------
        state : TrainingState or None
            The state for the training engine.

        Examples
        --------
        >>> from implicitrm_sk import Checkpoint, ImplicitRewardEstimator
        >>> Checkpoint.of(ImplicitRewardEstimator()) is None
        True
        """
        for callback in callbacks_of(estimator):
            if isinstance(callback, cls):
                return callback._fits.get(id(estimator))
        return None
