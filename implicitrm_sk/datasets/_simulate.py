"""Simulator of the feedback that users leave on rated responses."""

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from .._log import number_users, resolve_signals
from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ..measurement._dispersed import sample_means
from ..measurement._model import Measurement, is_dispersed
from ..measurement._signal import Signal
from ._data import FeedbackData

_MECHANISMS = ("constant", "rating", "covariate", "user")
# softplus(logit A) = -log(1 - A): of the shift and the cut points of grades it is 2.
_SHARED = -np.expm1(-2.0)
# Positions are part of the seed: append new names, never reorder.
_PURPOSES = (
    "preference",
    "projection",
    "user_effect",
    "activity",
    "false_action",
    "logged",
    "own_preference",
    "shared_activity",
    "copied_signal",
    "sample",
    "examination",
    "user_activity",
    "user_taste",
)


def simulate_feedback(
    true_preference: ArrayLike | None = None,
    *,
    n_signals: int | None = None,
    signals: Mapping[str, str | Signal] | list[str | Signal] | None = None,
    propensity: str | ArrayLike = "covariate",
    X: ArrayLike | None = None,
    rating: ArrayLike | None = None,
    user_id: ArrayLike | None = None,
    threshold: float | None = None,
    rate: float | ArrayLike = 0.5,
    rating_decay: float = 0.5,
    slope: float | ArrayLike = 1.5,
    intercept: float | ArrayLike = -0.4,
    user_correlation: float = 0.0,
    user_activity: float = 0.0,
    user_taste: float = 0.0,
    false_action_rate: float | ArrayLike = 0.0,
    exposures: ArrayLike | None = None,
    exposure_correlation: float | ArrayLike = 0.0,
    logged_rate: float | ArrayLike = 1.0,
    examination: float | ArrayLike = 1.0,
    own_preference: float = 0.0,
    shared_activity: float = 0.0,
    copied_signal: tuple[int, int] | None = None,
    copied_rate: float = 1.0,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
) -> FeedbackData:
    """Simulate a log of user actions on responses whose preference is known.

    The log follows the generative model of the package, and can break its assumptions one at a
    time. For row i and signal k (copy, click, ...), with r*_i = 1 if the response is preferred::

        r*_i ~ Bernoulli(true_preference_i)
        a_ik ~ Bernoulli(A_ik)                            activity, A_ik the propensity
        f_ik ~ Bernoulli(e_k)                             misclick, e_k the false-action rate
        y_ik = r*_i a_ik + (1 - r*_i) f_ik
        y_ik = 0 for all k with probability 1 - v_i       nobody looked at row i
        y_ik = NaN (not logged) with probability 1 - logged_rate_k

    So on rows that were looked at, P(y_ik = 1 | r*_i = 1) = A_ik and P(y_ik = 1 | r*_i = 0) = e_k.
    Given A_ik, this is independent over the signals, and of the rating, the user and the features.
    By default all rows were looked at, see `examination`. A negative action (regenerate, thumbs
    down) is the mirror image: P(y_ik = 1 | r*_i = 0) = A_ik and P(y_ik = 1 | r*_i = 1) = e_k.

    Parameters
    ----------
    true_preference : array-like of shape (n,), default=None
        The true preference: r* itself (0 or 1), or its probability in [0, 1], from which r* is
        drawn. ``None`` sets r* = 1 if `rating` > `threshold`.

    n_signals : int, default=None
        Number K of signals. ``None`` means one signal and 1-D output. An integer, including 1,
        means output of shape (n, K). It is not needed with `signals`, or with a 2-D array as
        `propensity`.

    signals : dict or list of {"positive", "negative"} or Signal, default=None
        The kind of each signal, as in the parameter of the estimator; ``None`` means that all are
        positive actions. A dict names the columns, and `actions` is then a DataFrame. A kind other
        than :class:`~implicitrm_sk.signals.Action` is drawn by its `sample`, with the logits of
        A_ik. It has one column of A for each of its `n_outputs`. The shapes (K,) and (n, K) of the
        propensity count all of these columns. Columns that all rows share are 0.86, unless
        `propensity` is an array. A :class:`~implicitrm_sk.signals.Graded` then has the shift 2, cut
        points at the distance 2, and the location logit A_ik.

    propensity : {"covariate", "constant", "rating", "user"} or array-like, default="covariate"
        The mechanism of A_ik = P(y_ik = 1 | the r* that signal k shows):

        - ``"constant"``: A_ik = `rate`.
        - ``"rating"``: responses with a higher rating attract more actions, as in the simulation of
          the literature [1]_. With s the rating: t_i = 1 + 4 (s_i - min s) / (max s - min s),
          q_i = rating_decay ** (5 - t_i), c = n rate / sum(q), A_ik = min(1, c q_i).
          Because of the minimum, the mean may be below `rate`. For a negative action, 6 - t_i
          replaces t_i.
        - ``"covariate"``: the scenario (code, chat, ...) decides.
          A_ik = sigmoid(slope s_ik + intercept). Here s_ik is X_i with standardised columns,
          projected on a standard normal direction drawn for signal k, and standardised over the
          rows. Constant columns of X do not matter.
        - ``"user"``: some users act more. A_ik = sigmoid(slope v_uk + intercept) for all rows of
          user u. Here v_uk = sqrt(user_correlation) v_u + sqrt(1 - user_correlation) w_uk, and all
          v_u and w_uk are standard normal.
        - array of shape (n,), the same for all signals, or (n, K): A_ik itself, in [0, 1].

    X : array-like of shape (n, d), default=None
        Features (embeddings) of the rows, for ``propensity="covariate"``.

    rating : array-like of shape (n,), default=None
        Ratings, for ``propensity="rating"``, or if `true_preference` is ``None``.

    user_id : array-like of shape (n,), default=None
        The user who saw the row, any labels, for ``propensity="user"``, `user_activity` and
        `user_taste`.

    threshold : float, default=None
        Ratings strictly above it are preferred, if `true_preference` is ``None``. ``None`` means
        the median of the distinct ratings.

    rate : float or array-like of shape (K,), default=0.5
        The propensity in ``"constant"``, its mean in ``"rating"``; in (0, 1].

    rating_decay : float, default=0.5
        Ratio of the propensities of two neighbouring levels in ``"rating"``; in (0, 1].

    slope, intercept : float or array-like of shape (K,), default=1.5 and -0.4
        Strength of the dependence and logit of the typical propensity in ``"covariate"`` and
        ``"user"``.

    user_correlation : float, default=0.0
        Correlation of the user effects of two signals in ``"user"``; in [0, 1]. Above 0, a user who
        is active in one signal is active in the others. The signals are then independent given r*
        only for an estimator that sees the user.

    user_activity : float, default=0.0
        How much users differ in activity, in addition to `propensity`; at least 0. The logit of
        A_ik is shifted by user_activity b_u for all signals, where u is the user of row i and b_u
        is standard normal.

    user_taste : float, default=0.0
        Broken assumption: users do not share one taste. The logit of P(r*_i = 1) is shifted by
        user_taste t_u, where u is the user of row i and t_u is standard normal; at least 0. Then
        `true_preference` is that of the average user, and `reward` the mean over users. It has an
        effect only if some entry is strictly between 0 and 1.

    false_action_rate : float or array-like of shape (K,), default=0.0
        The rate of misclicks, e_k = P(y_ik = 1 | the r* that signal k does not show), in [0, 1). It
        may exceed A_ik. If the `false_rate` of an ``Action`` is set, it is used instead.

    exposures : array-like of int of shape (n,) or (n, K), default=None
        How often each response was shown, at least once. The actions are then counts: given r*_i,
        each exposure is followed by an action with the probability A_ik or e_k. ``None`` means
        once. Available only for actions that do not come late, and not with `examination` below 1,
        `shared_activity` or `copied_signal`.

    exposure_correlation : float or array-like of shape (K,), default=0.0
        Correlation of two exposures of a response, given r*_i; in [0, 1). Above 0, A_ik and e_k are
        means, and the probability of a response has a beta distribution. The signal
        ``Action(counts="beta-binomial")`` has such counts. For other actions this is a broken
        assumption. It needs `exposures`.

    logged_rate : float or array-like of shape (K,), default=1.0
        Probability that an entry is logged, at random and independently; in (0, 1].

    examination : float or array-like of shape (n,), default=1.0
        The probability v_i that row i was looked at, independent of r*_i; in [0, 1]. All signals of
        the other rows are silent. Not available for kinds without a value for silence.

    own_preference : float, default=0.0
        Broken assumption: the signals of a row do not share one r*. With this probability, each
        signal of a row comes from another user with their own preference, r*_ik ~
        Bernoulli(true_preference_i) independently over k. It has an effect only if
        `true_preference` is a probability. So it may be above 0 only if some entry is strictly
        between 0 and 1.

    shared_activity : float, default=0.0
        Broken assumption: the signals of a row are not independent given r*. With this probability,
        one uniform number decides all activities of a row, a_ik = 1[u_i < A_ik] instead of
        1[u_ik < A_ik]: the user is active in everything or in nothing. Each P(a_ik = 1) stays A_ik.
        Available only for actions.

    copied_signal : tuple of two int, default=None
        Broken assumption: (source, target), one signal repeats another. With probability
        `copied_rate`, a row copies preference, activity, misclick and action of signal `target`
        from signal `source`. Both must be actions that show the same preference.

    copied_rate : float, default=1.0
        Share of the rows with `copied_signal`; in (0, 1].

    random_state : int, RandomState instance, Generator or None, default=None
        Seed. An int gives the same log in every call. Every signal and every source of randomness
        has its own stream. So signals 0 .. k-1 are the same for every `n_signals`, and changing one
        setting leaves the draws of the others unchanged. A RandomState or Generator is advanced by
        one draw; ``None`` uses fresh entropy. The global state of numpy is never used.

    Returns
    -------
    log : FeedbackData
        It has the attributes below, and `X`, `rating`, `user_id` and `signals` as given. The shape
        "(n,) or (n, K)" is 1-D if `n_signals` and `signals` are ``None`` and `propensity` is not
        2-D. Otherwise it is 2-D.

        actions : ndarray of shape (n,) or (n, K), or DataFrame
            The actions y as int64, or their numbers. If a `logged_rate` is below 1, float64 with
            NaN for entries that were not logged. Objects if a kind of signal has labels.
        exposures : ndarray of shape (n,) or (n, K), int64, or None
            How often each response was shown, as `fit` takes it.
        propensity : ndarray of shape (n,) or (n, K), float64
            The probability P(y_ik = 1 | the r*_ik that signal k shows). For a copied signal, the
            mixture with that of its source.
        activity : ndarray of shape (n,) or (n, K), int64
            a_ik, whether the user would act if r* were what the signal shows, logged or not. NaN
            for kinds other than actions, and with `exposures`.
        true_preference : ndarray of shape (n,), int64
            r*_i.
        signal_preference : ndarray of shape (n,) or (n, K), int64
            r*_ik, the preference of the user of that signal; r*_i unless `own_preference` > 0.
        reward : ndarray of shape (n,), float64
            P(r*_i = 1), the preference as given. With `user_taste`, its mean over users.
        logged : ndarray of shape (n,) or (n, K), bool
            Whether the entry is logged.
        examination : ndarray of shape (n,), float64
            v_i, as given.
        examined : ndarray of shape (n,), bool
            Whether the row was looked at.
        user_effect : ndarray of shape (n,), float64, or None
            b_u of the user of each row; None if `user_activity` is 0.
        false_action_rate : ndarray of shape (K,), float64
            P(y_ik = 1 | the r*_ik that signal k does not show). For a copied signal, the mixture
            with that of its source. NaN for kinds other than actions.

    Raises
    ------
    ValueError
        If an argument has the wrong type, shape or range, or if the chosen mechanism lacks its
        data. The message names the parameter, the given value and a remedy.

    Notes
    -----
    The defaults of ``"covariate"`` give the reference log of the package's benchmarks. Simulate
    training and test rows in one call, because projections are standardised over the rows given.

    With ``"rating"``, the activity depends on the rating, and so on r* beyond what the features
    predict. The propensity of an estimator, P(y_ik = 1 | r*_i = 1, x), then differs from the mean
    activity at x.

    References
    ----------
    .. [1] Wang et al., "ImplicitRM", arXiv:2603.23184, 2026. The formula is that of the simulation
       in the public repository Causal-RM of its authors (``simulate_bias_pu.py``).

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.datasets import simulate_feedback
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 5))
    >>> liked = (X[:, 0] > 0).astype(int)
    >>> log = simulate_feedback(liked, X=X, random_state=0)
    >>> log.actions.shape, log.propensity.shape
    ((1000,), (1000,))
    >>> bool((log.actions <= liked).all())
    True

    Three signals, with a fifth of the entries not logged:

    >>> log = simulate_feedback(liked, X=X, n_signals=3, logged_rate=0.8, random_state=0)
    >>> log.actions.shape
    (1000, 3)
    >>> round(float(np.isnan(log.actions).mean()), 1)
    0.2

    Counts over exposures of which some are alike:

    >>> shown = rng.integers(4, 9, size=1000)
    >>> log = simulate_feedback(
    ...     liked,
    ...     signals={"yes": "positive", "no": "negative"},
    ...     propensity="constant",
    ...     false_action_rate=0.1,
    ...     exposures=shown,
    ...     exposure_correlation=0.2,
    ...     random_state=0,
    ... )
    >>> sorted(log.fit_params())
    ['exposures']
    >>> bool((log.actions.max(axis=1) <= shown).all())
    True

    A positive and a negative action, with names:

    >>> signals = {"copied": "positive", "regenerated": "negative"}
    >>> log = simulate_feedback(liked, X=X, signals=signals, random_state=0)
    >>> log.actions.groupby(log.true_preference).max()
       copied  regenerated
    0       0            1
    1       1            0
    """
    reward = _reward(true_preference, rating, threshold)
    n_rows = len(reward)
    kinds = _kinds(signals, n_signals, exposures)
    n_outputs = n_signals if kinds is None else sum(kind.n_outputs for kind in kinds)
    given = _given_propensity(propensity, n_rows, n_outputs)
    one_dimensional = kinds is None and n_signals is None and (given is None or given.ndim == 1)
    if kinds is None:
        n_outputs = _count_signals(n_signals, given)
        kinds = (Action(),) * n_outputs
    n_signals = len(kinds)
    shown, correlation = _shown(exposures, exposure_correlation, n_rows, n_signals)
    target = np.array([kind.target if type(kind) is Action else 1 for kind in kinds])
    false_action_rate = _false_action_rate(false_action_rate, kinds)
    logged_rate = _per_signal("logged_rate", logged_rate, n_signals, 0, 1, closed=(False, True))
    examination = _examination(examination, kinds, n_rows)
    shared_activity = _number("shared_activity", shared_activity)
    source_target, copied_rate = _check_copied_signal(copied_signal, copied_rate, n_signals)
    _check_kinds(kinds, target, propensity, shared_activity, source_target)
    _check_counted(shown, kinds, shared_activity, source_target, examination)
    stream = _Streams(random_state)
    if given is not None:
        A = given[:, None] if given.ndim == 1 else given
    elif propensity in ("constant", "rating"):
        A = _per_signal("rate", rate, n_outputs, 0, 1, closed=(False, True))
        if propensity == "rating":
            A = _rating_propensity(rating, n_rows, A, rating_decay, target)
    else:
        effect = _effect(propensity, X, user_id, (n_rows, n_outputs), user_correlation, stream)
        A = _from_effect(effect, slope, intercept)
    A = np.array(np.broadcast_to(A, (n_rows, n_outputs)), dtype=np.float64)
    A, user_effect = _more_active(A, kinds, given, user_id, user_activity, stream)
    tastes = _tastes(reward, user_id, user_taste, stream)
    preferred, signal_preference = _draw_preference(stream, tastes, n_signals, own_preference)
    first = np.cumsum([0, *(kind.n_outputs for kind in kinds[:-1])])
    if shown is None:
        activity = _draw_activity(stream, A[:, first], shared_activity)
        false_action = _uniform(stream, "false_action", n_rows, n_signals) < false_action_rate
        if source_target is not None:
            drawn = signal_preference, activity, false_action
            _copy_draws(stream, source_target, copied_rate, *drawn)
            _mix_rates(source_target, copied_rate, A.T, false_action_rate)
        actions = np.where(signal_preference == target, activity, false_action)
        actions, activity = _with_other_kinds(
            stream, actions, activity, A, kinds, signal_preference
        )
    else:
        p = np.where(signal_preference == target, A[:, first], false_action_rate)
        actions, activity = _counts(stream, p, shown, correlation), np.full(p.shape, np.nan)
    actions, examined, logged = _recorded(stream, actions, kinds, examination, logged_rate)
    named = isinstance(signals, Mapping)

    def shaped(values):
        return values[:, 0] if one_dimensional else values

    return FeedbackData(
        X,
        _table(actions, signals) if named else shaped(np.column_stack(actions)),
        signals=dict(signals) if named else signals and list(signals),
        user_id=user_id,
        exposures=None if shown is None else shaped(shown),
        true_preference=preferred.astype(np.int64),
        rating=rating,
        propensity=shaped(A),
        activity=shaped(activity),
        signal_preference=shaped(signal_preference.astype(np.int64)),
        reward=tastes[1],
        logged=shaped(logged),
        examination=examination,
        examined=examined,
        user_effect=user_effect,
        false_action_rate=false_action_rate,
    )


