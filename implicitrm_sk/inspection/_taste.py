"""How much users differ in taste, and what that says about single responses."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logsumexp
from sklearn.utils.validation import check_is_fitted

from .._estimator import ImplicitRewardEstimator
from .._features import read_features
from .._fit import reread_log
from .._log import number_users
from .._optional import import_optional
from .._prediction import FittedMixture
from .._sources import StreamedX
from .._typing import Floats, Rows
from .._validation import check_same_rows
from ..exceptions import ImplicitRMError
from ._arguments import of_fit

#: Tastes at which the likelihood of a user's rows is computed. An even grid is fine enough for
#: users of hundreds of rows, where Gauss-Hermite nodes lie too far apart.
GRID = np.linspace(-5.0, 5.0, 101)
LOG_PRIOR = -0.5 * GRID**2 - logsumexp(-0.5 * GRID**2)
#: The largest standard deviation of tastes to try.
LARGEST = 5.0
#: The other arguments of `fit`, with the reason why they are not taken, and what to do.
REFUSED = MappingProxyType(
    {
        "sample_weight": ("all rows of a user count alike", "Leave rows of weight 0 out."),
        "groups": ("users are its independent parts", "Leave it out."),
        "response_id": (
            "users who differ in taste do not share the preference of a response",
            "Leave it out: each row then has a preference of its own.",
        ),
        "labels": ("tastes show in what users do", "Leave it out, or pass it to fit."),
        "propensity": ("it takes the propensities of the fit", "Leave it out, or pass it to fit."),
        "age": ("fit does not take users beside late actions either", "Pass rows that are old."),
        "delay": ("fit does not take users beside late actions either", "Pass rows that are old."),
    }
)
#: Logits of an average user, between which the mean reward of all users is interpolated.
LOGITS = np.linspace(-40.0, 40.0, 8001)


@dataclass(frozen=True, eq=False)
class UserTaste:
    """How much users differ in taste, made by `user_taste`.

    Attributes
    ----------
    sd : float
        Standard deviation of tastes on the logit of the reward. It is 0 if tastes make the log less
        than one standard error likelier.
    posterior : ndarray of shape (n_samples,)
        P(r* = 1) of each row, given its actions and all other rows of its user.
    user_id : ndarray of shape (n_users,)
        The known users.
    mean, spread : ndarray of shape (n_users,)
        Mean and standard deviation of the taste of each user, given all rows of that user. The unit
        is `sd`.
    n_rows : ndarray of int of shape (n_users,)
        Rows of each user.
    gain, gain_error : float
        By how much tastes raise the log-likelihood of the log, in nats per row, and the standard
        error of that, over users.
    knows_users : bool
        Whether the fit was given the users, and so knows how they differ in activity.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import user_taste
    >>> rng = np.random.default_rng(0)
    >>> X, user = rng.normal(size=(600, 2)), np.arange(600) % 30
    >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(
    ...     shared_examination=False, max_epochs=5, early_stopping=False, random_state=0
    ... )
    >>> taste = user_taste(est.fit(X, y), X, y, user)
    >>> taste.posterior.shape, bool((taste.posterior[y.any(axis=1)] > 0.999).all())
    ((600,), True)
    """

    sd: float
    posterior: Floats
    user_id: NDArray[Any]
    mean: Floats
    spread: Floats
    n_rows: NDArray[np.int64]
    gain: float
    gain_error: float
    knows_users: bool

    def __repr__(self):
        lines = [
            f"tastes of {len(self.user_id)} users: sd {self.sd:.2f} on the logit of the reward",
            f"log-likelihood of tastes against one taste: {self.gain:+.4f} nats per row, standard "
            f"error {self.gain_error:.4f}",
        ]
        if not self.sd:
            lines.append("Users are taken to share one taste, which explains the log as well.")
        elif not self.knows_users:
            lines.append(
                "The fit does not know the users. If they differ in activity, active users seem to "
                "like more. Fit with user_id to separate the two."
            )
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one row per known user.

        Returns
        -------
        frame : DataFrame
            Columns `user_id`, `mean`, `spread`, `n_rows`.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import user_taste
        >>> rng = np.random.default_rng(0)
        >>> X, user = rng.normal(size=(600, 2)), np.arange(600) % 30
        >>> y = ((X[:, :1] > 0) & (rng.random((600, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(
        ...     shared_examination=False, max_epochs=5, early_stopping=False, random_state=0
        ... )
        >>> taste = user_taste(est.fit(X, y), X, y, user)
        >>> taste.to_frame()["n_rows"].unique().tolist()
        [20]
        """
        pd = import_optional("pandas", "to_frame", "data")
        names = "user_id", "mean", "spread", "n_rows"
        return pd.DataFrame({name: getattr(self, name) for name in names})


