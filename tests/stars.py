"""A kind of signal from outside the package, the one of docs/own_signal.md."""

import torch
from torch.nn.functional import logsigmoid

from implicitrm_sk.signals import Signal


class Stars(Signal):
    """A rating of 1 to 5 stars that users choose to give; 0 is no rating.

    Users rate with probability sigmoid(u), whether or not they prefer the response. The stars of
    a rating follow an ordered logit with the cut points -3, -1, 1, 3 around `separation` where
    r*=1, and around -`separation` where r*=0.
    """

    values = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    identifies = "identified"
    assumption = "users rate whether or not they prefer, stars spread as given"

    def __init__(self, separation=2.0):
        self.separation = separation

    def seen(self, y):
        """Four and five stars show r*=1, one and two r*=0."""
        return (y >= 1) & (y <= 2), y >= 4

    def log_prob(self, u, y, preferred):
        """Return the log-probability of y stars."""
        cuts = u.new_tensor([-torch.inf, -3.0, -1.0, 1.0, 3.0, torch.inf])
        below = torch.sigmoid(cuts - (self.separation if preferred else -self.separation))
        log_stars = torch.cat([u.new_zeros(1), torch.log(below[1:] - below[:-1])])
        stars = torch.nan_to_num(y).long()
        rates = u[..., 0]
        return torch.where(stars > 0, logsigmoid(rates) + log_stars[stars], logsigmoid(-rates))