def _tastes(reward, user_id, user_taste, stream):
    """Return P(r*=1) for the user of each row, and its mean over users."""
    user_taste = _number("user_taste", user_taste, 0, np.inf, closed=(True, False))
    if not user_taste:
        return reward, reward
    if user_id is None:
        raise ImplicitRMError(
            f"user_taste={user_taste:g} needs user_id, got None. Pass the user of each row, or "
            "leave user_taste at 0."
        )
    _check_varies("user_taste", user_taste, reward)
    user, _ = number_users(user_id, len(reward))
    t = stream("user_taste").standard_normal(user.max() + 1)[user]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mean = sum(
        weight * _sigmoid(_logit(reward) + user_taste * node)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True)
    )
    return _sigmoid(_logit(reward) + user_taste * t), mean


def _draw_preference(stream, tastes, n_signals, own_preference):
    """Draw r* of each row, and of each signal's user, who differs only in rows of many users."""
    of_user, reward = tastes
    own_preference = _check_own_preference(own_preference, reward)
    preferred = stream("preference").random(len(reward)) < of_user
    signal_preference = np.repeat(preferred[:, None], n_signals, axis=1)
    if own_preference > 0:
        uniform = _uniform(stream, "own_preference", len(reward), n_signals, first=1)
        own = stream("own_preference").random(len(reward)) < own_preference
        signal_preference = np.where(own[:, None], uniform < reward[:, None], signal_preference)
    return preferred, signal_preference


