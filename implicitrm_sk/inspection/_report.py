"""The report on what a log identifies of the reward: its result."""

import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._estimator import ImplicitRewardEstimator
from .._features import read_features
from .._fit import signal_names
from .._identification import BOUNDED, Identification
from .._independence import SIGNIFICANCE
from .._optional import import_optional
from .._prediction import HEADS, FittedMixture
from .._typing import Floats, Rows
from ._plot._base import COLOURS
from ._plot._identification import IdentificationDisplay

#: More pairs of signals than this, whose association is as it should be, are told in one line.
MANY_PAIRS = 3


@dataclass(frozen=True, repr=False)
class IdentificationReport:
    """The report on what a log identifies of the reward. Made by `identification_report`.

    Attributes
    ----------
    level : {"identified", "ranking only", "level only", "bounded", "not identified"}
        The part of the reward that any amount of such data identifies. In this order: all of it,
        its order, its mean, an interval at each row, or nothing.
    assumptions : tuple of str
        The assumptions of the verdict.
    reason : str
        The reason for the level.
    advice : tuple of str
        The next things to log, or to pass to `fit`.
    settings : Identification
        The verdict from the settings and the counts of the log alone, as in `identification_`
        before `fit` has trained.
    refits : dict of str to ndarray of shape (n_starts,)
        Refits from different starts, evaluated on held-out rows. With positive signals only, the
        reward starts at the rate of actions to the power of ``start``. ``log_likelihood`` is in
        nats per response, beside its ``difference`` from the best refit and the
        ``standard_error`` of that difference. ``as_likely`` is whether the refit is as likely as
        the best. ``mean_reward`` is its mean reward.
    reward_spread : float
        Standard deviation of the reward over the refits that are as likely as the best, as a mean
        over held-out rows. NaN if there is only one such refit.
    swap : dict
        The swap test. ``applicable`` is whether the log allows it, and ``why`` not. Else
        ``difference`` is how much the log-likelihood changes (nats per response) if reward and
        propensity are exchanged, beside its ``standard_error``. ``as_likely`` is whether the
        exchanged model is as likely, and ``mean_reward`` its mean reward.
    independence : IndependenceTest or None
        Test of conditional independence; None with fewer than three signals logged together, and
        with repeated exposures.
    associations : list of Association
        For every pair of signals, whether they co-occur as their signs allow:
        ``signals``, ``same_sign``, ``seen`` and ``expected`` co-occurrences, ``z``, ``p_value``,
        ``contradicts``. Empty with repeated exposures.
    frequent_signals : list of (str, float)
        Signals that fire on more than 70 % of the rows, with that share. Such a signal may be the
        absence of a negative action.
    agreeing_signals : list of (str, str, float)
        Pairs that agree on nearly every row on which either acted, with that share. They may be one
        signal.
    agreeing_exposures : list of (str, float)
        Signals whose repeated exposures of one response agree in nearly every case in which one
        acted, with that share. They may be one exposure logged twice.
    labelled_share : dict or None
        Share of labelled responses among those ``acted`` on and ``not acted`` on.
    labels_selected : bool
        Whether these differ so much that the verdict does not count the labels.
    dispersion : Dispersion or None
        For repeated exposures, whether the counts of a response vary more than exposures of one
        preference do (``correlation``, ``gain``, ``p_value``, ``n_responses``, ``rejected``). None
        for beta-binomial counts.
    split : Split or None
        For beta-binomial counts, whether they show preferences, or only exposures that are
        correlated (``gain``, ``p_value``, ``n_responses``, ``shown``).
    examination : dict or None
        Whether the likelihood shows rows that nobody looked at. ``winner`` is "plain" (every row
        was looked at) or "examined". ``difference`` is the log-likelihood (nats per response) of
        the second minus the first, beside its ``standard_error``. None with fewer than two signals
        of each polarity, because the log does not distinguish the two then.
    user_loading : ndarray of shape (n_signals,) or None
        By how many logits one standard deviation of the activity of users shifts each propensity;
        0 if users do not differ. None without `user_id`.
    estimator : ImplicitRewardEstimator
        The refits, fitted on three quarters of the responses.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> report = identification_report(est, X, y, n_starts=2)
    >>> report.level
    'not identified'
    >>> print(report.reason)
    one signal determines only the product of reward and propensity.
    """

    level: str
    assumptions: tuple
    reason: str
    advice: tuple
    settings: object
    refits: dict
    reward_spread: float
    swap: dict
    independence: object
    associations: list
    frequent_signals: list
    agreeing_signals: list
    agreeing_exposures: list
    labelled_share: dict | None
    labels_selected: bool
    dispersion: object
    split: object
    examination: dict | None
    user_loading: Floats | None
    estimator: ImplicitRewardEstimator
    _held_out: dict = field(default_factory=dict)

    def bounds(self, X: Rows) -> Floats:
        """Return the rewards that no log of these actions alone can rule out.

        They reach from the lowest to the highest bound of the refits that are as likely as the
        best. The log does not distinguish these.

        They are estimates and do not contain the error of the fit. If an end is close to the true
        reward, this reward lies outside in about half of such rows. `inspection.reward_interval`
        returns intervals that contain both.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Responses, as in `fit`.

        Returns
        -------
        bounds : ndarray of shape (n_samples, 2)
            [P(any positive action | x), 1 - P(any negative action | x)] without false actions.
            Without positive signals the lower end is 0, without negative ones the upper end is 1.

            With false actions, let y_k be signal k and e_k its false-action rate. The lower end is
            the largest (P(y_k=1 | x) - e_k) / (1 - e_k) of the positive signals. The upper end is
            the lowest 1 - (P(y_k=1 | x) - e_k) / (1 - e_k) of the negative signals. Both are
            clipped to [0, 1]. They hold whatever the propensities are, and do not use other
            information of the fit.

            The level may be "bounded (assuming independent signals of rows that were looked at)".
            Without false actions, two positive signals then raise the lower end to c = P(preferred
            and looked at | x). With n = P(any negative action | x), the upper end is c / (c + n).
            Two negative signals are the mirror image.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(800, 2))
        >>> y = ((X[:, 0] > 0) & (rng.random(800) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> report = identification_report(est, X, y, n_starts=2)
        >>> report.bounds([[2.0, 0.0], [-2.0, 0.0]]).round(1)
        array([[0.6, 1. ],
               [0. , 1. ]])
        """
        estimator = self.estimator
        mixture = FittedMixture.of(estimator)
        # A refit that is less likely than the best shows where its start led, not what is open.
        members = torch.as_tensor(self.refits["as_likely"])
        logits = mixture.members(read_features(estimator, X), *HEADS)
        shown_twice = estimator.evidence_.shown_twice if self.level == BOUNDED else ()
        low, high = mixture.bounds(*(part[members] for part in logits), shown_twice, members)
        return np.column_stack([low.amin(0).numpy(), high.amax(0).numpy()])

    def _rows(self):
        best = self.refits["log_likelihood"].max()
        as_likely = self.refits["as_likely"]
        means = self.refits["mean_reward"][as_likely]
        yield "level", self.verdict, self.reason
        yield (
            "refits",
            f"{as_likely.sum()} of {len(as_likely)} as likely as the best",
            f"held-out log-likelihood of the best {best:.4f} nats per response; mean reward of "
            f"those as likely {means.min():.2f} to {means.max():.2f}"
            + (f", standard deviation {means.std(ddof=1):.2f}" if len(means) > 1 else ""),
        )
        yield (
            "reward spread",
            "cannot be measured" if np.isnan(self.reward_spread) else f"{self.reward_spread:.3f}",
            "only one refit is as likely as the best"
            if np.isnan(self.reward_spread)
            else "standard deviation of the reward over refits that are equally likely, mean over "
            "rows",
        )
        if self.swap["applicable"]:
            verdict = "as likely" if self.swap["as_likely"] else "less likely"
            difference = round(self.swap["difference"], 4) + 0.0  # no "-0.0000"
            yield (
                "swap test",
                f"reward and propensity exchanged: {verdict}",
                f"log-likelihood changes by {difference:+.4f} ± "
                f"{self.swap['standard_error']:.4f} nats per response",
            )
        else:
            yield "swap test", "not applicable", self.swap["why"]
        lower, upper = self._held_out["lower_bound"], self._held_out["upper_bound"]
        yield (
            "bounds",
            f"[{lower.mean():.2f}, {upper.mean():.3g}] on average",
            "what the actions leave open at a row, see bounds(X); without the error of the fit, "
            "which reward_interval adds",
        )
        yield from self._rows_of_associations()
        yield from self._rows_of_signals()
        for advice in self.advice:
            yield "next", advice, ""

    def _rows_of_associations(self):
        """Yield a row for each pair, and one for all that signs allow if they are many."""
        allowed = [pair for pair in self.associations if not pair.contradicts]
        are_many = len(allowed) > MANY_PAIRS
        for pair in self.associations:
            if pair.contradicts or not are_many:
                yield (
                    "sign of association",
                    "contradicts the signals" if pair.contradicts else "as the signals allow",
                    f"{pair} (z = {pair.z:.1f}, p = {pair.p_value:.2g})",
                )
        if are_many:
            least = min(allowed, key=lambda pair: pair.p_value)
            yield (
                "sign of association",
                f"as the signals allow in {len(allowed)} pairs",
                f"associations has all; the smallest p-value, {least.p_value:.2g}, is that of "
                f"{least.signals[0]}, {least.signals[1]}",
            )

    def _rows_of_signals(self):
        for name, share in self.frequent_signals:
            yield (
                "inverted?",
                name,
                f"it is 1 on {share:.0%} of the rows: does it say that something did not happen?",
            )
        test = self.independence
        if test is not None:
            verdict = "not rejected"
            if test.rejected:
                verdict = "rejected"
            elif test.p_value < SIGNIFICANCE:
                verdict = "rejected, but the dependence is weak"
            names = signal_names(self.estimator)
            (j, k), ratio = max(test.log_odds_ratio.items(), key=lambda item: abs(item[1]))
            tested = ""
            if len(test.signals) < len(names):
                tested = f", of the signals {', '.join(str(names[i]) for i in test.signals)}"
            yield (
                "independent signals",
                f"{verdict} (p = {test.p_value:.2g})",
                f"likelihood ratio {test.statistic:.1f} on {test.degrees_of_freedom} degrees of "
                f"freedom, {test.n_rows} responses{tested}; strongest pair {names[j]}, {names[k]} "
                f"with log odds ratio {ratio:.2f}",
            )
        elif self._held_out["differs"] and self.estimator.n_signals_ > 1:
            yield (
                "independent signals",
                "not tested",
                "it takes three positive actions logged together on 20 responses of users whose "
                "activity is well known",
            )
        elif self.estimator.n_signals_ > 1:
            yield (
                "independent signals",
                "cannot be tested" if not self._held_out["repeated"] else "not tested",
                "it takes three positive actions logged together on 20 responses; of two signals "
                "only the sign of their association can be tested"
                if not self._held_out["repeated"]
                else "the test is for responses shown once",
            )
        yield from self._rows_on_attention()
        if self.user_loading is not None:
            largest = self.user_loading.max()
            yield (
                "activity of users",
                f"differs by a standard deviation of up to {largest:.2g} logits"
                if largest > 0
                else "not shown: users who do not differ are as likely",
                "not tested: whether activity depends on what users are shown, and whether they "
                "share one taste",
            )
        for j, k, share in self.agreeing_signals:
            yield (
                "one signal or two?",
                f"{j}, {k}",
                f"they agree on {share:.1%} of the responses on which either acted",
            )
        yield from self._rows_on_exposures()
        if self.labelled_share is not None:
            acted, not_acted = self.labelled_share["acted"], self.labelled_share["not acted"]
            if self.labels_selected:
                note = "far apart: which responses have a label depends on what users did"
            elif self.estimator.label_mechanism == "asked":
                note = "as you chose them by X and y, label_mechanism='asked'"
            else:
                note = "no sign that users chose which responses have a label"
            yield "labelled", f"{acted:.2%} of acted, {not_acted:.2%} of not acted", note

    def _rows_on_exposures(self):
        if self.split is not None:
            yield (
                "two preferences behind the counts",
                f"{'shown' if self.split.shown else 'not shown'} (p = {self.split.p_value:.2g})",
                f"beside exposures that are correlated, they are by {self.split.gain:.2g} nats "
                f"likelier, {self.split.n_responses} responses",
            )
        if self._held_out["repeated"]:
            test, finding = self.dispersion, "independence not tested"
            detail = (
                "that all exposures of a response are of one preference, and fire independently"
            )
            if test is not None:
                finding = (
                    f"{'rejected' if test.rejected else 'not rejected'} (p = {test.p_value:.2g})"
                )
                detail = (
                    f"{detail}: two of them have a correlation of {test.correlation:.2g}, which is "
                    f"by {test.gain:.2g} nats likelier, {test.n_responses} responses"
                )
            yield "repeated exposures", finding, detail
        for name, share in self.agreeing_exposures:
            yield (
                "one exposure or two?",
                str(name),
                f"exposures of a response agree in {share:.1%} of the cases in which one acted",
            )

    def _rows_on_attention(self):
        found = self.examination
        if found is not None:
            yield (
                "rows not looked at",
                "shown: the model that has them is more likely"
                if found["winner"] == "examined"
                else "not shown: the model in which every row was looked at is as likely",
                f"log-likelihood changes by {found['difference']:+.4f} ± "
                f"{found['standard_error']:.4f} nats per response with them",
            )
        elif self._held_out["examined"]:
            yield (
                "rows not looked at",
                "cannot be tested",
                "it takes two signals of each polarity; with fewer, the model in which every row "
                "was looked at fits exactly as well",
            )

    def to_frame(self) -> Any:
        """Return the report as a DataFrame.

        Returns
        -------
        frame : DataFrame
            One row per finding, with columns "item", "finding" and "detail".

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2))
        >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> report = identification_report(est, X, y, n_starts=2)
        >>> report.to_frame().loc[0, ["item", "finding"]].tolist()
        ['level', 'not identified']
        """
        pandas = import_optional("pandas", "data", "The DataFrame form of the report")
        return pandas.DataFrame(list(self._rows()), columns=["item", "finding", "detail"])

    @property
    def verdict(self) -> str:
        """Level and assumptions in one line.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2))
        >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> identification_report(est, X, y, n_starts=2).verdict
        'not identified'
        """
        return str(Identification(self.level, self.assumptions))

    def __repr__(self):
        lines = ["Identification report", ""]
        for item, finding, detail in self._rows():
            lines.append(f"{item:>20}  {finding}")
            if detail:
                lines.append(f"{'':>20}  {detail}")
        return "\n".join(_wrapped(lines))

    def plot(self, axes: Any = None) -> NDArray[Any]:
        """Draw likelihood against reward of the refits, and what the actions leave open per row.

        Parameters
        ----------
        axes : array-like of two matplotlib Axes, default=None
            None makes a figure.

        Returns
        -------
        axes : ndarray of two Axes
            The refits, and the reward by row.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator, identification_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2))
        >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> axes = identification_report(est, X, y, n_starts=2).plot()
        >>> axes[1].get_title()
        'Reward: not identified'
        """
        pyplot = import_optional("matplotlib.pyplot", "plot", "Plotting the report")
        if axes is None:
            _, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
        left, right = np.asarray(axes, dtype=object).ravel()
        refits = self.refits
        for as_likely, marker, colour, label in (
            (True, "o", COLOURS[0], "as likely as the best"),
            (False, "X", "0.5", "less likely"),
        ):
            shown = refits["as_likely"] == as_likely
            if not shown.any():
                continue
            left.errorbar(
                refits["mean_reward"][shown],
                refits["difference"][shown],
                yerr=refits["standard_error"][shown],
                fmt=marker,
                color=colour,
                label=label,
            )
        left.set(
            xlabel="mean reward of the refit",
            ylabel="held-out log-likelihood\nagainst the best (nats per response)",
            title="Refits from different starts",
            xlim=(0, 1),
        )
        # Below, as on the right: error bars may reach into any corner.
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
        IdentificationDisplay.from_report(self, ax=right)
        return np.array([left, right])


def _wrapped(lines, width=100):
    for line in lines:
        indent = " " * 22
        yield from textwrap.wrap(line, width, subsequent_indent=indent) or [""]
