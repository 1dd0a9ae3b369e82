"""How the tokens of coupled data-parallel ranks reach the experts, and the answers the tokens."""

from __future__ import annotations

import os
from typing import Any

from vllm.config import get_current_vllm_config
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger

from ascend_patch import npu
from ascend_patch.patches.comms._forms import chosen_form

logger = init_logger("vllm.ascend_patch.comms")

# On A2 CANN 8.5 documents the operators for two servers and more; the documents of later ones name two devices.
_FEWEST_RANKS_ON_A2 = 16
# The method that gathers tokens with their router's logits: up to vLLM 0.14 there is no other.
_DISPATCH = "dispatch_router_logits" if hasattr(AgRsAll2AllManager, "dispatch_router_logits") else "dispatch"


class NPUAll2AllManager(AgRsAll2AllManager):
    """vLLM's own way, in which every rank gathers all tokens, or the operators that move tokens on their own.

    Decided for each layer of each step, from what all ranks know. See `chosen_form`; ``auto`` uses the operators only
    where CANN 8.5 documents them as well.
    """

    def __init__(self, cpu_group: Any, device_group: Any) -> None:
        super().__init__(cpu_group)
        form = chosen_form()
        on_a2 = npu.soc_family() == "910B"
        few = form == "auto" and on_a2 and self.world_size < _FEWEST_RANKS_ON_A2
        self._may_fuse = (
            form != "gather" and not few and get_current_vllm_config().parallel_config.enable_expert_parallel
        )
        self._buffer = int(os.environ.get("HCCL_BUFFSIZE") or 200) << 20
        self._device_group = device_group
        self._ranks: npu.Ranks | None = None
        self.fused_tokens = 0
        """Tokens of the rank that has the most, while a layer's go through the operators; otherwise 0."""

    def ranks(self) -> npu.Ranks:
        """The experts' ranks, for the operators; all ask together the first time."""
        if self._ranks is None:
            self._ranks = npu.ranks_of(self._device_group)
            logger.info("Tokens reach the experts of %d ranks within MoeDistributeDispatchV2.", self._ranks.size)
        return self._ranks

    def _dispatch(
        self,
        hidden_states: Any,
        router_logits: Any,
        is_sequence_parallel: bool = False,
        extra_tensors: list[Any] | None = None,
    ) -> Any:
        """All ranks' tokens, or the own ones as they are where the experts' operators will move them."""
        # With sequence parallelism the tokens are gathered in the very group that the operators would need alone.
        if self._may_fuse and not is_sequence_parallel and extra_tensors is None:
            metadata = get_forward_context().dp_metadata
            assert metadata is not None
            tokens = max(metadata.get_chunk_sizes_across_dp_rank())
            if npu.send_tokens_supports(
                self.world_size,
                router_logits.shape[1],
                hidden_states.shape[1],
                tokens,
                hidden_states.dtype,
                self._buffer,
            ):
                self.fused_tokens = tokens
                return hidden_states, router_logits
        extra = () if extra_tensors is None else (extra_tensors,)
        return getattr(super(), _DISPATCH)(hidden_states, router_logits, is_sequence_parallel, *extra)

    def combine(self, hidden_states: Any, is_sequence_parallel: bool = False) -> Any:
        """The own tokens' answers: already there behind the operators, otherwise added up and scattered."""
        if self.fused_tokens:
            self.fused_tokens = 0
            return hidden_states
        return super().combine(hidden_states, is_sequence_parallel)


setattr(NPUAll2AllManager, _DISPATCH, NPUAll2AllManager._dispatch)
