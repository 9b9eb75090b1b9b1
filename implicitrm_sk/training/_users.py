"""Users who differ in activity: a latent state across the rows of a user, with its EM messages."""

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.special import softmax

from ..measurement._audience import Audience

#: Gauss-Hermite nodes of the activity of a user.
N_NODES = 15
#: The smallest weight of a node, whose logarithm is finite.
TINY = 1e-30
#: Below this standard deviation the nodes are too few for the posterior of a user. Then there are
#: this many points of the integral, which close in this often, for this many users together.
NARROW, N_POINTS, N_ZOOMS, USERS_AT_ONCE = 0.8, 41, 3, 10_000


def quadrature():
    """Return nodes and log-weights for a mean over a standard normal, (Q,) each.

    They are Gauss-Hermite nodes, exact for polynomials of degree 2 Q - 1.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
    return torch.as_tensor(nodes), torch.as_tensor(np.log(weights / weights.sum()))


def posterior(messages, log_prior):
    """Return the log-weights of users over the nodes, given log P(rows of the user | node).

    Parameters
    ----------
    messages : Tensor of shape (users, members, Q)
    log_prior : Tensor of shape (Q,)
    """
    return torch.log_softmax(messages + log_prior.to(messages), -1)


def moments(messages):
    """Return mean and sd of the activity of each user, over the mixture of its members.

    The nodes are too far apart for a posterior that many rows make narrow. The log-likelihood of
    such a user is smooth, so a cubic spline through its values at the nodes is integrated. With a
    loading of 3 and 100 rows of a user it is off by some 0.2 standard deviations.

    Parameters
    ----------
    messages : Tensor of shape (users, members, Q)
        log P(rows of the user | node).

    Returns
    -------
    mean, sd : ndarrays of shape (users,)
    """
    nodes, log_prior = quadrature()
    weight = posterior(messages.double(), log_prior).exp()
    mean = weight @ nodes
    sd = (weight @ nodes**2 - mean**2).clamp_min(0.0).sqrt()
    narrow = (sd < NARROW).any(1)
    positions = torch.nonzero(narrow)[:, 0].split(USERS_AT_ONCE) if narrow.any() else ()
    for part in positions:
        found = _moments_of_spline(messages[part].double().numpy(), nodes.numpy())
        mean[part], sd[part] = (torch.as_tensor(one) for one in found)
    mixed = mean.mean(1)
    return mixed.numpy(), ((sd**2 + mean**2).mean(1) - mixed**2).sqrt().numpy()


def _moments_of_spline(messages, nodes):
    """Return mean and sd, (users, members), on points that close in on the posterior."""
    coefficients = np.moveaxis(CubicSpline(nodes, messages, axis=-1).c, 1, -1)
    points = np.linspace(-1.0, 1.0, N_POINTS)
    center, reach = np.zeros((*messages.shape[:2], 1)), nodes[-1]
    for _ in range(N_ZOOMS):
        b = np.clip(center + reach * points, nodes[0], nodes[-1])
        piece = np.clip(np.searchsorted(nodes, b, side="right") - 1, 0, len(nodes) - 2)
        log_weight = -(b**2) / 2
        for power, part in enumerate(coefficients[::-1]):
            log_weight += np.take_along_axis(part, piece, -1) * (b - nodes[piece]) ** power
        weight = softmax(log_weight, -1)
        mean = (weight * b).sum(-1, keepdims=True)
        sd = np.sqrt((weight * (b - mean) ** 2).sum(-1, keepdims=True))
        # Two steps at least, since between two points the posterior is not seen.
        center, reach = mean, np.maximum(6 * sd, 2 * reach * (points[1] - points[0]))
    return mean[..., 0], sd[..., 0]


class UserWeights:
    """The weights of users over the nodes of their activity, while heads are trained.

    The activity b_u of user u is standard normal. It shifts the logit of the propensity of signal k
    by lambda_k b_u. The training is EM (Dempster, Laird & Rubin 1977). The E-step, once per epoch,
    computes the weight of node b, P(b | rows of u). It is proportional to P(b) times the product of
    P(y | x, b) over the rows. These messages add up from the batches of the epoch. In the M-step,
    heads and loadings minimise sum_b P(b | rows of u) -log P(y | x, b).

    Parameters
    ----------
    n_users, n_members : int
    device : torch.device
    factors : tuple of two arrays of shape (members, users), default=None
        Factors of the weights of the rows of a user in training and in validation, for each member.
        The posterior of a user does not depend on them.
    """

    def __init__(self, n_users, n_members, device, factors=None):
        nodes, log_prior = quadrature()
        self.nodes, self.log_prior = (x.to(device, torch.float32) for x in (nodes, log_prior))
        self.messages = torch.zeros(n_users, n_members, N_NODES, device=device)
        if factors is not None:
            factors = [torch.as_tensor(f.T[..., None]).to(self.messages) for f in factors]
        self.factors = factors
        #: None before the first epoch, when all users have the weights of the population.
        self.weight = None

    def spread(self, reward_logit, propensity_logit, loading):
        """Return the logits at each node; the nodes are the first dimension.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, n)
        propensity_logit : Tensor of shape (members, n, P)
        loading : Tensor of shape (members, 1, P)
        """
        shift = self.nodes[:, None, None, None] * loading
        return reward_logit.expand(len(self.nodes), *reward_logit.shape), propensity_logit + shift

    def risk(self, nll, user):
        """Return the loss of each member and row, (members, n), from that at each node."""
        if self.weight is None:
            # The weights of the population alone would pull the loadings to 0. These weights have
            # the gradient of the likelihood of single rows.
            log_joint = self.log_prior[:, None, None] - nll
            return -torch.logsumexp(log_joint, 0)
        return (self._of_rows(user) * nll).sum(0)

    def _of_rows(self, user):
        """Return the weights of the users of rows, (Q, members, n)."""
        n_members, n_nodes = self.weight.shape[1:]
        weight = self.weight.flatten(1).index_select(0, user).t().contiguous()
        return weight.view(n_members, n_nodes, -1).transpose(0, 1)

    def audience(self, log_rows, reward_logit, user, response, labels, *, trains):
        """Return the `Audience` of the responses of a batch, where several users saw a response.

        Parameters
        ----------
        log_rows : Tensor of shape (2, Q, members, n)
        reward_logit : Tensor of shape (members, m)
        user, response : Tensor of int of shape (n,)
        labels : Tensor of shape (m,) or None
        trains : bool
            Whether the rows train, so that the weights of their users contain them.
        """
        if self.weight is None:
            log_weight, trains = self.log_prior[:, None, None], False
        else:
            log_weight = self._of_rows(user).clamp_min(TINY).log()
        return Audience.of(log_rows, reward_logit, log_weight, response, labels, own=trains)

    def collect(self, nll, user, sample_weight):
        """Add the rows of a batch to the messages of their users."""
        # As a plain matrix, whose transpose is copied several times faster.
        rows = -(nll.detach() * sample_weight).transpose(0, 1).flatten(0, 1).t().contiguous()
        self.messages.flatten(1).index_add_(0, user, rows.to(self.messages))

    def refresh(self):
        """Take the E-step; return the standard deviation of activity among users, (members,).

        It is 1 at the optimum. Multiplying the loadings by it, as in parameter-expanded EM (Liu,
        Rubin & Wu 1998), reaches the optimum in a few epochs; EM alone is slow.
        """
        if self.factors is not None:
            self.messages /= self.factors[0]
        self.weight = posterior(self.messages, self.log_prior).exp_()
        present = (self.messages != 0).any(-1).any(-1)
        variance = (self.weight[present] @ self.nodes**2).mean(0)
        self.messages.zero_()
        return variance.sqrt()

    def held_out_risk(self, n_rows):
        """Return minus the log-likelihood, per row, of the rows collected since, for each member.

        The rows of a user are taken together, since single rows hardly depend on the activity.
        """
        prior = self.weight.clamp_min(TINY).log()
        if self.factors is None:
            of_users = torch.logsumexp(self.messages + prior, -1)
        else:
            factor = self.factors[1]
            of_users = torch.logsumexp(self.messages / factor + prior, -1) * factor[..., 0]
        risk = -of_users.double().sum(0) / n_rows
        self.messages.zero_()
        return risk
