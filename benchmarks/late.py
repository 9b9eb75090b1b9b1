"""Late actions: the delay in the likelihood beside windows, on a log that is read every night.

    python -m benchmarks.late [--seeds 5] [--only NAME ...]

A seed is a new log and a new initialisation: 6,000 training rows, shown at random times of the last
days, and 4,000 test rows, of 8 standard normal columns; P(z = 1) = sigmoid(3 g), g a random
one-layer tanh network of 8 units. Copies come at once (propensity 0.5). Shares have the propensity
sigmoid(1.5 s), s a random direction of x, and come after a delay. Every row was looked at, and the
estimator is told so.

"R2" is that of the reward on the test rows against z. "rate" is the mean predicted probability of
a share on test rows, divided by the share of those who will share, however late. "delay" is the
mean delay that was found.
"""

import argparse
import time
import warnings

import numpy as np

from benchmarks.quality import mean_and_error
from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.metrics import reward_metrics
from implicitrm_sk.signals import Action

N_TRAIN, N_TEST, WIDTH = 6_000, 4_000, 8
#: Fewer rows than these in a window are too few to fit.
FEW = 200
#: Days that the log goes back, mean delay in days, whether the delay is log-normal.
LOGS = {
    "7 days, mean delay 0.1": (7.0, 0.1, False),
    "7 days, mean delay 1": (7.0, 1.0, False),
    "7 days, mean delay 3": (7.0, 3.0, False),
    "1 day, mean delay 1": (1.0, 1.0, False),
    "7 days, log-normal delay of mean 1": (7.0, 1.0, True),
}
LATE = ["positive", Action(delay="exponential")]
SETTINGS = {
    "shared_examination": False,
    "hidden_layer_sizes": (32,),
    "learning_rate_init": 0.003,
    "n_estimators": 2,
}


class NightlyLog:
    """Who will act, and what of it the log shows tonight."""

    def __init__(self, seed, days, mean_delay, is_lognormal):
        rng = np.random.default_rng(seed)
        n = N_TRAIN + N_TEST
        self.X = rng.normal(size=(n, WIDTH)).astype(np.float32)
        g = np.tanh(1.5 * self.X @ rng.normal(size=(WIDTH, 8)) / np.sqrt(WIDTH))
        g = g @ rng.normal(size=8)
        self.z = (rng.random(n) < 1 / (1 + np.exp(-3 * (g - g.mean()) / g.std()))).astype(int)
        direction = rng.normal(size=WIDTH)
        s = self.X @ direction / np.linalg.norm(direction)
        ready = np.column_stack([np.full(n, 0.5), 1 / (1 + np.exp(-1.5 * s))])
        self.will = (self.z[:, None] == 1) & (rng.random((n, 2)) < ready)
        self.age = rng.uniform(0.01, days, n)
        self.delay = rng.exponential(mean_delay, n)
        if is_lognormal:
            self.delay = mean_delay * np.exp(1.5 * rng.normal(size=n) - 1.5**2 / 2)

    def column(self, way):
        """Return shares as a way takes them, None if it leaves too few rows."""
        will = self.will[:, 1]
        if way == "all that will come":
            return will.astype(float)
        if way.startswith("window"):
            window = float(way.split()[1])
            within = (will & (self.delay < window)).astype(float)
            found = np.where(self.age < window, np.nan, within)
            return found if np.sum(self.age[:N_TRAIN] >= window) >= FEW else None
        return (will & (self.delay < self.age)).astype(float)


WAYS = (
    "young rows as passive",
    "window 0.5",
    "window 2",
    "window 5",
    "delay, from ages",
    "delay, from ages and times",
    "all that will come",
)


def fit_way(log, way, seed):
    """Return R2, rate and mean delay of a way to pass late actions, None where it has no rows."""
    shared = log.column(way)
    if shared is None:
        return None
    y = np.column_stack([log.will[:, 0].astype(float), shared])[:N_TRAIN]
    is_late = way.startswith("delay")
    est = ImplicitRewardEstimator(
        **SETTINGS | {"random_state": seed, "signals": LATE if is_late else None}
    )
    waits = {}
    if is_late:
        waits["age"] = log.age[:N_TRAIN]
    if way.endswith("times"):
        waits["delay"] = np.where(y[:, 1] == 1, log.delay[:N_TRAIN], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)
        est.fit(log.X[:N_TRAIN], y, **waits)
    X, z = log.X[N_TRAIN:], log.z[N_TRAIN:]
    rate = est.predict_action(X)[:, 1].mean() / log.will[N_TRAIN:, 1].mean()
    return reward_metrics(z, est.predict(X))["r2"], rate, est.mean_delay_[1]


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=LOGS, default=list(LOGS))
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    print(f"late actions, {args.seeds} seeds (mean ± standard error)\n")
    print("| log | shares are passed as | R2 | rate | delay |")
    print("|---|---|---|---|---|")
    for name in args.only:
        for way in WAYS:
            runs = [fit_way(NightlyLog(seed, *LOGS[name]), way, seed) for seed in range(args.seeds)]
            cells = ["too few rows", "", ""]
            if None not in runs:
                r2, rate, delay = np.array(runs).T
                cells = [mean_and_error(r2), mean_and_error(rate)]
                cells.append("" if np.isnan(delay).any() else mean_and_error(delay))
            print("| " + " | ".join([name, way, *cells]) + " |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
