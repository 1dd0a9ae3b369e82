"""What vLLM's sampler calls, on our kernels. Imported once a target module has executed, so torch is there.

Every process of an instance imports this module and only the workers sample: a kernel is imported where it is launched.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors


def apply_penalties(
    logits: torch.Tensor,
    prompt_tokens_tensor: torch.Tensor,
    output_tokens_tensor: torch.Tensor,
    presence_penalties: torch.Tensor,
    frequency_penalties: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> torch.Tensor:
    """All three penalties in place, straight from the token ids.

    Args:
        logits: ``[num_requests, vocab_size]``.
        prompt_tokens_tensor: ``[num_requests, longest prompt]`` int64, padded with ``vocab_size``.
        output_tokens_tensor: ``[num_requests, longest output]`` int64, padded likewise.
        presence_penalties: ``[num_requests]`` float32, as the other two.
    """
    from ascend_patch.kernels.apply_penalties import apply_penalties as launch

    launch(
        logits,
        prompt_tokens_tensor,
        output_tokens_tensor,
        presence_penalties,
        frequency_penalties,
        repetition_penalties,
    )
    return logits


def apply_temperature(logits: torch.Tensor, temp: torch.Tensor, all_random: bool) -> torch.Tensor:
    """Divide each row by its temperature in place; greedy rows (below 1e-5) stay as they are."""
    from ascend_patch.kernels.min_p_temperature import min_p_temperature

    min_p_temperature(logits, temp, None)
    return logits


def apply_min_p(self: Any, logits: torch.Tensor) -> torch.Tensor:
    """``MinPLogitsProcessor.apply`` without a softmax: the threshold is the largest logit plus ``ln(min_p)``."""
    if self.min_p_count:
        from ascend_patch.kernels.min_p_temperature import min_p_temperature

        min_p_temperature(logits, None, self.min_p)
    return logits


def gather_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> LogprobsTensors:
    """The best tokens of each row, and value and rank of the given one in one launch, without a mask of their size.

    The values are taken as they are: in the modes ``raw_logits`` and ``processed_logits`` they are no
    log-probabilities.

    Args:
        logprobs: ``[rows, vocab_size]`` float32.
        num_logprobs: how many of the best.
        token_ids: ``[rows]`` int64.
    """
    from ascend_patch.kernels.token_logprob_and_rank import token_logprob_and_rank

    best, best_ids = torch.topk(logprobs, num_logprobs, dim=-1)
    token_ids = token_ids.unsqueeze(-1)
    values, ranks = token_logprob_and_rank(logprobs, token_ids, False)
    ids = torch.cat((token_ids, best_ids), dim=1).to(torch.int32)
    return LogprobsTensors(ids, torch.cat((values, best), dim=1), ranks)


class GrammarBitmask:
    """Takes xgrammar's place where vLLM applies the bitmask to logits on the device."""

    @staticmethod
    def apply_token_bitmask_inplace(
        logits: torch.Tensor, bitmask: torch.Tensor, *, indices: torch.Tensor | None = None
    ) -> None:
        """Exclude in `logits` the tokens whose bit is 0.

        Args:
            logits: ``[rows, vocab_size]``.
            bitmask: ``[rows, ceil(vocab_size / 32)]`` int32, on the device.
            indices: ``[n]`` int32, the rows with a grammar; None for all.
        """
        from ascend_patch.kernels.apply_grammar_bitmask import apply_grammar_bitmask

        apply_grammar_bitmask(logits, bitmask, indices)
