"""The logs of `benchmarks.verdict`: kinds that satisfy the model, and kinds that break it.

The reward is sigmoid(slope g + shift), g a random one-layer tanh network of the columns, with 8
units, standardised. The logit of a propensity is a constant plus a random direction of the columns.
"Sound" logs satisfy the model, and `fit` is told what is true of them. "Broken" ones are made
alike and `fit` is told the same, but one assumption does not hold. The docstring of a kind is its
description in the tables.
"""

import numpy as np

SOUND, BROKEN = {}, {}
#: The preferences that actions show.
UP_UP_DOWN, TWO_OF_EACH = (1, 1, 0), (1, 1, 0, 0)


def sound(make):
    """Add a kind of log that satisfies the model."""
    SOUND[make.__name__] = make
    return make


def broken(make):
    """Add a kind of log that breaks an assumption."""
    BROKEN[make.__name__] = make
    return make


def sigmoid(u):
    """Return the logistic function."""
    return 1 / (1 + np.exp(-u))


def standard(values):
    """Return columns of mean 0 and standard deviation 1, constant ones as 0."""
    return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)


def draw_features(rng, n, width, look):
    """Return normal, heavy-tailed, one-hot or low-rank columns."""
    if look == "heavy":
        return rng.standard_t(3, size=(n, width))
    if look == "one-hot":  # two fields of equally many values
        return np.hstack([np.eye(width // 2)[rng.integers(width // 2, size=n)] for _ in "12"])
    noise = rng.normal(size=(n, width))
    if look == "low-rank":
        return rng.normal(size=(n, 5)) @ rng.normal(size=(5, width)) + 0.2 * noise
    return noise


class Log:
    """A simulated log and what `fit` is told of it."""

    def __init__(self, rng, n, width=16, look="normal", slope=2.0, shift=0.0, X=None):
        self.rng, self.n = rng, n
        self.X = draw_features(rng, n, width, look) if X is None else X
        self.columns = standard(self.X)
        self.width = self.X.shape[1]
        hidden = rng.normal(size=(self.width, 8)) / np.sqrt(self.width)
        g = np.tanh(1.5 * self.columns @ hidden) @ rng.normal(size=8)
        self.logit = slope * standard(g) + shift
        self.prefer(self.logit)
        self.settings = {"shared_examination": False}
        self.given = {}

    def prefer(self, logit):
        """Draw the preference of each row anew."""
        self.reward = sigmoid(logit)
        self.z = self.rng.random(self.n) < self.reward

    def ready(self, base, slope=1.0):
        """Return the logits of a propensity that depends on a random direction."""
        return base + slope * standard(self.columns @ self.rng.normal(size=self.width))

    def act(self, logits, shows=1, false=0.0):
        """Return one action as 0 and 1, with a false-action rate."""
        p = np.where(self.z == shows, false + (1 - false) * sigmoid(logits), false)
        return (self.rng.random(self.n) < p).astype(float)

    def acts(self, *bases, shows=1, false=0.0, shift=0.0, slope=1.0):
        """Return actions, a column for each base logit; `shift` is added to the logits."""
        shift = np.broadcast_to(shift, (self.n, len(bases))).T
        shows, false = (np.broadcast_to(value, len(bases)) for value in (shows, false))
        each = zip(bases, shift, shows, false, strict=True)
        return np.column_stack([self.act(self.ready(b, slope) + s, k, e) for b, s, k, e in each])

    def some(self, share):
        """Return a random mask of rows, as a column; `share` is a number or a column."""
        return self.rng.random((self.n, 1)) < share

    def of_user(self, values):
        """Return values of users by row, as a column."""
        return values[self.given["user_id"]][:, None]

    def tell(self, y, shows=None, **settings):
        """Set the actions of the log and the settings of the estimator."""
        self.y = y
        if shows is not None:
            settings["signals"] = ["positive" if show else "negative" for show in shows]
        self.settings |= settings
        return self

    def say_nothing_of_looking(self):
        """Leave out that every row was looked at, where the docs do so too."""
        del self.settings["shared_examination"]
        return self


# What sound and broken logs share.
def crowd(rng, n_users, low, high, **look):
    """Return a log of users of `low` to `high` rows."""
    user = np.repeat(np.arange(n_users), rng.integers(low, high + 1, n_users))
    log = Log(rng, len(user), **look)
    log.given["user_id"] = user
    return log


def four_actions(log, looked):
    """Finish a log of two actions of each polarity, with a model of looking."""
    y = log.acts(-0.3, -0.8, -0.2, -0.7, shows=TWO_OF_EACH) * looked
    return log.tell(y, TWO_OF_EACH, shared_examination=True)


def one_with_labels(log, asked, label=None):
    """Finish a log of one action with labels of the rows that were asked."""
    log.tell(log.acts(-0.5))
    label = np.where(log.y.ravel() == 1, 1.0, log.z if label is None else label)
    log.given["labels"] = np.where(asked.ravel(), label, np.nan)
    return log.say_nothing_of_looking()


def showings(rng, own_preference=False):
    """Return a log of one action, 1,200 responses shown three times."""
    response = np.repeat(np.arange(1200), 3)
    log = Log(rng, 3600, X=draw_features(rng, 1200, 12, "low-rank")[response])
    if not own_preference:
        log.z = log.z[::3][response]
    log.given["response_id"] = response
    return log.tell(log.acts(-0.4), false_action_rate=0.0).say_nothing_of_looking()


def votes(rng):
    """Return a log of counts of yes and no, 2,000 responses shown 4 to 30 times."""
    log = Log(rng, 2000, 24, "low-rank")
    shown, counts = rng.integers(4, 31, size=log.n), []
    for shows, base, false in ((1, -0.8, 0.03), (0, -1.2, 0.02)):
        p = false + (1 - false) * sigmoid(log.ready(base, 0.4))
        counts.append(rng.binomial(shown, np.where(log.z == shows, p, false)))
    log.given["exposures"] = shown
    return log.tell(np.column_stack(counts).astype(float), (1, 0)).say_nothing_of_looking()


def in_contexts(rng, rate_error=0.0, leak=0.0):
    """Return a log of one action whose propensity depends on three context columns only."""
    log = Log(rng, 5000, 12)
    context = rng.normal(size=(log.n, 3))
    context[:, 0] += leak * log.z
    y = log.act(0.3 + 2.0 * standard(context @ rng.normal(size=3)))
    log.X = np.hstack([log.X, context])
    rate = round(float(log.reward.mean()) + rate_error, 2)
    log.tell(y, reward_features=slice(12), preference_rate=rate)
    return log.say_nothing_of_looking()


# Sound logs.
@sound
def two_positive(rng):
    """Copy and share, 16 normal columns."""
    log = Log(rng, 4000)
    return log.tell(log.acts(-0.3, -0.8))


@sound
def three_rare(rng):
    """Three actions on about a tenth of what is liked, which is 35 %; 32 low-rank columns."""
    log = Log(rng, 8000, 32, "low-rank", shift=-0.8)
    return log.tell(log.acts(-2.0, -2.3, -2.5, slope=0.7))


@sound
def copy_share_regenerate(rng):
    """Two positive actions and a negative one, 12 heavy-tailed columns, 70 % liked."""
    log = Log(rng, 3000, 12, "heavy", shift=1.3)
    return log.tell(log.acts(-0.5, -1.0, 0.0, shows=UP_UP_DOWN), UP_UP_DOWN)


@sound
def half_looked_at(rng):
    """Two actions of each polarity; half of the rows looked at, by x, which is modelled."""
    log = Log(rng, 7000, 8)
    return four_actions(log, log.some(sigmoid(log.ready(0.0, 1.5))[:, None]))


@sound
def random_labels(rng):
    """One action, labels of a random tenth of the rows, 20 one-hot columns."""
    log = Log(rng, 3000, 20, "one-hot")
    return one_with_labels(log, log.some(0.1))


@sound
def asked_labels(rng):
    """One action, labels asked for on silent rows, the more often the larger a column."""
    log = Log(rng, 3000, 8)
    one_with_labels(log, log.some(0.2 * sigmoid(log.columns[:, :1])))
    log.given["labels"][log.y.ravel() == 1] = np.nan
    return log.tell(log.y, label_mechanism="asked")


@sound
def misclicks_stated(rng):
    """Three actions, 3 % of false ones, stated, 16 heavy-tailed columns."""
    log = Log(rng, 5000, 16, "heavy", shift=0.8)
    return log.tell(log.acts(-0.4, -0.8, -1.2, false=0.03), false_action_rate=0.03)


@sound
def misclicks_estimated(rng):
    """Three actions; 8, 5 and 3 % of false ones, estimated."""
    log = Log(rng, 6000, 10)
    y = log.acts(-0.2, -0.5, -0.9, false=(0.08, 0.05, 0.03))
    return log.tell(y, false_action_rate="estimate")


@sound
def users_of_one_action(rng):
    """One action, 300 users of 15 to 35 rows, activity of sd 2.2."""
    log = crowd(rng, 300, 15, 35, width=8)
    return log.tell(log.acts(-0.5, shift=log.of_user(2.2 * rng.normal(size=300))))


@sound
def users_of_two_actions(rng):
    """Two actions, 80 users of 5 to 100 rows, activity of sd 1.5 and 1.2, low-rank columns."""
    log = crowd(rng, 80, 5, 100, look="low-rank")
    return log.tell(log.acts(-0.5, -1.0, shift=log.of_user(rng.normal(size=80)) * [1.5, 1.2]))


@sound
def three_showings(rng):
    """One action without false ones, 1,200 responses shown three times."""
    return showings(rng)


@sound
def yes_no_counts(rng):
    """Counts of yes and no over 4 to 30 exposures, rates of false ones estimated."""
    return votes(rng)


@sound
def experiment(rng):
    """One action, its propensity known from an experiment on a quarter of the rows."""
    log = Log(rng, 4000, 12)
    logits = log.ready(-0.2)
    log.given["propensity"] = np.where(log.some(0.25), sigmoid(logits)[:, None], np.nan)
    return log.tell(log.act(logits)[:, None]).say_nothing_of_looking()


@sound
def context_and_rate(rng):
    """One action, propensity by context columns only, preference rate known."""
    return in_contexts(rng)


@sound
def same_answers(rng):
    """Two actions, 400 different answers with 10 rows of equal X each."""
    log = Log(rng, 4000, X=np.repeat(draw_features(rng, 400, 16, "low-rank"), 10, axis=0))
    return log.tell(log.acts(-0.5, -0.2))


@sound
def chatty_prompts(rng):
    """Two actions of one propensity, which follows the reward; 700 prompts of 4 rows as groups."""
    prompt = np.repeat(np.arange(700), 4)
    X = np.hstack([rng.normal(size=(700, 8))[prompt], rng.normal(size=(2800, 8))])
    log = Log(rng, 2800, X=X)
    log.given["groups"] = prompt
    shared = log.ready(-0.5)[:, None] + 0.3 * log.logit[:, None]
    return log.tell(log.acts(0.2, -0.4, shift=shared, slope=0.0))


@sound
def partly_logged(rng):
    """Three actions, each logged in 60 % of the rows, depending on x."""
    log = Log(rng, 5000, 12, shift=-1.0)
    logged = [log.some(sigmoid(log.ready(0.5))[:, None]) for _ in range(3)]
    return log.tell(np.where(np.hstack(logged), log.acts(-0.3, -0.6, -0.9), np.nan))


# Broken logs.
@broken
def bots(rng):
    """4 of 100 users are programs that do everything on 97 % of their rows; user ids given."""
    log = crowd(rng, 100, 10, 70)
    y = log.acts(-0.5, -1.0, shift=log.of_user(1.3 * rng.normal(size=100)))
    return log.tell(np.where(log.of_user(np.arange(100) < 4) & log.some(0.97), 1.0, y))


@broken
def testers(rng):
    """In 6 % of the rows a tester presses each of two buttons half of the time."""
    log = Log(rng, 6000, shift=-0.7)
    pressed = rng.random((log.n, 2)) < 0.5
    return log.tell(np.where(log.some(0.06), pressed, log.acts(-0.8, -1.3)))


@broken
def doubled_showings(rng):
    """Of 60 % of the responses a join repeats the first of three showings as the second."""
    log = showings(rng)
    first = np.flatnonzero(rng.random(1200) < 0.6) * 3
    log.y[first + 1] = log.y[first]
    return log


@broken
def readers_disagree(rng):
    """The three readers of a response have a preference each."""
    return showings(rng, own_preference=True)


@broken
def logged_from_release(rng):
    """Copies are 0 before a release, which also moves the share button to the front."""
    log = Log(rng, 4000)
    after = log.some(0.5)
    return log.tell(np.hstack([log.acts(0.3) * after, log.acts(-1.7, shift=2.2 * after)]))


@broken
def mobile_only(rng):
    """Two of three actions are logged on mobile only, half of the rows, and 0 elsewhere."""
    log = Log(rng, 4000)
    mobile = np.hstack([np.repeat(log.some(0.5), 2, axis=1), np.ones((log.n, 1))])
    return log.tell(log.acts(0.0, -0.4, -0.8) * mobile)


@broken
def wrong_polarity(rng):
    """The third of three actions is negative, passed as positive; 1 % of false ones stated."""
    log = Log(rng, 4000)
    y = log.acts(-0.4, -0.8, -0.6, shows=UP_UP_DOWN, false=0.01)
    return log.tell(y, false_action_rate=0.01)


@broken
def blind_users(rng):
    """A third of the users never look; two actions, user ids given."""
    log = crowd(rng, 120, 10, 60)
    y = log.acts(-0.3, -0.8, shift=log.of_user(rng.normal(size=120)))
    return log.tell(y * log.of_user(rng.random(120) < 0.67))


@broken
def position(rng):
    """Of six positions each is looked at less than the one above; two up, one down."""
    log = Log(rng, 6000, shift=0.7)
    looked = log.some(0.8 ** rng.integers(6, size=(log.n, 1)))
    return log.tell(log.acts(-0.3, -0.8, -0.3, shows=UP_UP_DOWN) * looked, UP_UP_DOWN)


@broken
def looks_at_liked(rng):
    """Looking is modelled, but users look at 80 % of what they like and 40 % of the rest."""
    log = Log(rng, 6000, 8)
    return four_actions(log, log.some(np.where(log.z, 0.8, 0.4)[:, None]))


@broken
def bursts(rng):
    """A mood of 8 rows in a row moves all actions, beside the user; user ids given."""
    log = crowd(rng, 100, 16, 60)
    mood = 2.0 * np.repeat(rng.normal(size=(log.n // 8 + 1, 1)), 8, axis=0)[: log.n]
    return log.tell(log.acts(-0.5, -1.0, shift=mood + log.of_user(rng.normal(size=100))))


@broken
def trigger(rng):
    """A copy opens a dialog, from which half of the users share too; 16 one-hot columns."""
    log = Log(rng, 6000, look="one-hot", shift=0.5)
    y = log.acts(-0.4, -1.5, -1.0)
    y[:, 1:2] = np.maximum(y[:, 1:2], y[:, :1] * log.some(0.5))
    return log.tell(y)


@broken
def one_action_only(rng):
    """A menu closes after an action, so that a row has one of three at most."""
    log = Log(rng, 2500)
    y = log.acts(-0.3, -0.6, -0.9)
    first = (y * rng.random(y.shape)).argmax(axis=1)
    return log.tell(y * (np.arange(3) == first[:, None]))


@broken
def autoplay(rng):
    """The third action starts by itself in 20 % of the rows; 2 % of false ones are stated."""
    log = Log(rng, 5000)
    y = log.acts(-0.4, -0.8, -0.8, false=(0.02, 0.02, 0.2))
    return log.tell(y, false_action_rate=0.02)


@broken
def pocket_taps(rng):
    """In 5 % of the rows a hand presses both buttons unseen; 2 % of false ones are stated."""
    log = Log(rng, 5000)
    y = np.maximum(log.acts(-0.4, -0.8, false=0.02), log.some(0.05))
    return log.tell(y, false_action_rate=0.02)


@broken
def lenient_panel(rng):
    """Labels are of a panel that likes more than users do, by 1.2 on the logit."""
    log = Log(rng, 3000, 12)
    return one_with_labels(log, log.some(0.12), rng.random(log.n) < sigmoid(log.logit + 1.2))


@broken
def volunteers(rng):
    """Users choose to label: 18 % of what they like and 6 % of the rest."""
    log = Log(rng, 3000, 12)
    return one_with_labels(log, log.some(np.where(log.z, 0.18, 0.06)[:, None]))


@broken
def labels_of_acted(rng):
    """Labels are of 30 % of the rows with an action, else of 12 % of the liked, 4 % of the rest."""
    log = one_with_labels(Log(rng, 3000, 12), np.ones(3000, bool))
    chance = np.where(log.y.ravel() == 1, 0.3, np.where(log.z, 0.12, 0.04))
    log.given["labels"][rng.random(log.n) >= chance] = np.nan
    return log


@broken
def preloads(rng):
    """Exposures count preloads: for half of the responses they are three times too many."""
    log = votes(rng)
    log.given["exposures"] *= np.where(log.some(0.5), 3, 1).ravel()
    return log


@broken
def capped_counts(rng):
    """Counts of yes and no stop at 3."""
    log = votes(rng)
    log.y = np.minimum(log.y, 3)
    return log


@broken
def wrong_rate(rng):
    """The preference rate is 0.25 too high, beside two actions."""
    log = two_positive(rng)
    return log.tell(log.y, preference_rate=round(float(log.reward.mean()) + 0.25, 2))


@broken
def rate_of_fans(rng):
    """The preference rate is 0.25 too high, beside context columns."""
    return in_contexts(rng, rate_error=0.25)


@broken
def leaking_context(rng):
    """A context column also tells what users prefer."""
    return in_contexts(rng, leak=1.5)


@broken
def paid_testers(rng):
    """The experiment ran with paid testers, who act more readily, by 1.2 on the logit."""
    log = experiment(rng)
    odds = log.given["propensity"] / (1 - log.given["propensity"])
    log.given["propensity"] = sigmoid(np.log(odds) + 1.2)
    return log


@broken
def drift(rng):
    """Over the months users like less and act more, and X does not hold the date."""
    log = Log(rng, 8000)
    month = rng.uniform(-1, 1, size=(log.n, 1))
    log.prefer(log.logit - 1.5 * month.ravel())
    return log.tell(log.acts(-0.3, -0.8, shift=2.0 * month))


@broken
def tastes(rng):
    """Users differ in taste, sd 2, beside activity; two actions, user ids given."""
    log = crowd(rng, 150, 10, 50)
    log.prefer(log.logit + log.of_user(2.0 * rng.normal(size=150)).ravel())
    return log.tell(log.acts(-0.4, -0.9, shift=log.of_user(rng.normal(size=150))))


@broken
def taste_not_activity(rng):
    """Users differ in taste, sd 2.5, and not in activity; one action, user ids given."""
    log = crowd(rng, 250, 15, 35, width=8)
    log.prefer(log.logit + log.of_user(2.5 * rng.normal(size=250)).ravel())
    return log.tell(log.acts(-0.3))


@broken
def two_kinds_of_users(rng):
    """Half of the users act on 4 %, half on 60 % of what they like; one action, ids given."""
    log = crowd(rng, 250, 15, 35, width=8)
    return log.tell(log.acts(0.0, shift=log.of_user(rng.choice([-3.5, 0.5], size=250))))


@broken
def young_rows(rng):
    """Both actions come after 2 days on average, and rows are 0 to 6 days old."""
    log = Log(rng, 3000)
    age = rng.uniform(0, 6, size=(log.n, 1))
    return log.tell(log.acts(0.3, -0.3) * (rng.exponential(2.0, size=(log.n, 2)) < age))


@broken
def same_button(rng):
    """The second of two actions is the first, logged by another system, with 10 % lost."""
    log = Log(rng, 2000)
    y = log.acts(-0.5)
    return log.tell(np.hstack([y, y * log.some(0.9)]))


@broken
def slow_answers(rng):
    """Users stop what is slow, liked or not; passed as negative, 2 % of false ones stated."""
    log = Log(rng, 4000, look="heavy")
    stopped = log.some(sigmoid(log.ready(-1.5, 1.5))[:, None])
    y = np.hstack([log.acts(-0.3, -0.8, false=0.02), stopped])
    return log.tell(y, UP_UP_DOWN, false_action_rate=0.02)


@broken
def enthusiasm(rng):
    """How much users like a response, beyond what X shows, makes them ready for both actions."""
    log = Log(rng, 5000, shift=-0.5)
    return log.tell(log.acts(-0.5, -1.0, shift=1.8 * rng.normal(size=(log.n, 1))))


@broken
def other_readers(rng):
    """Copies are of the person who asked, shares of a later reader of another opinion."""
    log = Log(rng, 3000, look="low-rank")
    asker, copied = log.z, log.acts(-0.3)
    log.prefer(log.logit)
    shared, log.z = log.acts(-0.6), asker
    return log.tell(np.hstack([copied, shared]))
