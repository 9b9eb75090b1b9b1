"""Rows on the device, served as index batches, and the partners of pairwise objectives."""

import torch


class ResidentRows:
    """Responses and their rows as tensors on the device, served as index batches.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    rows : dict of str to Tensor of shape (n, K)
        Fields of `Batch` that belong to rows.
    responses : dict of str to Tensor of shape (m,) or (members, m)
        Fields of `Batch` that belong to responses.
    sample_weight : Tensor of shape (m,) or (members, m)
        Factors of the losses. If each member has its own, the rows with 0 are not in its part.
    part : Tensor of int
        The responses that belong to this part of the data.
    batch_size : int
        Rows per batch, as closely as whole responses allow.
    offsets : Tensor of int of shape (m + 1,) or None
        Response i has the rows offsets[i] to offsets[i + 1] - 1. None: every row is a response.
    generator : torch.Generator or None
        Shuffles the responses in each pass; None keeps their order.
    partners : Partners or None
        Appends one partner of each row to each batch.
    """

    def __init__(
        self,
        X,
        rows,
        responses,
        sample_weight,
        part,
        batch_size,
        *,
        offsets=None,
        generator=None,
        partners=None,
    ):
        self.X = X
        self.rows = rows
        self.responses = responses
        self.sample_weight = sample_weight
        self.part = part
        self.batch_size = batch_size
        self.offsets = offsets
        self.generator = generator
        self.partners = partners

    def __len__(self):
        return len(self.part)

    def keep(self, index):
        """Continue with the weights and fields of some of the members."""
        if self.sample_weight.ndim > 1:
            self.sample_weight = self.sample_weight.index_select(0, index)
        self.responses = {
            name: value.index_select(0, index) if value.ndim > 1 else value
            for name, value in self.responses.items()
        }

    def __iter__(self):
        """Yield (X, first row of each response or None), fields of `Batch`, weights."""
        part = self.part
        if self.generator is not None:
            order = torch.randperm(len(part), generator=self.generator, device=part.device)
            part = part[order]
            if self.partners is not None:
                self.partners.draw()
        batches = self._single_rows(part) if self.offsets is None else self._repeated_rows(part)
        for batch in batches:
            yield self._batch(*batch)

    def take(self, responses):
        """Return the batch of some responses, in the form in which batches are served.

        Parameters
        ----------
        responses : Tensor of int
        """
        if self.offsets is None:
            return self._batch(responses, responses, None, None)
        sizes = self.offsets[responses + 1] - self.offsets[responses]
        first = sizes.cumsum(0) - sizes
        response = torch.repeat_interleave(sizes)
        rows = torch.arange(len(response), device=sizes.device)
        rows = rows + (self.offsets[responses] - first)[response]
        return self._batch(responses, rows, first, response)

    def _batch(self, responses, rows, first, response):
        sample_weight = self.sample_weight.index_select(-1, responses)
        if self.partners is not None:
            partners = self.partners.partner.index_select(0, rows)
            sample_weight = sample_weight * self.sample_weight.index_select(-1, partners)
            responses = rows = torch.cat([rows, partners])
        # index_select copies whole rows; X[index] would be five times slower on a CPU.
        fields = {name: value.index_select(0, rows) for name, value in self.rows.items()}
        for name, value in self.responses.items():
            fields[name] = value.index_select(-1, responses)
        if response is not None:
            fields["response"] = response
        return (self.X.index_select(0, rows), first), fields, sample_weight

    def _single_rows(self, part):
        for rows in part.split(self.batch_size):
            yield rows, rows, None, None

    def _repeated_rows(self, part):
        sizes = self.offsets[part + 1] - self.offsets[part]
        ends = sizes.cumsum(0)
        batch_of = (ends - 1) // self.batch_size
        # The device is waited for twice per pass, not once per batch.
        n_rows, rows_per_batch, responses_per_batch = (
            int(ends[-1]),
            torch.bincount(batch_of, weights=sizes).long().tolist(),
            torch.bincount(batch_of).tolist(),
        )
        response = torch.repeat_interleave(sizes, output_size=n_rows)
        first = ends - sizes
        rows = torch.arange(n_rows, device=part.device) + (self.offsets[part] - first)[response]
        r0 = p0 = 0
        for n_batch_rows, m in zip(rows_per_batch, responses_per_batch, strict=True):
            if m:
                r1, p1 = r0 + n_batch_rows, p0 + m
                yield part[p0:p1], rows[r0:r1], first[p0:p1] - r0, response[r0:r1] - p0
                r0, p0 = r1, p1


class Partners:
    """Draws one partner of each row of a part, from its group and of another kind.

    If the group has only one kind, the partner comes from the whole part, if this is allowed. If
    the part has only one kind, the partner is the row itself.

    Parameters
    ----------
    part : Tensor of int of shape (p,)
        Rows, numbered 0 to n - 1 in the whole data.
    n_rows : int
    groups, kinds : Tensor of int of shape (n,)
        Partners come from the row's group first; rows of one kind are not partners.
    generator : torch.Generator
    across : bool
        Whether partners of another group are allowed.
    """

    def __init__(self, part, n_rows, groups, kinds, generator, across=True):
        self.part = part
        self.generator = generator
        self.partner = torch.arange(n_rows, device=part.device)
        groups, kinds = (
            torch.unique(codes[part], return_inverse=True)[1] for codes in (groups, kinds)
        )
        near = _Pool(groups, kinds)
        far = _Pool(torch.zeros_like(groups), kinds)
        use_far = (near.size == 0) & across
        # Positions in the two orders, one after the other.
        self.order = torch.cat([near.order, far.order])
        self.size, self.start, self.block, self.block_size = (
            torch.where(use_far, getattr(far, name) + shift, getattr(near, name))
            for name, shift in (
                ("size", 0),
                ("start", len(part)),
                ("block", len(part)),
                ("block_size", 0),
            )
        )
        self.draw()

    def draw(self):
        """Draw again, into `partner` of shape (n,), the row number of each row's partner."""
        size = self.size
        uniform = torch.rand(len(size), generator=self.generator, device=size.device)
        position = self.start + (uniform * size).long().minimum((size - 1).clamp_min(0))
        # Rows of the same kind are adjacent and are skipped.
        position = position + self.block_size * (position >= self.block)
        last = len(self.order) - 1
        drawn = self.part[self.order[position.clamp_max(last)]]
        self.partner[self.part] = torch.where(size > 0, drawn, self.part)


class _Pool:
    """Rows sorted by group and kind, with the position of each row's candidates."""

    def __init__(self, groups, kinds):
        cell = groups * (kinds.max() + 1) + kinds
        self.order = torch.argsort(cell, stable=True)
        group_sizes = torch.bincount(groups)
        _, cell, cell_sizes = torch.unique(cell, return_inverse=True, return_counts=True)
        self.start = (group_sizes.cumsum(0) - group_sizes)[groups]
        self.block = (cell_sizes.cumsum(0) - cell_sizes)[cell]
        self.block_size = cell_sizes[cell]
        self.size = group_sizes[groups] - self.block_size