def user_taste(
    est: Any,
    X: Rows,
    y: ArrayLike,
    user_id: ArrayLike,
    *,
    exposures: ArrayLike | None = None,
    **fit_params: Any,
) -> UserTaste:
    """Estimate how much users differ in taste, and P(r* = 1) of each row given all of its user's.

    `fit` takes one taste for all users. Here the logit of P(r* = 1) of user u is shifted by
    sd c_u, where c_u is standard normal. Only `sd` is estimated, by maximum likelihood; the
    estimator is not changed.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        Fitted. Pass `user_id` to its `fit` if users differ in activity: otherwise a user who acts
        often seems to be one who likes more.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        Responses, of the log of `fit` or others.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    user_id : array-like of shape (n_samples,)
        The user of each row, as in `fit`. Users need not be known to `fit`.
    exposures : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
        As in `fit`.
    **fit_params : dict
        Other arguments of `fit` are refused, with the reason and what to do instead.

    Returns
    -------
    taste : UserTaste
        Prints as text; `posterior` has one value per row, `to_frame()` one row per user.

    Raises
    ------
    TypeError
        If `est` is not an `ImplicitRewardEstimator`, or an argument is not one of `fit`.
    ValueError
        If no user has two rows, with X in files, or if the objective is not the likelihood of each
        row. Also if an argument of `fit` is refused.

    Notes
    -----
    Let R(x) be the reward, which remains the mean over users: the logit f(x) of an average user
    solves E[sigmoid(f(x) + sd c)] = R(x). With l_r = P(y | r* = r, x), the likelihood of the rows i
    of a user is

    ``E_c[ prod_i (sigmoid(f_i + sd c) l_i1 + sigmoid(-f_i - sd c) l_i0) ]``,

    a logistic model with a random intercept ([1]_), whose outcome is latent. Tastes count only if
    they make the log likelier by more than one standard error of the paired difference over users.

    This carries the assumptions and the verdict of the fit: tastes neither identify the level of
    the reward nor test it.

    References
    ----------
    .. [1] Breslow & Clayton, "Approximate inference in generalized linear mixed models", Journal of
       the American Statistical Association 88, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.datasets import simulate_feedback
    >>> from implicitrm_sk.inspection import user_taste
    >>> rng = np.random.default_rng(0)
    >>> X, user = rng.normal(size=(2000, 4)), rng.integers(100, size=2000)
    >>> reward = 1 / (1 + np.exp(-X[:, 0]))
    >>> log = simulate_feedback(
    ...     reward, X=X, n_signals=2, user_id=user, user_taste=1.5, random_state=0
    ... )
    >>> est = ImplicitRewardEstimator(shared_examination=False, random_state=0)
    >>> taste = user_taste(est.fit(X, log.actions), X, log.actions, user)
    >>> bool(1.0 < taste.sd < 2.0)
    True
    """
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est must be an ImplicitRewardEstimator, got {type(est).__name__}. For a pipeline, "
            "pass its last step, and X as transformed by the others."
        )
    of_fit("user_taste", fit_params, REFUSED)
    check_is_fitted(est, "model_")
    objective = est.objective_
    if not objective.models_actions or objective.single_signal:
        raise ImplicitRMError(
            "user_taste needs an objective that is the likelihood of each row, got "
            f"{type(objective).__name__}. Use objective='stratified'."
        )
    check_same_rows(X, y=y, user_id=user_id, exposures=exposures)
    X = read_features(est, X)
    if isinstance(X, StreamedX):
        raise X.refusal()
    user, ids = number_users(user_id, len(X))
    n_rows = np.bincount(user)
    if n_rows.max() < 2:
        raise ImplicitRMError(
            f"user_id has {len(n_rows)} users, none with two rows, so nothing shows their tastes. "
            "Pass the person who acted on each row."
        )
    side = {} if exposures is None else {"exposures": exposures}
    log = reread_log(est, len(X), y, side)
    mixture = FittedMixture.of(est)
    reward, evidence = _evidence(mixture, X, log, mixture.codes(user_id, len(X)))
    return _taste(reward, evidence, user, ids, mixture.activity is not None)


