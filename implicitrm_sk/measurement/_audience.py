"""Responses that several users saw: what each row shows, given its user and the other rows.

A response has one preference r*, and each of its rows has the activity b of its own user. With the
weights w_i(b) of the user of row i, the likelihood of a response is

``P(y | x) = sum_r P(r*=r | x) prod_i sum_b w_i(b) P(y_i | r, b, x_i)``

Users connect responses, so exact inference is out of reach. This is one step of belief propagation
(Pearl 1988), and exact if the graph of users and responses has no circles.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from ._model import class_posterior, labelled
from ._signal import per_response

#: Rounds in which the evidence of the rows of one response becomes consistent.
ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Audience:
    """The rows of some responses, each integrated over the activity of its own user.

    Attributes
    ----------
    log_weight : Tensor of shape (Q, members, n), or a shape that broadcasts to it
        Log-weights of the user of each row over the nodes, without what the row itself shows.
    others_logit : Tensor of shape (members, n)
        Logit of r* for each row, given the other rows of its response; 0 where r* is known.
    log_others : Tensor of shape (members, n)
        Log-likelihood of the other rows of its response.
    message : Tensor of shape (Q, members, n)
        log P(row | node, other rows) up to a constant for each row: what a row shows of its user.
        With `log_weight`, its mean is 1.
    log_likelihood : Tensor of shape (members, m)
        log P(y | x) of the responses, with their labels.
    posterior : Tensor of shape (2, members, m)
        P(r* | y, x), or the labels where they are known.
    """

    log_weight: torch.Tensor
    others_logit: torch.Tensor
    log_others: torch.Tensor
    message: torch.Tensor
    log_likelihood: torch.Tensor
    posterior: torch.Tensor

    @classmethod
    def of(cls, log_rows, reward_logit, log_weight, response, labels=None, *, own=False):
        """Return the audience of some responses.

        Parameters
        ----------
        log_rows : Tensor of shape (2, Q, members, n)
            log P(row | r*, node), r*=0 first, as `Measurement.log_rows` returns it.
        reward_logit : Tensor of shape (members, m)
        log_weight : Tensor of shape (Q, members, n), or a shape that broadcasts to it
            Log-weights of the user of each row over the nodes.
        response : Tensor of int of shape (n,)
        labels : Tensor of shape (m,), default=None
        own : bool, default=False
            Whether the weights contain what the row itself shows, as those of rows that train do.
            It is then taken out, so that no evidence counts twice.
        """
        f, m = reward_logit, reward_logit.shape[-1]
        log_class = torch.stack([logsigmoid(-f), logsigmoid(f)])
        of_rows = None if labels is None else labels[response]
        kept = log_weight
        for _ in range(ROUNDS if own else 0):
            log_prior, *_ = _evidence(log_rows, kept, log_class, response, m)
            kept = torch.log_softmax(log_weight - _message(log_rows, log_prior, of_rows), 0)
        log_prior, mine, log_others = _evidence(log_rows, kept, log_class, response, m)
        message = _message(log_rows, log_prior, of_rows)
        others_logit = log_prior[1] - log_prior[0]
        if of_rows is not None:
            others_logit = others_logit.masked_fill(~torch.isnan(of_rows), 0.0)
        joint = log_class + per_response(mine, response, m)
        return cls(
            log_weight=kept,
            others_logit=others_logit,
            log_others=log_others,
            message=message - torch.logsumexp(message + kept, 0),
            log_likelihood=labelled(joint, labels),
            posterior=class_posterior(joint, labels),
        )

    def shares(self, response):
        """Return the messages of rows with an equal share of their response, (Q, members, n).

        The sum over rows, each integrated over its user, is the log-likelihood of all rows (the
        Bethe approximation; Yedidia, Freeman & Weiss 2005). It is exact without circles.
        """
        share = self.log_likelihood / torch.bincount(response)
        return self.message + share[:, response]


def _evidence(log_rows, log_weight, log_class, response, m):
    """Return log P(r* | other rows), log P(row | r*), and log P(other rows), of each row."""
    mine = torch.logsumexp(log_rows + log_weight, 1)
    # An action may rule out a class: -inf cannot be subtracted from a sum again.
    ruled_out = torch.isneginf(mine)
    finite = mine.masked_fill(ruled_out, 0.0)
    others = per_response(finite, response, m)[..., response] - finite
    n_out = per_response(ruled_out.to(finite), response, m)[..., response] - ruled_out.to(finite)
    joint = log_class[..., response] + others.masked_fill(n_out > 0.5, -torch.inf)
    log_others = torch.logsumexp(joint, 0)
    # A response that contradicts itself is impossible, which its likelihood shows.
    joint = torch.where(torch.isneginf(log_others), 0.0, joint)
    return torch.log_softmax(joint, 0), mine, log_others


def _message(log_rows, log_prior, labels):
    """Return log P(row | node) up to a constant, (Q, members, n), r* having this distribution."""
    joint = log_rows + log_prior[:, None]
    if labels is None:
        return torch.logsumexp(joint, 0)
    # With a label, the evidence of the other rows has no weight.
    return torch.where(torch.isnan(labels), torch.logsumexp(joint, 0), labelled(log_rows, labels))
