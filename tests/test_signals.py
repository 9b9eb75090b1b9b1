"""Every kind of signal: one test for all of them, and what is special about a choice."""

import itertools
import math
import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from stars import Stars

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, identification_report
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.signals import Action, Choice, Graded, Signal

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MEMBERS = 2
THUMB = {"up": 1, "down": 0}
WIDGET = {"love": 1, "like": 1, "dislike": 0, "dismiss": None, "unsure": None}
KINDS = {
    "positive": Action(),
    "negative": Action(0),
    "positive, misclicks": Action(1, 0.1),
    "negative, misclicks": Action(0, 0.1),
    "thumb": Choice(THUMB, "none"),
    "thumb, misclicks": Choice(THUMB, "none", 0.05),
    "widget": Choice(WIDGET, "silent"),
    "widget, misclicks": Choice(WIDGET, "silent", 0.05),
    "widget given a reaction": Choice(WIDGET, false_rate=0.1, given_reaction=True),
    "one side": Choice({3: 1, 2: 1, 1: None}, 0, 0.05),
    "stars": Stars(),
    "grades": Graded(),
    "grades, negative": Graded(0, (0.0, 0.2, 0.5, 1.0)),
}
SMALL = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 2,
    "learning_rate_init": 0.01,
    "max_epochs": 80,
    "random_state": 0,
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def rate_of(kinds):
    """Return the false-action rates that a measurement gets, None where all are 0."""
    own = [kind.false_rate or 0.0 if "rate" in kind.takes else 0.0 for kind in kinds]
    return torch.tensor(own, dtype=torch.float64) if any(own) else None


def all_values(n_columns, kind, missing=True):
    values = [*kind.values, *([math.nan] if missing else [])]
    return torch.tensor(list(itertools.product(values, repeat=n_columns))).double()


