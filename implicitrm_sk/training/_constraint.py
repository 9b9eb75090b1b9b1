"""A constraint on the mean reward of the population."""

import torch

from ..measurement._signal import full_precision


class RateConstraint:
    """Keeps the mean reward of the population in an interval, by an augmented Lagrangian.

    A penalty on the mean of a batch would punish its noise, the more so the smaller the batch.
    Instead, the multiplier and the penalty act on a running mean over many batches. The term added
    to the loss is linear in the reward of the batch. So its gradient is unbiased for any batch size
    (Nocedal & Wright 2006, sections 17.3 and 17.4).

    Parameters
    ----------
    lower, upper : float or array-like of shape (n_members,)
    n_members : int
    n_batches : float
        Batches per pass over the data. The running mean covers this many batches, at least 10.
    device : torch.device
    """

    #: Penalty and step of the multiplier (per number of batches in the running mean), in nats per
    #: row and squared unit of the rate. With a larger step, multiplier and rate oscillate: the
    #: heads follow slowly, by some thousandths of a logit per batch.
    PENALTY = 3.0
    MULTIPLIER_STEP = 1.0

    def __init__(self, lower, upper, n_members, n_batches, device):
        #: For all members, whether or not they are still being trained.
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
        # Weights have mean 1 over the population, not over the batch. Dividing by their sum in the
        # batch would partly cancel them, the more so the smaller the batch.
        mean = (reward * sample_weight).mean(-1)
        if self.mean is None:
            self.mean = reward.detach().mean(-1)
        self.mean = torch.lerp(self.mean, mean.detach(), self.memory)
        excess = self.mean - self.mean.clamp(self.lower, self.upper)
        # Inside the interval, the multiplier is not needed.
        inside = ((excess == 0) & (self.lower < self.upper)) * 1.0
        self.multiplier = self.multiplier * (1 - inside * self.memory)
        self.multiplier = self.multiplier + self.MULTIPLIER_STEP * self.memory * excess
        return (self.multiplier + self.PENALTY * excess) * mean

    def keep(self, index):
        """Continue with some of the members."""
        self.multiplier = self.multiplier[index]
        self.lower, self.upper = self.lower[index], self.upper[index]
        self.mean = None if self.mean is None else self.mean[index]

    def shift(self, reward_logit, sample_weight):
        """Return the shift of each member's logits that makes the constraint hold exactly.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, m)
            Logits of the whole population.
        sample_weight : Tensor of shape (m,) or (members, m)

        Returns
        -------
        shift : Tensor of shape (members,)
        """
        f = reward_logit.double()
        weight = (sample_weight.double() / sample_weight.sum(-1, keepdim=True)).expand(f.shape)

        def mean_at(shift):
            # One member at a time, because the population may be large.
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
