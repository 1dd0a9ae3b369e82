"""vLLM's allocator of sleep mode, for NPUs."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from vllm.logger import init_logger

from ascend_patch import npu

logger = init_logger("vllm.ascend_patch.sleep_mode")

# What may stay asleep when only some tags are woken; everything else is needed by either.
_DEFERRABLE = ("weights", "kv_cache")
_GIB = float(1 << 30)


@cache
def sleeping_memory() -> SleepingMemory:
    """The one of this process.

    Raises:
        ValueError: see `SleepingMemory`.
    """
    memory = SleepingMemory()
    atexit.register(memory.release_pools)
    return memory


class SleepingMemory:
    """Device memory by tags, as vLLM's worker asks for it; the addresses of tensors stay the same through a sleep.

    Raises:
        ValueError: torch-npu's expandable segments are on, which custom pools do not go with.
    """

    def __init__(self) -> None:
        if "expandable_segments:True" in os.environ.get("PYTORCH_NPU_ALLOC_CONF", ""):
            raise ValueError(
                "Sleep mode and expandable segments exclude each other: take expandable_segments:True out of"
                " PYTORCH_NPU_ALLOC_CONF, or leave sleep mode off."
            )
        self._memory = npu.SegmentPool()

    @contextmanager
    def use_memory_pool(self, tag: str | None = None) -> Iterator[None]:
        """What this thread allocates within has the tag (``weights``, ``kv_cache``)."""
        with self._memory.active(tag or "default"):
            yield

    def sleep(self, offload_tags: tuple[str, ...] | str | None = None) -> None:
        """Keep the contents of these tags on the host, forget all others, give the device's memory back."""
        kept = (offload_tags,) if isinstance(offload_tags, str) else offload_tags or ()
        torch.npu.synchronize()
        saved = forgotten = 0
        for segment in self._memory.segments.values():
            if not segment.backed:
                continue
            keep = segment.tag in kept
            segment.drop(keep)
            saved, forgotten = saved + segment.size * keep, forgotten + segment.size * (not keep)
        logger.info("Asleep: %.2f GiB are on the host, %.2f GiB are forgotten.", saved / _GIB, forgotten / _GIB)
        gc.collect()
        torch.npu.empty_cache()

    def discard(self, tags: tuple[str, ...] | str) -> None:
        """Forget what has these tags and is awake."""
        chosen = (tags,) if isinstance(tags, str) else tags
        torch.npu.synchronize()
        for segment in self._memory.segments.values():
            if segment.backed and segment.tag in chosen:
                segment.drop()

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Bring back what has one of these tags (None: everything), with its contents where they were kept.

        Raises:
            RuntimeError: the device has too little free memory. What is awake by then stays so, and a later call goes
                on with the rest.
        """
        gc.collect()
        torch.npu.empty_cache()
        for segment in self._memory.segments.values():
            if segment.backed or not (tags is None or segment.tag in tags or segment.tag not in _DEFERRABLE):
                continue
            try:
                segment.back()
            except MemoryError as error:
                free, total = torch.npu.mem_get_info(segment.device)
                raise RuntimeError(
                    f"Cannot wake up {segment.tag}: {segment.size / _GIB:.2f} GiB wanted, {free / _GIB:.2f} of"
                    f" {total / _GIB:.2f} GiB are free on NPU {segment.device} ({error}). Free memory there (another"
                    " process?) and wake up again."
                ) from error

    def get_current_usage(self) -> int:
        """Bytes of all segments, those asleep among them."""
        return sum(segment.size for segment in self._memory.segments.values())

    def release_pools(self) -> None:
        """Give the pools up while torch-npu still exists."""
        self._memory.close()
        gc.collect()
