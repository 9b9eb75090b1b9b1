"""Objectives: those of the package, and what a third party can build on the base class."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from implicitrm_sk import ImplicitRewardEstimator, _stratification
from implicitrm_sk.objectives import OBJECTIVES, Batch, Naive, Objective, Stratified, any_action

NAN = np.nan
M, N = 3, 12


def batch(K, seed=0, rate=None):
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, size=(N, K)).astype(float)
    if K > 1:
        actions[rng.random((N, K)) < 0.2] = NAN
    f, u = rng.normal(size=(M, N)), rng.normal(size=(M, N, K))
    return (*map(torch.as_tensor, (f, u)), Batch(torch.as_tensor(actions), rate))


# Any logged action


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0], 0),
        ([1], 1),
        ([NAN], NAN),
        ([0, 0], 0),
        ([0, 1], 1),
        ([1, 1], 1),
        ([0, NAN], 0),
        ([NAN, 1], 1),
        ([NAN, NAN], NAN),
        ([0, NAN, 1], 1),
        ([NAN, 0, NAN], 0),
        ([NAN, NAN, NAN], NAN),
    ],
)
def test_any_action(row, expected):
    actions = np.array([row, row], dtype=float)
    before = actions.copy()
    np.testing.assert_array_equal(any_action(actions), [[expected]] * 2)
    np.testing.assert_array_equal(actions, before)


def test_any_action_of_many_rows():
    rng = np.random.default_rng(0)
    actions = rng.choice([0.0, 1.0, NAN], size=(200, 4), p=[0.4, 0.1, 0.5])
    expected = [[max(row[~np.isnan(row)], default=NAN)] for row in actions]
    np.testing.assert_array_equal(any_action(actions), expected)


# The base class


def test_base_class_has_no_loss():
    with pytest.raises(NotImplementedError):
        Objective().loss(*batch(1))
    with pytest.raises(NotImplementedError):
        Objective().validation_loss(*batch(1))


def test_defaults_of_the_base_class():
    objective = Objective()
    assert (objective.single_signal, objective.models_propensity) == (False, True)
    assert objective.models_actions
    assert not objective.swap_symmetric(1)
    reward, propensity = objective.initial_rates(np.array([0.1, 0.2]), 0.25)
    assert reward == 0.5
    assert propensity.tolist() == [0.5, 0.5]


def test_validation_loss_is_the_loss_unless_overridden():
    class Constant(Objective):
        def loss(self, reward_logit, propensity_logit, batch):
            return reward_logit * 2

    f, u, rows = batch(1)
    assert torch.equal(Constant().validation_loss(f, u, rows), f * 2)


def test_batch_is_immutable():
    rows = Batch(torch.zeros(2, 1))
    assert rows.false_action_rate is None
    with pytest.raises(AttributeError):
        rows.actions = torch.ones(2, 1)


# Those of the package


def test_names():
    assert {"stratified": Stratified, "naive": Naive}.items() <= OBJECTIVES.items()
    assert all(issubclass(objective, Objective) for objective in OBJECTIVES.values())
    assert all(objective.__doc__ for objective in OBJECTIVES.values())


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_gives_a_finite_loss_per_member_and_row(name):
    objective = OBJECTIVES[name]()
    K = 1 if objective.single_signal else 2
    f, u, rows = batch(K)
    if not objective.models_propensity:
        u = torch.full_like(u, torch.inf)
    f.requires_grad_()
    for method in (objective.loss, objective.validation_loss):
        loss = method(f, u, rows)
        assert loss.shape == (M, N)
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), f)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    half = objective.loss(f.bfloat16(), u.bfloat16(), Batch(rows.actions.float()))
    assert half.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_is_cloned_and_pickled(name):
    objective = OBJECTIVES[name]()
    for copied in (clone(objective), pickle.loads(pickle.dumps(objective))):
        assert type(copied) is type(objective)
        assert copied.get_params() == objective.get_params()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_naive_is_cross_entropy_against_the_action(dtype):
    f, _, rows = batch(1)
    u = torch.full((M, N, 1), torch.inf)
    f = f.to(dtype)
    loss = Naive().loss(f, u, rows)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    R, y = 1 / (1 + np.exp(-f.double().numpy())), rows.actions[:, 0].numpy()
    expected = -(y * np.log(R) + (1 - y) * np.log(1 - R))
    np.testing.assert_allclose(loss, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5)
    assert torch.equal(loss, Naive().validation_loss(f, u, rows))


def test_naive_is_the_likelihood_with_propensity_one():
    f, _, rows = batch(1)
    u = torch.full((M, N, 1), torch.inf, dtype=torch.float64)
    torch.testing.assert_close(
        Naive().loss(f, u, rows), -_stratification.log_likelihood(f, u, rows.actions)
    )


@pytest.mark.parametrize("rate", [None, torch.tensor([0.1, 0.0], dtype=torch.float64)])
def test_stratified_trains_on_the_risk_and_validates_on_the_likelihood(rate):
    f, u, rows = batch(2, rate=rate)
    args = (f, u, rows.actions, rate)
    assert torch.equal(Stratified().loss(f, u, rows), _stratification.stratified_risk(*args))
    assert torch.equal(
        Stratified().validation_loss(f, u, rows), -_stratification.log_likelihood(*args)
    )


def test_what_the_objectives_declare():
    assert Naive.single_signal
    assert not Naive.models_propensity
    assert Naive.models_actions
    assert not Stratified.single_signal
    assert Stratified.models_propensity
    assert Stratified.models_actions
    assert [Stratified().swap_symmetric(K) for K in (1, 2, 3)] == [True, False, False]
    assert not Naive().swap_symmetric(1)


def test_training_starts_at_the_rate_of_the_log():
    rates = np.array([0.09])
    reward, propensity = Stratified().initial_rates(rates, 0.09)
    assert reward == pytest.approx(0.3)  # neither side of the swap is preferred
    assert propensity == pytest.approx([0.3])
    reward, propensity = Stratified().initial_rates(np.array([0.04, 0.08]), 0.16)
    assert reward * propensity == pytest.approx([0.04, 0.08])
    assert Naive().initial_rates(rates, 0.09)[0] == 0.09


# A third party's objective


class Focal(Objective):
    """Weighted focal loss (Lin et al. 2017) of R against the action."""

    single_signal = True
    models_propensity = False

    def __init__(self, alpha=0.5, gamma=0.0):
        self.alpha = alpha
        self.gamma = gamma

    def loss(self, reward_logit, propensity_logit, batch):
        f, y = reward_logit.float(), batch.actions[:, 0].float()
        hit = torch.where(y == 1, f, -f)
        weight = torch.where(y == 1, self.alpha, 1 - self.alpha)
        focus = torch.sigmoid(-hit) ** self.gamma
        return -2 * weight * focus * torch.nn.functional.logsigmoid(hit)


def log(n=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)
    return X, y


def estimator(objective, **kwargs):
    options = {"n_estimators": 2, "max_epochs": 8, "early_stopping": False, "random_state": 0}
    options |= {"learning_rate_init": 0.01, "hidden_layer_sizes": (8,)}
    return ImplicitRewardEstimator(objective, **(options | kwargs))


def test_third_party_objective_fits_and_predicts():
    X, y = log()
    neutral = estimator(Focal()).fit(X, y)
    assert neutral.objective_.get_params() == {"alpha": 0.5, "gamma": 0.0}
    # alpha = 1/2, gamma = 0 is the naive objective, but for where training starts.
    naive = estimator("naive").fit(X, y)
    assert np.corrcoef(neutral.predict(X), naive.predict(X))[0, 1] > 0.99
    assert abs(neutral.predict(X) - naive.predict(X)).max() < 0.1
    # It takes other values than the default, and they matter.
    eager = estimator(Focal(alpha=0.9)).fit(X, y)
    assert eager.predict(X).mean() > neutral.predict(X).mean() + 0.1
    np.testing.assert_allclose(eager.propensity(X), 1)
    assert np.isfinite(eager.score(X, y))


def test_third_party_objective_stops_early_on_its_own_criterion():
    class WithCriterion(Focal):
        def validation_loss(self, reward_logit, propensity_logit, batch):
            return super().loss(reward_logit, propensity_logit, batch) * 0 + 7

    X, y = log()
    est = estimator(WithCriterion(), early_stopping=True, n_iter_no_change=2, max_epochs=50)
    est.fit(X, y)
    assert est.n_iter_ == 3
    assert [epoch["valid_loss"] for epoch in est.history_] == [[7, 7]] * 3


def test_parameters_of_an_objective_are_nested():
    est = estimator(Focal(alpha=0.7))
    assert est.get_params()["objective__alpha"] == 0.7
    assert "objective__alpha" not in est.get_params(deep=False)
    est.set_params(objective__alpha=0.2, objective__gamma=1.0)
    assert est.objective.get_params() == {"alpha": 0.2, "gamma": 1.0}
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        est.set_params(objective__beta=1)


def test_clone_copies_the_objective():
    est = estimator(Focal(alpha=0.7)).fit(*log())
    copied = clone(est)
    assert copied.objective is not est.objective
    assert copied.objective.get_params() == est.objective.get_params()
    copied.set_params(objective__alpha=0.1)
    assert est.objective.alpha == 0.7
    assert not hasattr(copied, "objective_")


def test_fitted_objective_is_not_the_parameter():
    """What is changed after fit takes effect in the next fit, not in the fitted model."""
    est = estimator(Focal(alpha=0.7)).fit(*log())
    est.objective.alpha = 0.1
    assert est.objective_.alpha == 0.7


def test_fit_does_not_change_the_objective():
    objective = Focal(alpha=0.7)
    before = dict(vars(objective))
    estimator(objective).fit(*log())
    assert vars(objective) == before


def test_search_over_the_parameters_of_an_objective():
    X, y = log()
    search = GridSearchCV(estimator(Focal()), {"objective__alpha": [0.05, 0.5, 0.95]}, cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"objective__alpha": 0.5}  # the likelihood is in favour of it
    assert search.best_estimator_.objective_.alpha == 0.5
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_search_over_objectives():
    X, y = log()
    objectives = [Focal(alpha=0.05), Focal(), "naive"]
    search = GridSearchCV(
        estimator("naive"), {"objective": objectives}, cv=2, error_score="raise"
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] < min(scores[1:])


def test_third_party_objective_with_two_heads():
    """A subclass of Stratified that also pulls the mean reward to a level."""

    class Anchored(Stratified):
        def __init__(self, level=0.5, strength=0.0):
            self.level = level
            self.strength = strength

        def loss(self, reward_logit, propensity_logit, batch):
            R = torch.sigmoid(reward_logit)
            penalty = (R.mean(-1, keepdim=True) - self.level).square()
            return super().loss(reward_logit, propensity_logit, batch) + self.strength * penalty

    X, y = log()
    y = np.column_stack([y, np.roll(y, 1)])
    free, same = estimator("stratified").fit(X, y), estimator(Anchored()).fit(X, y)
    np.testing.assert_array_equal(free.predict(X), same.predict(X))
    held = estimator(Anchored(level=0.95, strength=100.0)).fit(X, y)
    assert abs(held.predict(X).mean() - 0.95) < abs(free.predict(X).mean() - 0.95) / 2