def _draw_activity(stream, A, shared_activity):
    """Draw who would act if r* were the preference that the signal shows."""
    uniform = _uniform(stream, "activity", *A.shape)
    if shared_activity > 0:
        shared = stream("shared_activity").random(len(A)) < shared_activity
        common = stream("shared_activity", 1).random(len(A))
        uniform = np.where(shared[:, None], common[:, None], uniform)
    return uniform < A


def _with_other_kinds(stream, actions, activity, A, kinds, signal_preference):
    """Return columns of actions with those of other kinds, which do not have an activity."""
    actions, activity, first = list(actions.astype(np.int64).T), activity.astype(np.int64), 0
    for k, kind in enumerate(kinds):
        if type(kind) is not Action:
            logits = _logit(A[:, first : first + kind.n_outputs])
            actions[k] = kind.sample(logits, signal_preference[:, k], stream("sample", k))[:, 0]
            activity = np.where(np.arange(len(kinds)) == k, np.nan, activity)
        first += kind.n_outputs
    return actions, activity


def _counts(stream, p, shown, correlation):
    """Draw how many exposures of each response an action follows, by signal."""
    counts = []
    for k, rho in enumerate(correlation):
        rng = stream("sample", k)
        mean = sample_means(p[:, k], _logit(rho), rng) if rho else p[:, k]
        counts.append(rng.binomial(shown[:, k], mean))
    return counts


