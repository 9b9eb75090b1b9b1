"""Learning curve: the held-out criterion of each member over the epochs."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..._pipeline import split_pipeline
from ...exceptions import ImplicitRMError
from ._base import axes_for, style


class TrainingCurveDisplay:
    """Learning curve: the held-out criterion of each member over the epochs.

    It shows whether training was long enough, whether the step size is suitable, and whether a
    member differs from the others. Members stop one by one, and the weights of their best epoch are
    kept. The curve of a member ends where it stopped.

    Create a display with `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    losses : ndarray of shape (n_epochs, n_members)
        The criterion after each epoch: for "stratified" and other likelihoods the negative
        log-likelihood, in nats per row.
    n_epochs : ndarray of int of shape (n_members,)
        Epochs after which each member stopped.
    best_epoch : ndarray of int of shape (n_members,) or None
        Epoch, counted from 1, whose weights each member keeps; None if no rows were held out.
    criterion : {"valid_loss", "train_loss"}, default="valid_loss"
        The loss that is shown.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One curve per member.
    best_ : matplotlib PathCollection or None
        The best epochs.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    sklearn.model_selection.LearningCurveDisplay : Scores by the number of training rows.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.inspection import TrainingCurveDisplay
    >>> losses = np.array([[0.7, 0.8], [0.6, 0.5], [0.65, 0.55]])
    >>> display = TrainingCurveDisplay(losses=losses, n_epochs=[3, 3], best_epoch=[2, 2])
    >>> [len(line.get_xdata()) for line in display.plot().lines_]
    [3, 3]
    """

    def __init__(
        self,
        *,
        losses: NDArray[np.float64],
        n_epochs: Any,
        best_epoch: Any,
        criterion: str = "valid_loss",
    ) -> None:
        self.losses = losses
        self.n_epochs = n_epochs
        self.best_epoch = best_epoch
        self.criterion = criterion

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.plot``, for all curves.

        Returns
        -------
        display : TrainingCurveDisplay
            The display itself.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.inspection import TrainingCurveDisplay
        >>> losses = np.array([[0.7], [0.6]])
        >>> display = TrainingCurveDisplay(losses=losses, n_epochs=[2], best_epoch=[2])
        >>> display.plot().ax_.get_xlabel()
        'epoch'
        """
        ax = axes_for(self, ax)
        self.lines_ = []
        for member, n in enumerate(self.n_epochs):
            look = style(member)
            settings = {
                "color": look["color"],
                "linestyle": look["linestyle"],
                "label": f"member {member + 1}",
            }
            self.lines_ += ax.plot(
                np.arange(1, n + 1), self.losses[:n, member], **(settings | kwargs)
            )
        self.best_ = None
        if self.best_epoch is not None:
            best = np.asarray(self.best_epoch)
            self.best_ = ax.scatter(
                best,
                np.asarray(self.losses)[best - 1, np.arange(len(best))],
                color=[line.get_color() for line in self.lines_],
                edgecolor="black",
                s=60,
                zorder=3,
                label="best epoch: kept",
            )
        kind = "held-out criterion" if self.criterion == "valid_loss" else "training loss"
        ax.set(xlabel="epoch", ylabel=f"{kind} (lower is better)", xlim=(0, None))
        if len(self.n_epochs) <= 8:
            ax.legend()
        elif self.best_ is not None:
            ax.legend(handles=[self.best_])
        return self

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, criterion: str = "valid_loss", ax: Any = None, **kwargs: Any
    ) -> Self:
        """Plot the learning curves of a fitted estimator.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator or Pipeline
            A fitted estimator.
        criterion : {"valid_loss", "train_loss"}, default="valid_loss"
            The held-out criterion, which exists only with early stopping, or the training loss. For
            "stratified" both are the negative log-likelihood, in nats per row. For some other
            objectives they are different functions, which should not be compared.
        ax : matplotlib Axes, default=None
            Axes to plot on; None makes a figure.
        **kwargs : dict
            Further arguments of ``Axes.plot``.

        Returns
        -------
        display : TrainingCurveDisplay
            The plotted display.

        Raises
        ------
        ValueError
            If nothing was held out, or `criterion` is neither of the two.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import TrainingCurveDisplay
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> display = TrainingCurveDisplay.from_estimator(est)
        >>> display.losses.shape == (est.n_iter_, 4)
        True
        """
        fitted, _ = split_pipeline(estimator)
        if criterion not in ("valid_loss", "train_loss"):
            raise ImplicitRMError(
                f"criterion must be 'valid_loss' or 'train_loss', got {criterion!r}. Pass one."
            )
        held_out = [record["valid_loss"] for record in fitted.history_ if "valid_loss" in record]
        if criterion == "valid_loss" and not held_out:
            raise ImplicitRMError(
                "no rows were held out in training, so valid_loss does not exist. Fit with "
                "early_stopping=True, or plot criterion='train_loss'."
            )
        losses = np.array([record[criterion] for record in fitted.history_])
        n_epochs = np.full(losses.shape[1], len(losses))
        best_epoch = None
        if held_out:
            dtype = str(next(fitted.model_.parameters()).dtype).removeprefix("torch.")
            best_epoch, n_epochs = _best_and_last(
                np.array(held_out, dtype=dtype), fitted.n_iter_no_change, fitted.tol
            )
        return cls(
            losses=losses, n_epochs=n_epochs, best_epoch=best_epoch, criterion=criterion
        ).plot(ax, **kwargs)


def _best_and_last(risk, patience, tol):
    """Return the best and last epoch of each member, by the rule of the training engine."""
    best, best_epoch = np.full(risk.shape[1], np.inf, risk.dtype), np.zeros(risk.shape[1], int)
    stale, last = np.zeros_like(best_epoch), np.full_like(best_epoch, len(risk))
    running = np.ones(risk.shape[1], dtype=bool)
    for epoch, values in enumerate(risk, start=1):
        stale = np.where(values < best - tol, 0, stale + 1)
        better = (values < best) & running
        best_epoch[better], best[better] = epoch, values[better]
        stops = running & (stale >= patience)
        last[stops] = epoch
        running &= ~stops
    return best_epoch, last