def logits(n_rows, n_outputs, *, same=False, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(
        (MEMBERS, 1 if same else n_rows, 1 + n_outputs), generator=generator, dtype=torch.float64
    )
    drawn = scale * drawn.expand(-1, n_rows, -1)
    return drawn[..., 0].clone().requires_grad_(), drawn[..., 1:].clone().requires_grad_()


# ---------------------------------------------------------------- all kinds


@every_kind
def test_a_kind_is_a_plain_object(kind):
    same = type(kind)(**kind.get_params())
    for other in (same, clone(kind), pickle.loads(pickle.dumps(kind)), eval(repr(kind))):
        assert other == kind and hash(other) == hash(kind) and repr(other) == repr(kind)
    assert sum(kind == other for other in KINDS.values()) == 1
    assert kind != object()
    est = clone(ImplicitRewardEstimator(signals={"a": kind}))
    assert est.signals == {"a": kind}


@every_kind
def test_probabilities_over_all_values_sum_to_one(kind):
    y = all_values(2, kind, missing=False)
    f, u = logits(len(y), 2 * kind.n_outputs, same=True)
    measurement = Measurement([kind, kind])
    total = measurement.log_likelihood(f, u, y, rate_of([kind, kind])).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@every_kind
def test_closed_forms_are_what_follows_from_log_prob(kind):
    e, y = rate_of([kind]), all_values(2, kind)
    _, u = logits(len(y), 2 * kind.n_outputs)
    side = {"rate": None if e is None else e.expand(2)} if "rate" in kind.takes else {}
    value, derivative = kind.terms(u, y, True, **side)
    expected, autograd = Signal.terms(kind, u, y, True)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    for mine, theirs, possible in zip(derivative, autograd, torch.isfinite(value), strict=True):
        mine, theirs = (torch.zeros_like(u) if x is None else x for x in (mine, theirs))
        torch.testing.assert_close(mine[possible], theirs[possible], rtol=0, atol=1e-12)
    if not getattr(kind, "given_reaction", False):
        shown, which = kind.log_shown(u, **side)
        expected, of = Signal.log_shown(kind, u)
        torch.testing.assert_close(shown.exp(), expected.exp(), rtol=0, atol=1e-12)
        assert_array_equal(which, of)
    if kind.shows == (0, 1):
        passive = kind.log_passive(u, y, **side).exp()
        expected = Signal.log_passive(kind, u, y).exp()
        torch.testing.assert_close(passive, expected, rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("scale", [2.0, 30.0])
def test_the_gradient_is_that_of_autograd(kind, scale):
    """Beside an action in another column; in the tails both are finite."""
    kinds = [kind, Action(), kind]
    e, y = rate_of(kinds), all_values(2, kind)
    acted = torch.arange(len(y)).remainder(2).double()
    y = torch.column_stack([y[:, 0], acted, y[:, 1]])
    measurement = Measurement(kinds)
    f, u = logits(len(y), measurement.n_outputs, scale=scale)
    likelihood = measurement.log_likelihood(f, u, y, e)
    possible = torch.isfinite(likelihood).all(0)
    y, f, u = y[possible], *(x[:, possible].detach().requires_grad_() for x in (f, u))
    ours = torch.autograd.grad(measurement.nll(f, u, y, e).sum(), (f, u))
    autograd = torch.autograd.grad(-measurement.log_likelihood(f, u, y, e).sum(), (f, u))
    for mine, theirs in zip(ours, autograd, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    single = measurement.nll(f.float(), u.float(), y.float(), None if e is None else e.float())
    for part in torch.autograd.grad(single.sum(), (f, u)):
        assert torch.isfinite(part).all()


@every_kind
def test_passive_and_active_are_all_there_is(kind):
    kinds = [kind, Action(0), kind]
    e, y = rate_of(kinds), all_values(2, kind)
    y = torch.column_stack([y[:, 0], torch.full((len(y),), math.nan), y[:, 1]])
    measurement = Measurement(kinds)
    f, u = logits(len(y), measurement.n_outputs)
    joint = measurement.log_joint(f, u, y, e)
    possible = torch.isfinite(joint.logsumexp(0)).all(0)
    groups = measurement.posterior(f, u, y, e)[:, possible]
    q = joint.softmax(0)[:, :, possible]
    torch.testing.assert_close(groups[..., 0] + groups[..., 2], q[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(groups[..., 1] + groups[..., 3], q[0], rtol=0, atol=1e-12)
    # Whoever has shown a preference was active in it.
    seen = kind.seen(y[possible][:, 0])
    for c, passive in ((1, 2), (0, 3)):
        assert (groups[:, seen[c], passive] == 0).all()


@every_kind
def test_what_can_be_shown_is_what_is_seen(kind):
    """P(shown | r*) summed over outcomes is P(y shows it | r*) summed over y."""
    f, u = logits(1, kind.n_outputs)
    measurement, e = Measurement([kind]), rate_of([kind])
    y = all_values(1, kind, missing=False)
    side = {"rate": e} if "rate" in kind.takes else {}
    given = kind.terms(u.expand(-1, len(y), -1), y, **side)[0].exp()
    log_prob, target, bounds = measurement.log_acts(u, e)
    assert target.tolist() == list(kind.shows) and bounds.tolist() == [kind.bounds] * len(target)
    for position, c in enumerate(kind.shows):
        expected = (given * kind.seen(y[:, 0])[c]).sum(-1)
        torch.testing.assert_close(log_prob[..., 0, position].exp(), expected)
    assert_array_equal(kind.log_shown(u, **side)[1].unique(), sorted(kind.shows))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=name, marks=() if name in ("negative", "thumb") else pytest.mark.slow)
        for name, kind in KINDS.items()
    ],
)
def test_sample_then_fit_recovers_the_truth(kind):
    """Beside three actions that users are equally ready for whatever the response."""
    rng = np.random.default_rng(0)
    n = 6000
    X = rng.normal(size=(n, 3))
    R = 1 / (1 + np.exp(-2 * X[:, 0]))
    preferred = rng.random(n) < R
    u = -0.5 + np.column_stack([0.8 * X[:, 1 + j % 2] - 0.3 * j for j in range(kind.n_outputs)])
    if kind.n_shared:
        u[:, -kind.n_shared :] = 1.85  # a shift of 2, cut points 2 apart
    y = pd.DataFrame({"kind": kind.sample(u, preferred, rng)[:, 0]})
    for name, target in (("copied", 1), ("shared", 1), ("retried", 0)):
        y[name] = Action(target).sample(np.zeros((n, 1)), preferred, rng)[:, 0].astype(int)
    signals = {"kind": kind, "copied": "positive", "shared": "positive", "retried": "negative"}
    est = ImplicitRewardEstimator(signals=signals, **SMALL).fit(X[:5000], y[:5000])
    test = slice(5000, None)
    reward = est.predict(X[test])
    assert np.corrcoef(reward, R[test])[0, 1] > 0.97
    for part in np.array_split(np.argsort(reward), 4):  # calibrated in each quarter
        assert reward[part].mean() == pytest.approx(R[test][part].mean(), abs=0.07)
    logit = torch.as_tensor(u[test])[None]
    log_prob, target = Measurement([kind]).log_shown(logit, rate_of([kind]))
    truth = torch.where(target == 1, log_prob[1], log_prob[0])[0].exp().numpy()
    found = est.propensity(X[test])[:, : truth.shape[1]]
    assert np.abs(found - truth).mean() < 0.06
    assert found.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=0.05)
    assert np.isfinite(est.score(X[test], y[test]))
    assert_allclose(est.predict_proba(X[test], y[test]).sum(axis=1), 1, rtol=1e-5)


# ---------------------------------------------------------------- a kind of one's own


def test_a_kind_from_outside_the_package_is_short_and_documented():
    source = (Path(__file__).parent / "stars.py").read_text()
    code = source[source.index("import torch") :]
    assert len(code.splitlines()) <= 60
    page = (Path(__file__).parents[1] / "docs" / "own_signal.md").read_text()
    assert code.strip() in page


@pytest.fixture(scope="module")
def rated():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    R = 1 / (1 + np.exp(-2 * X[:, 0]))
    return X, Stars().sample(X[:, 1:2] - 0.5, rng.random(3000) < R, rng)[:, 0], R


def test_stars_alone(rated):
    X, y, R = rated
    est = ImplicitRewardEstimator(signals=[Stars()], **SMALL).fit(X, y)
    assert np.corrcoef(est.predict(X), R)[0, 1] > 0.95
    assert str(est.identification_) == f"identified (assuming {Stars.assumption})"
    assert est.predict_action(X).shape == est.propensity(X).shape == (3000, 4)  # 1, 2, 4, 5 stars
    best = est.predict_proba(X[:1], [5.0])[0]
    assert best[0] > est.predict_proba(X[:1])[0][0]
    first = est.score(X, y)
    est.partial_fit(X, y)
    assert np.isfinite(est.score(X, y)) and np.isfinite(first)


@pytest.mark.slow
def test_stars_in_a_report_and_in_searches(rated):
    X, y, _ = rated
    small = SMALL | {"max_epochs": 5, "early_stopping": False, "n_estimators": 1}
    est = ImplicitRewardEstimator(signals=[Stars()], **small)
    report = identification_report(est, X, y, n_starts=2)
    assert report.level == "identified" and report.assumptions == (Stars.assumption,)
    assert_array_equal(report.bounds(X[:2]), [[0, 1], [0, 1]])  # stars of either kind are possible
    grid = {"learning_rate_init": [0.01, 1e-5]}
    for search in (GridSearchCV(est, grid, cv=2), BatchedSearchCV(est, grid, cv=2)):
        assert search.fit(X, y).best_params_ == {"learning_rate_init": 0.01}
    separations = {"signals": [[Stars(2.0)], [Stars(0.1)]]}
    assert GridSearchCV(est, separations, cv=2).fit(X, y).best_params_["signals"] == [Stars(2.0)]


def test_a_value_that_a_kind_does_not_have_is_named(rated):
    X, y, _ = rated
    message = "y is 6 in row 2; expected one of 0, 1, 2, 3, 4, 5 for Stars(separation=2.0), or NaN"
    with pytest.raises(ValueError, match=re.escape(message)):
        ImplicitRewardEstimator(signals=[Stars()]).fit(X[:3], [1, 2, 6])


# ---------------------------------------------------------------- a choice


PAIR = torch.tensor([[0, 0], [1, 0], [0, 1], [math.nan, math.nan]]).double()
CODES = torch.tensor([[0], [1], [2], [math.nan]]).double()


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_a_thumb_is_two_actions_that_exclude_each_other(scale):
    f, u = logits(4, 2, scale=scale)
    two, one = Measurement([Action(1), Action(0)]), Measurement([KINDS["thumb"]])
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(one.log_joint(f, u, CODES), two.log_joint(f, u, PAIR), **close)
    torch.testing.assert_close(one.posterior(f, u, CODES), two.posterior(f, u, PAIR), **close)
    torch.testing.assert_close(one.log_shown(u)[0], two.log_shown(u)[0], **close)
    for mine, theirs in zip(
        *(
            torch.autograd.grad(m.nll(f, u, y).sum(), (f, u))
            for m, y in ((one, CODES), (two, PAIR))
        ),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, **close)


def thumbs(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    preferred = rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))
    return X, KINDS["thumb"].sample(X[:, 1:] - 0.5, preferred, rng)[:, 0]