def _recorded(stream, actions, kinds, examination, logged_rate):
    """Return the columns of actions in the log, the rows looked at, and the entries logged."""
    shape = len(examination), len(actions)
    examined = stream("examination").random(shape[0]) < examination
    actions = _silenced(actions, kinds, examined)
    logged = _uniform(stream, "logged", *shape) < logged_rate
    if (logged_rate < 1).any():
        actions = [np.where(*pair, np.nan) for pair in zip(logged.T, actions, strict=True)]
    return actions, examined, logged


def _silenced(actions, kinds, examined):
    """Return the columns of actions, silent on rows that nobody looked at."""
    if examined.all():
        return actions
    # A kind with labels has a label for silence.
    silent = [getattr(kind, "silent", kind.silence) for kind in kinds]
    return [
        np.where(examined, y, value).astype(y.dtype)
        for y, value in zip(actions, silent, strict=True)
    ]


def _effect(propensity, X, user_id, shape, user_correlation, stream):
    """Return what the propensity of each row and output depends on."""
    if propensity == "covariate":
        return _covariate_effect(X, *shape, stream)
    return _user_effect(user_id, *shape, user_correlation, stream)


def _from_effect(effect, slope, intercept):
    """Return the propensities of rows whose signals depend on an effect to some degree."""
    n_outputs = effect.shape[1]
    slope = _per_signal("slope", slope, n_outputs)
    intercept = _per_signal("intercept", intercept, n_outputs)
    return _sigmoid(slope * effect + intercept)