def _evidence(mixture, X, log, codes):
    """Return R(x), (n,), and log P(y | r*, x) up to a constant, (2, n), r* = 0 first."""

    def of_rows(measurement, f, u, log_weight=None, **fields):
        weight = -np.log(len(f)) if log_weight is None else log_weight.view(len(f), -1)
        both = torch.stack([torch.nn.functional.logsigmoid(sign * f.double()) for sign in (-1, 1)])
        prior = torch.logsumexp(both + weight, 1)
        joint = torch.logsumexp(measurement.log_joint(f, u, **fields) + weight, 1)
        return torch.cat([prior, joint - prior]).T

    found = mixture.of_log(X, log, of_rows, codes).T
    return np.exp(found[1]), found[2:]


def _taste(reward, evidence, user, ids, knows_users):
    """Return the `UserTaste` of rows, given R(x) and log P(y | r*, x)."""
    n_users, n = user.max() + 1, len(user)

    def rows_at(sd):
        """Yield the log-joint of r* and y, (2, n), at each taste."""
        mean = expit(LOGITS[:, None] + sd * GRID) @ np.exp(LOG_PRIOR)
        average = np.interp(reward, mean, LOGITS)
        for c in GRID:
            shifted = average + sd * c
            yield np.stack([log_expit(-shifted), log_expit(shifted)]) + evidence

    def of_users(sd):
        """Return log P(rows of a user, taste), of shape (users, tastes)."""
        found = np.empty((n_users, len(GRID)))
        for k, joint in enumerate(rows_at(sd)):
            found[:, k] = np.bincount(user, np.logaddexp(*joint), n_users)
        return found + LOG_PRIOR

    def loss(sd):
        return -logsumexp(of_users(sd), axis=1).sum() / n

    sd = float(minimize_scalar(loss, bounds=(0.0, LARGEST), method="bounded").x)
    gain = logsumexp(of_users(sd), axis=1) - logsumexp(of_users(0.0), axis=1)
    gain_error = np.sqrt(n_users) * gain.std() / n
    if gain.sum() / n <= gain_error:
        sd = 0.0
    joint = of_users(sd)
    weight = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    posterior = np.zeros(n)
    for k, of_row in enumerate(rows_at(sd)):
        posterior += weight[user, k] * expit(of_row[1] - of_row[0])
    known = slice(len(ids))
    mean = weight @ GRID
    spread = np.sqrt(np.maximum(weight @ GRID**2 - mean**2, 0.0))
    return UserTaste(
        sd=sd,
        posterior=posterior,
        user_id=ids,
        mean=mean[known],
        spread=spread[known],
        n_rows=np.bincount(user)[known],
        gain=float(gain.sum() / n),
        gain_error=float(gain_error),
        knows_users=knows_users,
    )
