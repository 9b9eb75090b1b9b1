"""The container that loaders, readers and the simulator return."""

from typing import Any

from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

#: Arguments of `fit` that are facts of the log. Known propensities and labels are not among them,
#: so that the truth of a simulated log is never used for training.
_FIT_PARAMS = ("groups", "response_id", "exposures", "user_id")


class FeedbackData(Bunch):
    """Responses and what users did with them, with the truth, where known, kept apart.

    Attributes are also items: ``data.X`` is ``data["X"]``. An attribute that a source does not have
    is None.

    Parameters
    ----------
    X : array-like of shape (n, d), default=None
        Vectors of the responses.
    actions : array-like of shape (n,) or (n, K), default=None
        The actions of users, the ``y`` of `fit`; NaN where not logged.
    signals : dict or list, default=None
        The kind of each column of `actions`, as in the parameter `signals` of the estimator. None
        means that all are positive actions.
    prompt, response : array-like of shape (n,), default=None
        Texts.
    user_id : array-like of shape (n,), default=None
        The user who acted.
    groups : array-like of shape (n,), default=None
        Rows that no split may separate, such as those of one prompt.
    response_id : array-like of shape (n,), default=None
        Equal for rows that are exposures of one response.
    exposures : array-like of shape (n,) or (n, K), default=None
        How often a response was shown; `actions` are then counts.
    time : array-like of shape (n,), default=None
        The time when a response was shown.
    true_preference : array-like of shape (n,), default=None
        The preference r* (1 or 0). It serves to evaluate a reward, never to learn one.
    **further : dict
        Other facts of a source; each becomes an attribute.

    See Also
    --------
    read_feedback_log : Reads such data from a log.
    actions_from_events : Makes such data from a table of events.
    simulate_feedback : Simulates such data.
    load_rated_responses : Loads such data from rated responses.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.datasets import FeedbackData
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> actions = np.column_stack([X[:, 0] > 0.5, X[:, 0] < -0.5]).astype(int)
    >>> data = FeedbackData(
    ...     X, actions, signals=["positive", "negative"], groups=np.arange(200) // 2
    ... )
    >>> est = ImplicitRewardEstimator(signals=data.signals, max_epochs=5, early_stopping=False)
    >>> est.fit(data.X, data.actions, **data.fit_params()).predict(data.X).shape
    (200,)
    """

    def __init__(
        self,
        X: ArrayLike | None = None,
        actions: ArrayLike | None = None,
        *,
        signals: Any = None,
        prompt: ArrayLike | None = None,
        response: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        time: ArrayLike | None = None,
        true_preference: ArrayLike | None = None,
        **further: Any,
    ) -> None:
        super().__init__(
            X=X,
            actions=actions,
            signals=signals,
            prompt=prompt,
            response=response,
            user_id=user_id,
            groups=groups,
            response_id=response_id,
            exposures=exposures,
            time=time,
            true_preference=true_preference,
            **further,
        )

    def __dir__(self):
        return [*super().__dir__(), *vars(type(self))]

    def __repr__(self):
        known = (
            f"{name}{'' if getattr(value, 'shape', ()) == () else f' {value.shape}'}"
            for name, value in self.items()
            if value is not None
        )
        return f"{type(self).__name__}({', '.join(known)})"

    def fit_params(self) -> dict[str, NDArray[Any]]:
        """Return the arguments of `fit` other than X and y; never the truth.

        Returns
        -------
        fit_params : dict
            Those of ``groups``, ``response_id``, ``exposures`` and ``user_id`` that exist.

        Examples
        --------
        >>> from implicitrm_sk.datasets import FeedbackData
        >>> FeedbackData(groups=[0, 0, 1], true_preference=[1, 0, 1]).fit_params()
        {'groups': [0, 0, 1]}
        """
        return {name: self[name] for name in _FIT_PARAMS if self[name] is not None}