def _copy_draws(stream, source_target, copied_rate, *drawn):
    source, target = source_target
    rows = stream("copied_signal").random(len(drawn[0])) < copied_rate
    for values in drawn:
        values[rows, target] = values[rows, source]


def _mix_rates(source_target, share, *rates):
    source, target = source_target
    for values in rates:
        values[target] = share * values[source] + (1 - share) * values[target]


class _Streams:
    """Independent generators, one for each purpose and signal, from one seed."""

    def __init__(self, random_state):
        if random_state is None:
            self.entropy = np.random.SeedSequence().entropy
        elif isinstance(random_state, Integral) and not isinstance(random_state, bool):
            if random_state < 0:
                raise ImplicitRMError(
                    f"random_state must not be negative, got {random_state}. Pass a seed >= 0."
                )
            self.entropy = int(random_state)
        elif isinstance(random_state, np.random.RandomState):
            self.entropy = random_state.randint(2**32, size=4, dtype=np.uint32).tolist()
        elif isinstance(random_state, np.random.Generator):
            self.entropy = random_state.integers(2**32, size=4, dtype=np.uint32).tolist()
        else:
            raise ImplicitRMError(
                "random_state must be None, an integer, a numpy RandomState or a numpy Generator, "
                f"got {random_state!r}. Pass one of these."
            )

    def __call__(self, purpose, k=0):
        key = (_PURPOSES.index(purpose), k)
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self.entropy, spawn_key=key))
        )


def _uniform(stream, purpose, n_rows, n_signals, first=0):
    return np.column_stack([stream(purpose, first + k).random(n_rows) for k in range(n_signals)])


def _table(columns, names):
    pandas = import_optional("pandas", "data", "simulate_feedback with a dict of signals")
    return pandas.DataFrame(dict(zip(names, columns, strict=True)))


def _logit(p):
    # A softmax has no finite logit for certain outcomes, so these are clipped too.
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def _sigmoid(z):
    # exp of a negative number only, so that no logit overflows.
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def _vector(name, values, n_rows=None):
    array = _numeric(name, values)
    if array.ndim != 1 or array.size == 0:
        raise ImplicitRMError(
            f"{name} must be one-dimensional and not empty, got shape {array.shape}. "
            "Pass one value for each row."
        )
    if n_rows is not None and len(array) != n_rows:
        raise ImplicitRMError(
            f"{name} has {len(array)} rows but true_preference has {n_rows}. "
            "Pass one value for each row, in the same order."
        )
    return array