def test_a_fit_to_thumbs_is_the_fit_to_two_actions():
    X, thumb = thumbs()
    y = np.column_stack([thumb == "up", thumb == "down"])
    settings = SMALL | {"dtype": "float64", "max_epochs": 10, "early_stopping": False}
    two = ImplicitRewardEstimator(signals=["positive", "negative"], **settings).fit(X, y)
    one = ImplicitRewardEstimator(signals=[KINDS["thumb"]], **settings).fit(X, thumb)
    assert_allclose(one.predict(X), two.predict(X), atol=1e-6)
    assert_allclose(one.predict_action(X), two.predict_action(X), atol=1e-6)
    assert_allclose(one.predict_proba(X, thumb), two.predict_proba(X, y), atol=1e-6)
    assert one.score(X, thumb) == pytest.approx(two.score(X, y), abs=1e-6)
    assert one.identification_.level == two.identification_.level == "bounded"
    assert one.evidence_.n_several_signals == 0  # one widget
    assert replace(one.evidence_, n_several_signals=len(X)) == two.evidence_
    settings = {"n_starts": 2}
    bounds = [
        identification_report(est, X, actions, **settings).bounds(X)
        for est, actions in ((one, thumb), (two, y))
    ]
    assert_allclose(*bounds, atol=1e-6)


