"""Rows that nobody looked at: a latent state of the row, shared by all its signals."""

import torch
from torch.nn.functional import logsigmoid


def examined(rows, logit, silent):
    """Return log P(y | r*, x) of rows that users may not have looked at.

    With probability 1 - v(x), independent of r* given x, nobody looked, and all signals are silent:

    ``P(y | r*, x) = (1 - v) [all silent] + v prod_k P(y_k | r*, x)``

    This is the examination hypothesis of click models (Richardson, Dominowska & Ragno 2007), with
    one v for all signals of the row.

    Parameters
    ----------
    rows : Tensor of shape (2, ..., n)
        log prod_k P(y_k | r*, x) given r*=0 and given r*=1, for rows that were looked at.
    logit : Tensor of shape (..., n)
        The logit of v.
    silent : Tensor of bool of shape (n,)
        Whether all signals of the row are silent or not logged.

    Returns
    -------
    log_prob : Tensor of shape (2, ..., n)
    log_looked, log_unseen : Tensors of shape (2, ..., n)
        log P(looked at | y, r*, x) and log P(not looked at | y, r*, x). They give the derivatives:
        P(looked at | y, r*, x) with respect to `rows`, and the same minus v for `logit`.
    """
    looked, unseen = logsigmoid(logit) + rows, logsigmoid(-logit).expand_as(rows)
    # For rows that are not silent the sum is not used: it may be -inf, without a gradient.
    either = torch.logaddexp(looked.masked_fill(~silent, 0.0), unseen)
    log_prob = torch.where(silent, either, looked)
    log_looked = torch.where(silent, looked - either, 0.0)
    log_unseen = (unseen - either).masked_fill(~silent, -torch.inf)
    return log_prob, log_looked, log_unseen
