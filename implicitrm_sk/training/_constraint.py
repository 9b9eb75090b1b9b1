"""A constraint on the mean reward of the population."""

import torch

from ..measurement._signal import full_precision


class RateConstraint:
    """Keeps the mean reward of the population in an interval, by an augmented Lagrangian.

    A penalty on the mean of a batch would punish its noise, the more the smaller the batch. Here
    the multiplier and the penalty act on a running mean over many batches, and what is added to the
    loss is linear in the reward of the batch, so that its gradient is unbiased for any batch size
    (Nocedal & Wright 2006, sections 17.3 and 17.4).

    Parameters
    ----------
    lower, upper : float or array-like of shape (n_members,)
    n_members : int
    n_batches : float
        Batches per pass over the data: how many the running mean looks back at, at least 10.
    device : torch.device
    """

    #: Penalty and step of the multiplier (per look-back), in nats per row and squared unit of the
    #: rate. A larger step makes multiplier and rate swing against each other: the heads follow
    #: slowly, some thousandths of a logit per batch.
    PENALTY = 3.0
    MULTIPLIER_STEP = 1.0

    def __init__(self, lower, upper, n_members, n_batches, device):
        #: Of all members, whether or not they are still trained.
        self.ends = torch.stack(
            [torch.as_tensor(end, dtype=torch.float64).expand(n_members) for end in (lower, upper)]
        )
        self.lower, self.upper = self.ends.to(torch.float32).to(device)
        self.memory = 1 / max(n_batches, 10)
        self.mean = None
        self.multiplier = torch.zeros(n_members, device=device)

    def __call__(self, reward_logit, sample_weight):
        """Return the term of each member for a batch, shape (members,)."""
        reward = torch.sigmoid(full_precision(reward_logit))
        # Weights have mean 1 over the population, not over the batch: dividing by their sum in the
        # batch would let them cancel the smaller the batch is.
        mean = (reward * sample_weight).mean(-1)
        if self.mean is None:
            self.mean = reward.detach().mean(-1)
        self.mean = torch.lerp(self.mean, mean.detach(), self.memory)
        excess = self.mean - self.mean.clamp(self.lower, self.upper)
        # Inside an interval a multiplier has nothing to do.
        inside = ((excess == 0) & (self.lower < self.upper)) * 1.0
        self.multiplier = self.multiplier * (1 - inside * self.memory)
        self.multiplier = self.multiplier + self.MULTIPLIER_STEP * self.memory * excess
        return (self.multiplier + self.PENALTY * excess) * mean

    def keep(self, index):
        """Go on with some of the members."""
        self.multiplier = self.multiplier[index]
        self.lower, self.upper = self.lower[index], self.upper[index]
        self.mean = None if self.mean is None else self.mean[index]

    def shift(self, reward_logit, sample_weight):
        """Return what to add to each member's logits so that the constraint holds exactly.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, m)
            Of the whole population.
        sample_weight : Tensor of shape (m,) or (members, m)

        Returns
        -------
        shift : Tensor of shape (members,)
        """
        f = reward_logit.double()
        weight = (sample_weight.double() / sample_weight.sum(-1, keepdim=True)).expand(f.shape)

        def mean_at(shift):
            # Member by member: of a large population one is enough at a time.
            return torch.stack(
                [torch.sigmoid(one + by) @ w for one, by, w in zip(f, shift, weight, strict=True)]
            )

        mean = mean_at(torch.zeros_like(f[:, 0]))
        target = mean.clamp(*self.ends)
        low, high = torch.full_like(mean, -50.0), torch.full_like(mean, 50.0)
        for _ in range(60):
            middle = (low + high) / 2
            above = mean_at(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return torch.where(mean == target, 0.0, (low + high) / 2)