def codes(y, kind=KINDS["thumb"]):
    return kind.encode(y, "y")


@pytest.mark.parametrize(
    "missing", [None, math.nan, np.nan, pd.NA, pd.NaT], ids=["None", "nan", "np", "NA", "NaT"]
)
def test_labels_in_any_form_and_missing_ones(missing):
    y = ["up", "none", missing, "down"]
    expected = [1, 0, math.nan, 2]
    assert_array_equal(codes(y), expected)
    assert_array_equal(codes(np.array(y, dtype=object)), expected)
    assert_array_equal(codes(pd.Series(y, dtype=object)), expected)
    assert_array_equal(codes(pd.Series(pd.Categorical(["up", "none", None, "down"]))), expected)
    assert_array_equal(codes(pd.Series(y[:2]).astype("string")), expected[:2])


def test_labels_that_are_numbers():
    kind = Choice({1: 1, -1: 0}, silent=0)
    for column in (
        [1, 0, -1],
        np.array([1.0, 0, -1]),
        np.array([1, 0, -1]),
        torch.tensor([1, 0, -1]),
    ):
        assert_array_equal(codes(column, kind), [1, 0, 2])
    X, thumb = thumbs()
    numbers = np.select([thumb == "up", thumb == "down"], [1.0, -1.0], 0.0)
    numbers[:5], thumb[:5] = math.nan, math.nan
    small = SMALL | {"max_epochs": 2, "early_stopping": False}
    of_labels = ImplicitRewardEstimator(signals=[KINDS["thumb"]], **small).fit(X, thumb)
    of_numbers = ImplicitRewardEstimator(signals=[kind], **small).fit(X, numbers)
    assert_array_equal(of_labels.predict(X), of_numbers.predict(X))