def _numeric(name, values):
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ImplicitRMError(f"{name} must hold numbers: {error}. Convert it.") from error
    if not np.isfinite(array).all():
        raise ImplicitRMError(
            f"{name} holds NaN or infinity. Leave these rows out, or fill the values in."
        )
    return array


def _check_unit_interval(name, array):
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ImplicitRMError(
            f"{name} must lie in [0, 1], got values from {array.min():g} to {array.max():g}. "
            "Rescale it."
        )


def _interval(low, high, closed):
    return f"{'[' if closed[0] else '('}{low}, {high}{']' if closed[1] else ')'}"


def _outside(value, low, high, closed):
    too_low = value < low if closed[0] else value <= low
    too_high = value > high if closed[1] else value >= high
    return too_low | too_high


def _number(name, value, low=0, high=1, closed=(True, True)):
    if not isinstance(value, Real) or isinstance(value, bool) or not np.isfinite(value):
        raise ImplicitRMError(f"{name} must be a number, got {value!r}. Pass a number.")
    if _outside(np.float64(value), low, high, closed):
        raise ImplicitRMError(
            f"{name} must lie in {_interval(low, high, closed)}, got {value!r}. Correct it."
        )
    return float(value)


def _per_signal(name, value, n_signals, low=-np.inf, high=np.inf, closed=(True, True)):
    array = _numeric(name, value)
    if array.ndim > 1 or (array.ndim == 1 and len(array) != n_signals):
        raise ImplicitRMError(
            f"{name} must be one number or one for each of the {n_signals} signal(s), got shape "
            f"{array.shape}. Correct it."
        )
    if _outside(array, low, high, closed).any():
        raise ImplicitRMError(
            f"{name} must lie in {_interval(low, high, closed)}, got {value!r}. Correct it."
        )
    return np.array(np.broadcast_to(array, (n_signals,)))


def _given_propensity(propensity, n_rows, n_signals):
    """Return the checked propensity if it is an array, None if it names a mechanism."""
    if isinstance(propensity, str):
        if propensity not in _MECHANISMS:
            raise ImplicitRMError(
                f"propensity must be one of {_MECHANISMS} or an array of probabilities, got "
                f"{propensity!r}. Correct it."
            )
        return None
    given = _numeric("propensity", propensity)
    expected = f"({n_rows},) or ({n_rows}, {'K' if n_signals is None else n_signals})"
    fits = given.ndim in (1, 2) and len(given) == n_rows
    if fits and given.ndim == 2:
        fits = given.shape[1] > 0 and n_signals in (None, given.shape[1])
    if not fits:
        raise ImplicitRMError(
            f"propensity as an array must have shape {expected}, got {given.shape}. "
            "Pass one probability for each row, or for each row and signal."
        )
    _check_unit_interval("propensity", given)
    return given


def _check_kinds(kinds, target, propensity, shared_activity, source_target):
    """Raise if a setting for actions only is used with other kinds."""
    others = [kind for kind in kinds if type(kind) is not Action]
    for what, used in (
        ("propensity='rating'", isinstance(propensity, str) and propensity == "rating"),
        ("shared_activity", shared_activity > 0),
        ("copied_signal", source_target is not None),
    ):
        if used and others:
            raise ImplicitRMError(
                f"{what} is available only for actions, got the signal {others[0]!r}. Leave one of "
                "the two out."
            )
    if source_target is not None and np.ptp(target[list(source_target)]):
        raise ImplicitRMError(
            f"copied_signal={source_target!r} names a positive and a negative action; expected two "
            "that show the same preference. Name others."
        )


def _check_counted(shown, kinds, shared_activity, source_target, examination):
    """Raise if a setting cannot be combined with exposures."""
    if shown is None:
        return
    uncounted = [kind for kind in kinds if type(kind) is not Action or kind.delay is not None]
    if uncounted:
        raise ImplicitRMError(
            f"exposures is not available for the signal {uncounted[0]!r}; expected actions that do "
            "not come late. Leave exposures out."
        )
    for what, used in (
        ("examination below 1", (examination < 1).any()),
        ("shared_activity", shared_activity > 0),
        ("copied_signal", source_target is not None),
    ):
        if used:
            raise ImplicitRMError(
                f"{what} is not available with exposures, whose actions are counted. Leave one of "
                "the two out."
            )


def _shown(exposures, correlation, n_rows, n_signals):
    """Return how often each response was shown, or None, and the correlation of exposures."""
    correlation = _per_signal(
        "exposure_correlation", correlation, n_signals, 0, 1, closed=(True, False)
    )
    if exposures is None:
        if correlation.any():
            raise ImplicitRMError(
                f"exposure_correlation={correlation.max():g} needs exposures, got None. Pass how "
                "often each response was shown."
            )
        return None, correlation
    shown = _numeric("exposures", exposures)
    if shown.shape not in ((n_rows,), (n_rows, n_signals)):
        raise ImplicitRMError(
            f"exposures has shape {shown.shape}; expected ({n_rows},) or ({n_rows}, {n_signals}). "
            "Pass one number for each response, or for each response and signal."
        )
    wrong = (shown < 1) | (shown != np.floor(shown))
    if wrong.any():
        raise ImplicitRMError(
            f"exposures holds {shown[wrong][0]:g}; expected whole numbers of at least 1. Leave out "
            "responses that were not shown."
        )
    shown = np.broadcast_to(shown.reshape(n_rows, -1), (n_rows, n_signals))
    return shown.astype(np.int64), correlation


