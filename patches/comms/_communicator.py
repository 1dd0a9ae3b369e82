"""vLLM's communicator of a group of NPUs: torch's collectives over HCCL, and those of experts on several ranks."""

from __future__ import annotations

from typing import Any

from vllm.distributed.device_communicators.base_device_communicator import DeviceCommunicatorBase

from ascend_patch import npu


class NPUCommunicator(DeviceCommunicatorBase):
    """The base class and the collectives of ranks with different numbers of rows, which it leaves out.

    Coupled data-parallel ranks run their experts together: the communicator of the experts has a manager for that.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.use_all2all:
            return
        from ascend_patch.patches.comms._all2all import NPUAll2AllManager

        manager = NPUAll2AllManager(self.cpu_group, self.device_group)
        self.all2all_manager = manager
        # The manager's own methods, whose names and arguments differ from one vLLM to the next.
        for name in ("dispatch", "dispatch_router_logits", "combine"):
            if hasattr(manager, name):
                setattr(self, name, getattr(manager, name))

    def all_gatherv(self, input_: Any, dim: int = 0, sizes: list[int] | None = None) -> Any:
        """The rows of all ranks of a tensor, or of each tensor of a list.

        Raises:
            NotImplementedError: along another dimension than the first.
        """
        if dim != 0:
            raise NotImplementedError("ascend_patch gathers different sizes along the first dimension only.")
        tensors = input_ if isinstance(input_, list) else [input_]
        gathered = [
            npu.all_gather_rows(
                tensor.contiguous(), [tensor.shape[0]] * self.world_size if sizes is None else sizes, self.device_group
            )
            for tensor in tensors
        ]
        return gathered if isinstance(input_, list) else gathered[0]

    def reduce_scatterv(self, input_: Any, dim: int = -1, sizes: list[int] | None = None) -> Any:
        """This rank's rows of the sum over all ranks."""
        rows = input_.movedim(0, dim).contiguous()
        if sizes is None:
            sizes = [rows.shape[0] // self.world_size] * self.world_size
        return npu.reduce_scatter_rows(rows, sizes, self.device_group).movedim(0, dim).contiguous()