@pytest.mark.parametrize("table", ["frame", "array", "list"])
def test_labels_beside_actions_in_every_method(table):
    X, thumb = thumbs()
    copied = (X[:, 0] > np.random.default_rng(1).normal(size=2000)).astype(int)
    copied[thumb == "down"] = 0
    y = {
        "frame": pd.DataFrame({"thumb": thumb, "copied": copied}),
        "array": np.column_stack([thumb, copied.astype(object)]),
        "list": [list(pair) for pair in zip(thumb, copied, strict=True)],
    }[table]
    kinds = [KINDS["thumb"], Action(1, 0.1)]
    signals = dict(zip(("thumb", "copied"), kinds, strict=True)) if table == "frame" else kinds
    small = SMALL | {"max_epochs": 2, "early_stopping": False}
    est = ImplicitRewardEstimator(signals=signals, **small).fit(X, y)
    assert np.isfinite(est.score(X, y))
    assert est.predict_proba(X, y).shape == (2000, 4)
    assert est.predict_action(X).shape == (2000, 3)
    assert est.partial_fit(X, y).n_signals_ == 2
    assert_array_equal(est.false_action_rate_, [0, 0.1])


def test_an_unknown_label_is_named_with_those_known():
    X, thumb = thumbs(30)
    thumb[[4, 7]] = "upp"
    message = "column 'thumb' of y is 'upp' in row 4; expected one of 'up', 'down', 'none', or NaN"
    y = pd.DataFrame({"thumb": thumb, "copied": 0})
    est = ImplicitRewardEstimator(signals={"thumb": KINDS["thumb"], "copied": "positive"})
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(X, y)
    with pytest.raises(ValueError, match=re.escape("y is ['up'] in row 0; expected one of")):
        codes(np.array([["up"], None], dtype=object))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["up", "down"], "none"), "outcomes of Choice is ['up', 'down']; expected a dict from"),
        (({"up": 2}, "none"), "outcomes of Choice is {'up': 2}; expected a dict from"),
        (({"skip": None}, "none"), "outcomes of Choice is {'skip': None}; expected a dict from"),
        ((THUMB,), "silent of Choice(outcomes={'up': 1, 'down': 0}"),
        ((THUMB, "up"), "silent='up' of Choice is an outcome too; expected a label of its own"),
        ((THUMB, "none", 0.5), "false_rate of Choice must lie in [0, 0.5), got 0.5"),
        (({"up": 1}, "none", 0.0, True), "expected some outcomes that show 1 and some that show 0"),
    ],
)
def test_bad_arguments_of_a_choice(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        codes(["up"], Choice(*arguments))


def test_given_a_reaction_silent_rows_drop_out_and_only_the_order_is_identified():
    X, thumb = thumbs(4000)
    kind = Choice(THUMB, silent="none", given_reaction=True)
    est = ImplicitRewardEstimator(signals=[kind], **SMALL).fit(X, thumb)
    found = est.identification_
    assert str(found) == (
        "ranking only (assuming readiness to show either preference in a constant ratio)"
    )
    reacted = thumb != "none"
    assert est.score(X, thumb) == pytest.approx(est.score(X[reacted], thumb[reacted]))
    report = identification_report(est, X, thumb, n_starts=2)
    assert report.level == "ranking only"
    assert_array_equal(report.bounds(X[:1]), [[0, 1]])
    # Other signals are about all responses: they do not turn the order into a level.
    actions = np.random.default_rng(0).integers(0, 2, size=(4000, 2))
    y = np.column_stack([thumb, actions.astype(object)])
    small = SMALL | {"max_epochs": 1, "early_stopping": False, "shared_examination": False}
    signals = [kind, Action(1, 0.5), Action(1, 0.5)]
    several = ImplicitRewardEstimator(signals=signals, **small).fit(X, y)
    assert several.identification_.level == "ranking only"
    assert len(several.identification_.assumptions) == 3
    rate = ImplicitRewardEstimator(signals=[kind], preference_rate=0.5, **small).fit(X, thumb)
    assert rate.identification_.level == "identified"


def test_a_thumb_that_proves_contradicts_an_action():
    X, thumb = thumbs(40)
    thumb[:] = "none"
    thumb[3] = "down"
    y = pd.DataFrame({"thumb": thumb, "copied": np.arange(40) == 3})
    signals = {"thumb": KINDS["thumb"], "copied": "positive"}
    est = ImplicitRewardEstimator(signals=signals)
    for take in (est.fit, est.partial_fit, partial(identification_report, est)):
        with pytest.raises(
            ValueError, match="The first is row 3: signal 'copied' .* 'thumb'"
        ) as error:
            take(X, y)
        both = "false_action_rate (a number or 'estimate') and false_rate of the Choice (a number)."
        assert str(error.value).endswith(both)


def test_a_widget_that_all_users_answer():
    """No row is silent, and no warning says that the column is constant."""
    X, _ = thumbs(400)
    answer = np.where(X[:, 0] > 0, "yes", "no")
    kind = Choice({"yes": 1, "no": 0}, silent="closed")
    est = ImplicitRewardEstimator(signals=[kind], **SMALL | {"max_epochs": 200}).fit(X, answer)
    assert np.corrcoef(est.predict(X), X[:, 0] > 0)[0, 1] > 0.8


def test_a_side_that_nobody_chose_is_named():
    X, thumb = thumbs(400)
    thumb[thumb == "down"] = "none"
    message = "signal 'thumb' of y can show that a response is not preferred, and none of its rows"
    with pytest.warns(UserWarning, match=message):
        ImplicitRewardEstimator(
            signals={"thumb": KINDS["thumb"]}, **SMALL | {"max_epochs": 1, "early_stopping": False}
        ).fit(X, pd.DataFrame({"thumb": thumb}))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"exposures": np.full(40, 2)}, {}, "exposures is not available for the signal Choice"),
        ({"propensity": np.full(40, 0.5)}, {}, "propensity is given for signal 0, which is Choice"),
        (
            {},
            {"shared_propensity": True, "signals": [Choice({**THUMB, "x": None}, "none")]},
            "shared_propensity is not available for the signal Choice",
        ),
    ],
)
def test_what_a_choice_cannot_be_combined_with(arguments, settings, message):
    X, thumb = thumbs(40)
    est = ImplicitRewardEstimator(signals=[KINDS["thumb"]]).set_params(**settings)
    with pytest.raises(ValueError, match=message):
        est.fit(X, thumb, **arguments)


