"""How the tokens of coupled data-parallel ranks reach the experts, and the answers the tokens."""

from __future__ import annotations

import os
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.distributed import get_dp_group
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger

from ascend_patch import npu
from ascend_patch.patches.comms._forms import chosen_form

logger = init_logger("vllm.ascend_patch.comms")

# On A2 CANN 8.5 documents the operators for two servers and more; the documents of later ones name two devices.
_FEWEST_RANKS_ON_A2 = 16
# With fewer ranks a token with eight experts reaches nearly all of them anyway, and gathering needs no sizes.
_FEWEST_RANKS_TO_SEND = 16
# The method that gathers tokens with their router's logits: up to vLLM 0.14 there is no other.
_DISPATCH = "dispatch_router_logits" if hasattr(AgRsAll2AllManager, "dispatch_router_logits") else "dispatch"


class NPUAll2AllManager(AgRsAll2AllManager):
    """vLLM's own way, in which every rank gathers all tokens, all-to-alls, or operators that move tokens themselves.

    Decided for each layer of each step, from what all ranks know. See `chosen_form`; ``auto`` uses the operators only
    where CANN 8.5 documents them as well, and for more tokens all-to-alls between 16 ranks and more.
    """

    def __init__(self, cpu_group: Any, device_group: Any) -> None:
        super().__init__(cpu_group)
        form = chosen_form()
        on_a2 = npu.soc_family() == "910B"
        few = form == "auto" and on_a2 and self.world_size < _FEWEST_RANKS_ON_A2
        experts_apart = get_current_vllm_config().parallel_config.enable_expert_parallel
        self._may_fuse = experts_apart and form in ("auto", "fused") and not few
        self._may_send = experts_apart and (
            form == "alltoall" or (form == "auto" and self.world_size >= _FEWEST_RANKS_TO_SEND)
        )
        self.moves_tokens = self._may_fuse or self._may_send
        """Whether tokens may go to their experts' ranks alone."""
        if form == "alltoall" and experts_apart:
            logger.info("Tokens reach the experts of %d ranks by all-to-all.", self.world_size)
        self._buffer = int(os.environ.get("HCCL_BUFFSIZE") or 200) << 20
        self._device_group = device_group
        self._ranks: npu.Ranks | None = None
        self.fused_tokens = 0
        """Tokens of the rank that has the most, while a layer's go through the operators; otherwise 0."""
        self.sends = False
        """Whether a layer's tokens are going to their experts' ranks by all-to-all."""

    def ranks(self) -> npu.Ranks:
        """The experts' ranks, for the operators; all ask together the first time."""
        if self._ranks is None:
            self._ranks = npu.ranks_of(self._device_group)
            logger.info("Tokens reach the experts of %d ranks within MoeDistributeDispatchV2.", self._ranks.size)
        return self._ranks

    def all_to_all(self, out: Any, x: Any, arriving: list[int] | None = None, going: list[int] | None = None) -> None:
        """Rows to each rank and from each into `out`; without sizes as many for each.

        Through the group of the data-parallel ranks, which are the same: operators want the experts' for themselves.
        """
        torch.distributed.all_to_all_single(out, x, arriving, going, group=get_dp_group().device_group)

    def _dispatch(
        self,
        hidden_states: Any,
        router_logits: Any,
        is_sequence_parallel: bool = False,
        extra_tensors: list[Any] | None = None,
    ) -> Any:
        """All ranks' tokens, or the own ones as they are where the experts' operators will move them."""
        # With sequence parallelism the tokens are gathered in the very group that the operators would need alone.
        own_tokens = not is_sequence_parallel and extra_tensors is None
        if self._may_fuse and own_tokens:
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
        if self._may_send and own_tokens:
            self.sends = True
            return hidden_states, router_logits
        extra = () if extra_tensors is None else (extra_tensors,)
        return getattr(super(), _DISPATCH)(hidden_states, router_logits, is_sequence_parallel, *extra)

    def combine(self, hidden_states: Any, is_sequence_parallel: bool = False) -> Any:
        """The own tokens' answers: already there behind the operators, otherwise added up and scattered."""
        if self.fused_tokens or self.sends:
            self.fused_tokens, self.sends = 0, False
            return hidden_states
        return super().combine(hidden_states, is_sequence_parallel)


setattr(NPUAll2AllManager, _DISPATCH, NPUAll2AllManager._dispatch)
