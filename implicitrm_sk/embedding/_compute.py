"""From token numbers to vectors: batches of similar length, one transfer each, and pooling."""

import numpy as np
import torch

from .._warnings import warn


def plan_batches(lengths, max_tokens):
    """Return batches of texts of similar length, longest first.

    Parameters
    ----------
    lengths : ndarray of int of shape (n,)
    max_tokens : int
        Maximum number of tokens of a batch, including padding; a longer text is a batch of its own.

    Returns
    -------
    batches : list of ndarray of int
        Positions in `lengths`; each appears once.

    Examples
    --------
    >>> import numpy as np
    >>> plan_batches(np.array([2, 9, 3, 2]), 6)
    [array([1]), array([2, 0]), array([3])]
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        n_rows = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


class TokenArrays:
    """The token numbers of many texts in one array."""

    def __init__(self, tokens):
        self.lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.flat = np.empty(self.starts[-1], dtype=np.int32)
        for ids, start in zip(tokens, self.starts, strict=False):
            self.flat[start : start + len(ids)] = ids

    def padded(self, rows, pad):
        """Return numbers and mask of some texts as one tensor (2, n_rows, longest)."""
        lengths = self.lengths[rows]
        both = np.full((2, len(rows), lengths.max()), pad, dtype=np.int64)
        both[1] = np.arange(both.shape[2]) < lengths[:, None]
        mask = both[1].astype(bool)
        both[0][mask] = np.concatenate(
            [self.flat[self.starts[row] : self.starts[row + 1]] for row in rows]
        )
        return torch.from_numpy(both)


def embed_batch(model, tokens, rows, *, pad, pooling, layer, max_tokens):
    """Return the vectors of some texts, in float32 or wider, on the CPU.

    If they do not fit on the device, half as many are computed at a time from then on.

    Parameters
    ----------
    model : LoadedModel
    tokens : TokenArrays
    rows : ndarray of int of shape (n,)
        The texts, longest first.
    pad : int
        Number of the padding token.
    pooling : {"mean", "last", "cls"}
    layer : int or None
        Index of the hidden state; None means the output of the last layer.
    max_tokens : int
        Maximum number of tokens per forward pass, including padding.

    Returns
    -------
    vectors : ndarray of shape (n, d)
    """
    parts, start = [], 0
    while start < len(rows):
        longest = int(tokens.lengths[rows[start]])
        n_rows = max(1, int(min(max_tokens, model.token_limit)) // longest)
        part = rows[start : start + n_rows]
        try:
            parts.append(_forward(model, tokens.padded(part, pad), pooling, layer))
            start += n_rows
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            size = longest * len(part)
            if len(part) == 1:
                raise RuntimeError(
                    f"a text of {longest} tokens does not fit into the memory of {model.device}. "
                    "Lower max_length, use dtype='bfloat16', a smaller model, or device_map='auto'."
                ) from error
            first = model.token_limit == float("inf")
            model.token_limit = size // 2
        else:
            continue
        # Outside the handler, because its exception keeps the tensors alive.
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        if first:
            warn(
                f"{size} tokens at once do not fit into the memory of {model.device}. The "
                "embedding continues with half as many, or fewer if necessary. Set batch_tokens "
                "lower to avoid this."
            )
    return np.concatenate(parts)


def _is_out_of_memory(error):
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


@torch.inference_mode()
def _forward(model, both, pooling, layer):
    if model.device.type == "cuda":
        both = both.pin_memory()
    ids, mask = both.to(model.device, non_blocking=True)
    # Without padding no mask is needed, and attention is faster.
    mask = None if both[1].all() else mask
    with model.lock:
        vectors = text_vectors(model.network, ids, mask, pooling, layer)
    return vectors.cpu().numpy()


def text_vectors(network, ids, mask, pooling, layer):
    """Return the vectors of some texts, in float32 or wider; differentiable.

    Parameters
    ----------
    network : torch.nn.Module
        A model of transformers.
    ids : Tensor of int of shape (n, length)
    mask : Tensor of int of shape (n, length) or None
        1 for tokens, 0 for padding at their right; None: no padding.
    pooling : {"mean", "last", "cls"}
    layer : int or None
        Index of the hidden state; None means the output of the last layer.

    Returns
    -------
    vectors : Tensor of shape (n, d)
    """
    output = network(input_ids=ids, attention_mask=mask, output_hidden_states=layer is not None)
    hidden = output.last_hidden_state if layer is None else output.hidden_states[layer]
    mask = None if mask is None else mask.to(hidden.device)
    if pooling == "cls":
        vectors = hidden[:, 0]
    elif pooling == "last":
        last = -1 if mask is None else mask.sum(1) - 1
        vectors = hidden[torch.arange(len(hidden), device=hidden.device), last]
    else:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if mask is None:
            vectors = wide.sum(1) / wide.shape[1]
        else:
            wide = wide.masked_fill(mask[:, :, None] == 0, 0)
            vectors = wide.sum(1) / mask.sum(1, keepdim=True)
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))