def _kinds(signals, n_signals, exposures):
    """Return the kind of each signal, or None without `signals`."""
    if signals is None:
        return None
    if not isinstance(signals, Mapping | list | tuple) or not signals:
        raise ImplicitRMError(
            "signals must be a non-empty dict or list of 'positive', 'negative' or Signal "
            f"objects, got {signals!r}. Correct it."
        )
    if n_signals not in (None, len(signals)):
        raise ImplicitRMError(
            f"n_signals={n_signals!r}, but signals has {len(signals)} entries. Leave n_signals out."
        )
    names = list(signals) if isinstance(signals, Mapping) else None
    kinds = resolve_signals(signals, names, len(signals))
    for kind in kinds:
        if isinstance(kind, Action):
            kind.check_arguments()
        if is_dispersed(kind) and exposures is None:
            raise ImplicitRMError(
                f"the signal {kind!r} needs exposures, got None: a response that is shown once has "
                "no correlation of exposures. Pass how often each response was shown."
            )
    # `exposure_correlation` applies to every action, whether its signal models a correlation.
    return tuple(
        Action(kind.target, kind.false_rate) if is_dispersed(kind) else kind for kind in kinds
    )


def _false_action_rate(rate, kinds):
    """Return the rate of each action, its own or the given one; NaN for other kinds."""
    rate = _per_signal("false_action_rate", rate, len(kinds), 0, 1, closed=(True, False))
    for k, kind in enumerate(kinds):
        if type(kind) is not Action:
            rate[k] = np.nan
        elif kind.false_rate is not None:
            rate[k] = _number("false_rate", kind.false_rate, closed=(True, False))
    return rate


def _count_signals(n_signals, given):
    if n_signals is None:
        return 1 if given is None or given.ndim == 1 else given.shape[1]
    if not isinstance(n_signals, Integral) or isinstance(n_signals, bool) or n_signals < 1:
        raise ImplicitRMError(
            "n_signals must be None (one signal, 1-D output) or an integer of at least 1, got "
            f"{n_signals!r}. Correct it."
        )
    return n_signals


def _reward(true_preference, rating, threshold):
    """Return P(r* = 1) of each row: as given, or 0 and 1 from the rating."""
    if true_preference is None:
        return _reward_from_rating(rating, threshold)
    if threshold is not None:
        raise ImplicitRMError(
            f"threshold={threshold!r} is used only if true_preference is None, but true_preference "
            "was given. Leave one of the two out."
        )
    reward = _vector("true_preference", true_preference)
    _check_unit_interval("true_preference", reward)
    return reward


def _reward_from_rating(rating, threshold):
    if rating is None:
        raise ImplicitRMError(
            "true_preference and rating are both None. Pass true_preference (r* or its "
            "probability), or rating, which gives r* = 1[rating > threshold]."
        )
    rating = _vector("rating", rating)
    if threshold is None:
        threshold = np.median(np.unique(rating))
    elif not isinstance(threshold, Real) or not np.isfinite(threshold):
        raise ImplicitRMError(f"threshold must be a number or None, got {threshold!r}. Correct it.")
    return (rating > threshold).astype(np.float64)


def _rating_propensity(rating, n_rows, rate, rating_decay, target):
    if rating is None:
        raise ImplicitRMError(
            "propensity='rating' needs rating, got None. Pass the rating of each row, or choose "
            "another propensity."
        )
    rating = _vector("rating", rating, n_rows)
    rating_decay = _number("rating_decay", rating_decay, closed=(False, True))
    low, high = rating.min(), rating.max()
    if low == high:
        raise ImplicitRMError(
            f"propensity='rating' needs at least two levels of rating, got only {low:g}. Choose "
            "propensity='constant'."
        )
    t = 1 + 4 * (rating - low) / (high - low)
    by_target = [rating_decay ** (t - 1), rating_decay ** (5 - t)]
    share = np.column_stack([by_target[c] / by_target[c].sum() for c in target])
    return np.minimum(1, n_rows * rate * share)


