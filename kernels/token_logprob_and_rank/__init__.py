"""Log-probabilities of chosen tokens, and the rank of the sampled one."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="token_logprob_and_rank",
    why="Reads the logits once, instead of writing the log-probabilities of the whole vocabulary and comparing those.",
    replaces=5,
    entries=("token_logprob_and_rank_float", "token_logprob_and_rank_half", "token_logprob_and_rank_bfloat16"),
    parameters=("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i64", "i64", "i32"),
)

ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))
MAX_VOCABULARY = 8192 * 1024
"""Tokens of the largest vocabulary (kTile * kMaxTiles in the source)."""


def check(logits: torch.Tensor, token_ids: torch.Tensor, normalize: bool = True) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout.
    """
    if logits.dtype not in ENTRIES:
        raise TypeError(f"token_logprob_and_rank: logits are {logits.dtype}, they must be float32, float16 or bfloat16")
    if token_ids.dtype != torch.int64:
        raise TypeError(f"token_logprob_and_rank: token_ids are {token_ids.dtype}, they must be torch.int64")
    for name, tensor in (("logits", logits), ("token_ids", token_ids)):
        if tensor.dim() != 2 or (tensor.shape[1] > 1 and tensor.stride(1) != 1):
            raise ValueError(f"token_logprob_and_rank: {name} must be a matrix with contiguous rows")
    rows, vocab = logits.shape
    if token_ids.shape[0] != rows or token_ids.shape[1] < 1:
        raise ValueError(
            f"token_logprob_and_rank: token_ids must have {rows} rows like logits, and at least one column, "
            f"not {tuple(token_ids.shape)}"
        )
    if not 1 <= vocab <= MAX_VOCABULARY:
        raise ValueError(f"token_logprob_and_rank: a vocabulary of {vocab}; it must have 1 to {MAX_VOCABULARY} tokens")


def reference(
    logits: torch.Tensor, token_ids: torch.Tensor, normalize: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in PyTorch."""
    values = logits.float()
    missing = (token_ids < 0) | (token_ids >= logits.shape[1])
    places = token_ids.masked_fill(missing, 0)
    logprobs = (values.log_softmax(1) if normalize else values).gather(1, places).masked_fill(missing, -torch.inf)
    first = values.gather(1, places[:, :1]).masked_fill(missing[:, :1], -torch.inf)
    return logprobs, (values >= first).sum(1)


def launch(logits: torch.Tensor, token_ids: torch.Tensor, normalize: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """One launch; the cores take rows in turn."""
    logprobs, ranks = fake(logits, token_ids)
    rows, vocab = logits.shape
    if rows:
        loading.launch(
            KERNEL,
            ENTRIES[logits.dtype],
            min(loading.vector_cores(), rows),
            logits,
            token_ids,
            logprobs,
            ranks,
            rows,
            vocab,
            token_ids.shape[1],
            logits.stride(0),
            token_ids.stride(0),
            int(normalize),
        )
    return logprobs, ranks


def fake(logits: torch.Tensor, token_ids: torch.Tensor, normalize: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The results, not filled in."""
    logprobs = torch.empty(tuple(token_ids.shape), dtype=torch.float32, device=logits.device)
    return logprobs, torch.empty((logits.shape[0],), dtype=torch.int64, device=logits.device)


token_logprob_and_rank = operators.define(
    KERNEL,
    "token_logprob_and_rank(Tensor logits, Tensor token_ids, bool normalize=True) -> (Tensor, Tensor)",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Log-probabilities of the tokens in `token_ids`, and the rank of the token in its first column.

For ``vllm.v1.sample.sampler.Sampler``. Without `normalize` it is what ``gather_logprobs`` does to the given token: a
gather, a comparison and a sum. With it, it can take the place of ``compute_logprobs`` as well (token ids: the sampled
token, then ``torch.topk(logits, k).indices``; top-k of logits is that of log-probabilities) - but not from inside
vLLM's functions: ``Sampler.forward`` takes the log-probabilities first and then lets the processors change the logits
in place, so that a kernel which is called after sampling would need a copy of them, the very bytes it saves.

Args:
    logits: ``[rows, vocabulary]`` float32, float16 or bfloat16; rows may be apart. The arithmetic is float32.
    token_ids: ``[rows, n]`` int64, at least one column. A token that is not in the vocabulary has the log-probability
        minus infinity (and every token ranks before it).
    normalize: False when `logits` are what is wanted already: log-probabilities, or logits that are asked for as such.

Returns:
    ``[rows, n]`` float32 log-probabilities of softmax(logits) (without `normalize`: the logits themselves), and
    ``[rows]`` int64 ranks: how many tokens have at least the first one's logit. Of logits vLLM's ranks can differ: it
    counts after rounding to log-probabilities, which can make neighbours equal.

Cost per element: 4 bytes in float32 and 2 in the 16-bit types, the minimum (one read); 7 vector instructions per 64
elements, 3 without `normalize`, one more in the 16-bit types. A row is worked on by one core, so fewer rows than cores
leave cores idle. One launch for 5: log_softmax, gather, concatenation, comparison and sum.
"""
