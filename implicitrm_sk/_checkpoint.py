"""Fits that go on where they were interrupted."""

import tempfile
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._sklearn import callbacks_of
from .training._state import TrainingState, settled

#: They change nothing of an epoch.
_FREE = ("max_epochs", "verbose")


class ResumableMixin:
    """Marks an estimator whose `fit` a `Checkpoint` can keep, and says what it has to have."""

    random_state: Any
    get_params: Any
    history_: list[dict[str, list[float]]]
    reward_columns_: NDArray[np.intp]
    propensity_columns_: NDArray[np.intp]


class Checkpoint:
    """Callback that keeps an unfinished `fit` in a file, from which the next `fit` goes on.

    After each epoch everything that training depends on is written: weights, state of the
    optimiser, best weights of each member, generators, history. A `fit` with the same settings and
    data that finds the file goes on after its last epoch, and ends with the weights that an
    uninterrupted one would have: bit for bit on a CPU with the same number of threads. When a fit
    is done the file is removed.

    That data are the same is told by a hash of all of them, for which large files are read once
    more before the first epoch.

    With `warm_start` the weights that the fit started from must be the same too. A fit that was
    interrupted can go on in the same process, since it leaves the estimator as it was before: what
    it had learned is in the file.

    Parameters
    ----------
    path : str or path-like
        The file, in a folder that exists; written beside its place first and then moved there. One
        per fit: not for an estimator within a search.

    Raises
    ------
    ValueError
        By `fit`, before it trains: if the file is of other settings or data or of more epochs than
        `max_epochs`, or is no such file; if there can be no file at this path; if `random_state`
        is not an integer, without which a fit cannot be repeated; if the estimator has another
        `Checkpoint`, or is no `ImplicitRewardEstimator`.

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
    ...     est = est.fit(X, y)  # started anew after an interruption, it goes on from the file
    ...     print(os.listdir(folder))  # it is done
    []
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path
        #: By the id of the estimator: workers of a search share their callbacks.
        self._fits: dict[int, TrainingState] = {}

    # ------------------------------------------------------------------ callback protocol

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the fit can be repeated, and kept at this path."""
        if not isinstance(estimator, ResumableMixin):
            raise ValueError(
                f"Checkpoint is a callback of ImplicitRewardEstimator, not of "
                f"{type(estimator).__name__}, whose training it cannot keep. Leave it out."
            )
        if sum(isinstance(callback, Checkpoint) for callback in callbacks_of(estimator)) > 1:
            raise ValueError(
                "the estimator has several callbacks of the kind Checkpoint, but a fit is kept in "
                "one file. Pass one of them to set_callbacks."
            )
        if not isinstance(estimator.random_state, Integral):
            raise ValueError(
                f"random_state={estimator.random_state!r}, but a fit that goes on from a "
                "Checkpoint has to repeat what was drawn: set random_state to an integer."
            )
        path = Path(self.path).expanduser()
        if path.is_dir():
            raise ValueError(
                f"the path of the Checkpoint, {str(path)!r}, is a folder. Expected is the path of "
                "a file, which need not exist, for example "
                f"{str(path / 'reward.checkpoint')!r}."
            )
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise ValueError(
                f"the Checkpoint {str(path)!r} cannot be written into the folder "
                f"{str(path.parent)!r} ({error.strerror}). Create the folder, or name another that "
                "you may write into."
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
        """Forget the fit, done or not."""
        self._fits.pop(id(estimator), None)

    def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any, **_: Any) -> None:
        """Do nothing: until `fit` returns, another callback can fail."""

    # ------------------------------------------------------------------ for the engine

    @classmethod
    def of(cls, estimator: Any) -> "TrainingState | None":
        """Return the state of an estimator's fit, None where it has no such callback.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator
            In `fit`.

        Returns
        -------
        state : TrainingState or None
            For the training engine.

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