def _covariate_effect(X, n_rows, n_signals, stream):
    if X is None:
        raise ImplicitRMError(
            "propensity='covariate' needs X, got None. Pass the features of each row, or choose "
            "another propensity."
        )
    X = np.asarray(X)
    if X.ndim != 2 or len(X) != n_rows or X.shape[1] == 0:
        raise ImplicitRMError(
            f"X must have shape ({n_rows}, d), one row for each true_preference, got {X.shape}. "
            "Correct it."
        )
    if not np.issubdtype(X.dtype, np.floating):
        X = _numeric("X", X)
    if not np.isfinite(X).all():
        raise ImplicitRMError(
            "X holds NaN or infinity. Leave these rows out, or impute the values."
        )
    if not np.ptp(X, axis=0).any():
        raise ImplicitRMError(
            "X has the same features in every row, so the propensity cannot depend on them. "
            "Choose propensity='constant'."
        )
    scale = StandardScaler().fit(X)
    directions = [stream("projection", k).standard_normal(X.shape[1]) for k in range(n_signals)]
    effect = np.empty((n_signals, n_rows))
    # In batches, so that no standardised float64 copy of a large X is needed.
    for rows in gen_batches(n_rows, 4096):
        Z = (X[rows].astype(np.float64) - scale.mean_) / scale.scale_
        # One product for each signal, because the rounding of a joint one depends on n_signals.
        for k, direction in enumerate(directions):
            effect[k, rows] = Z @ direction
    return np.column_stack([(s - s.mean()) / s.std() for s in effect])


def _user_effect(user_id, n_rows, n_signals, user_correlation, stream):
    if user_id is None:
        raise ImplicitRMError(
            "propensity='user' needs user_id, got None. Pass the user of each row, or choose "
            "another propensity."
        )
    user_id = np.asarray(user_id)
    if user_id.shape != (n_rows,):
        raise ImplicitRMError(
            f"user_id must have shape ({n_rows},), one user for each true_preference, got "
            f"{user_id.shape}. Correct it."
        )
    user_correlation = _number("user_correlation", user_correlation)
    try:
        users, code = np.unique(user_id, return_inverse=True)
    except TypeError as error:
        raise ImplicitRMError(
            f"user_id must hold labels of one kind: {error}. Convert them to one type."
        ) from error
    common = stream("user_effect").standard_normal(len(users))
    own = np.column_stack(
        [stream("user_effect", 1 + k).standard_normal(len(users)) for k in range(n_signals)]
    )
    effect = np.sqrt(user_correlation) * common[:, None] + np.sqrt(1 - user_correlation) * own
    return effect[code]


def _examination(examination, kinds, n_rows):
    """Return the probability, for each row, that it was looked at."""
    if isinstance(examination, Real):
        v = np.full(n_rows, _number("examination", examination))
    else:
        v = _vector("examination", examination, n_rows)
        _check_unit_interval("examination", v)
    mute = [kind for kind in kinds if kind.silence is None]
    if mute and (v < 1).any():
        raise ImplicitRMError(
            f"examination below 1 is not available with the signal {mute[0]!r}, which has no value "
            "for silent users. Leave one of the two out."
        )
    return v


def _share_logits(A, kinds, given):
    """Set the columns of A that all rows share, unless they are given, and return these columns."""
    shared = list(Measurement(kinds).shared_logits() or ())
    if given is None:
        A[:, shared] = _SHARED
    return shared


def _more_active(A, kinds, given, user_id, user_activity, stream):
    """Return propensities of users who differ in activity, and the activity of each row's user."""
    shared = _share_logits(A, kinds, given)
    user_activity = _number("user_activity", user_activity, 0, np.inf, closed=(True, False))
    if not user_activity:
        return A, None
    if user_id is None:
        raise ImplicitRMError(
            f"user_activity={user_activity:g} needs user_id, got None. Pass the user of each row, "
            "or leave user_activity at 0."
        )
    user, _ = number_users(user_id, len(A))
    b = stream("user_activity").standard_normal(user.max() + 1)[user]
    active = _sigmoid(_logit(A) + user_activity * b[:, None])
    active[:, shared] = A[:, shared]  # cut points are the same for all users
    return active, b


def _check_own_preference(own_preference, reward):
    own_preference = _number("own_preference", own_preference)
    if own_preference > 0:
        _check_varies("own_preference", own_preference, reward)
    return own_preference


def _check_varies(name, value, reward):
    if not ((reward > 0) & (reward < 1)).any():
        raise ImplicitRMError(
            f"{name}={value} has no effect, because every true_preference is 0 or 1: all users "
            "agree. Pass true_preference as probabilities strictly between 0 and 1."
        )


def _check_copied_signal(copied_signal, copied_rate, n_signals):
    copied_rate = _number("copied_rate", copied_rate, closed=(False, True))
    if copied_signal is None:
        return None, copied_rate
    try:
        source, target = copied_signal
        valid = all(
            isinstance(k, Integral) and not isinstance(k, bool) and 0 <= k < n_signals
            for k in (source, target)
        )
    except (TypeError, ValueError):
        valid = False
    if not valid or source == target:
        raise ImplicitRMError(
            "copied_signal must be a tuple (source, target) of two different signals among 0 .. "
            f"{n_signals - 1}, got {copied_signal!r}. Raise n_signals to have more signals."
        )
    return (int(source), int(target)), copied_rate