def test_other_objectives_take_the_side_that_they_use():
    X, thumb = thumbs()
    small = SMALL | {"max_epochs": 10}
    signals = {"thumb": KINDS["thumb"]}
    y = pd.DataFrame({"thumb": thumb})
    with pytest.warns(UserWarning, match="the negative outcomes of 'thumb' of y are ignored"):
        naive = ImplicitRewardEstimator("naive", signals=signals, **small).fit(X, y)
    up = (thumb == "up").astype(int)
    assert_array_equal(
        naive.predict(X), ImplicitRewardEstimator("naive", **small).fit(X, up).predict(X)
    )
    pair = np.column_stack([up, thumb == "down"])
    classifier = ImplicitRewardEstimator("up-down", signals=signals, **small).fit(X, y)
    same = ImplicitRewardEstimator("up-down", signals=["positive", "negative"], **small)
    assert_allclose(classifier.predict(X), same.fit(X, pair).predict(X), atol=1e-6)


@pytest.mark.slow
def test_estimated_rates_are_those_of_actions():
    X, thumb = thumbs(3000)
    rng = np.random.default_rng(1)
    preferred = rng.random(3000) < 1 / (1 + np.exp(-2 * X[:, 0]))
    actions = Action(1, 0.05).sample(np.zeros((3000, 3)), preferred, rng)
    thumb = KINDS["thumb, misclicks"].sample(X[:, 1:] - 0.5, preferred, rng)
    y = np.column_stack([thumb, actions.astype(object)])
    signals = [KINDS["thumb, misclicks"], "positive", "positive", Action(1, 0.05)]
    small = SMALL | {"max_epochs": 15}
    est = ImplicitRewardEstimator(signals=signals, false_action_rate="estimate", **small).fit(X, y)
    assert_array_equal(est.false_action_rate_[[0, 3]], 0.05)
    assert_allclose(est.false_action_rate_[1:3], 0.05, atol=0.03)


def test_a_kind_without_values_says_what_it_needs():
    with pytest.raises(NotImplementedError):
        Signal().log_prob(None, None, 1)
    with pytest.raises(NotImplementedError):
        Signal().seen(None)
