"""Attention over keys and values that the cache keeps as int8, with steps that are known beforehand.

A request with one new token attends in the cache, by the operator that takes int8. For prompts there is none that also
follows a block table: what they see is brought together and back into the model's type, a chunk at a time. Their own
tokens are read as they were written, so that an answer does not depend on where a prompt was cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from ascend_patch import npu
from ascend_patch.patches.attention._backend import AscendAttentionImpl, AscendAttentionMetadata
from ascend_patch.patches.attention._context import ContextChunk, plan, plan_windows

# Most tokens of a context that are brought back into the model's type at once.
CONTEXT_ROWS = 16 * 1024


@dataclass(frozen=True, slots=True)
class Steps:
    """What the integers of keys, or of values, stand for: ``(integer + offset) * scale``; and the way to them.

    Attributes:
        scale: ``[1]`` or ``[1, num_kv_heads * head_size]``, the model's type.
        offset: like `scale`; None for zero.
        reciprocal: of `scale`, with one dimension.
        zero_point: ``-offset``, with one dimension; None for zero.
    """

    scale: torch.Tensor
    offset: torch.Tensor | None
    reciprocal: torch.Tensor
    zero_point: torch.Tensor | None

    @classmethod
    def of(cls, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype) -> Steps:
        """From a checkpoint's numbers, one for all or one per channel; its integers are ``x / scale + zero_point``."""
        shape = (1,) if scale.numel() == 1 else (1, scale.numel())
        offset = None if zero_point is None else (-zero_point).to(dtype).reshape(shape).contiguous()
        scale = scale.to(dtype).reshape(shape).contiguous()
        reciprocal = (1 / scale.float()).to(dtype).flatten()
        return cls(scale, offset, reciprocal, None if offset is None else (-offset).flatten())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those that there are, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def become(self, new: Steps) -> None:
        """Write the numbers of `new`, which has the same tensors, where these are: a captured graph reads there."""
        found = new.tensors()
        for name, tensor in self.tensors().items():
            tensor.copy_(found[name])


@dataclass(slots=True)
class Prompts:
    """The requests of a batch that have several new tokens.

    Attributes:
        query_ends: cumulative query lengths, one per request, on the host.
        slots: ``[tokens]``, the cache slot of each new token.
        context: what these requests have in the cache besides.
    """

    query_ends: list[int]
    slots: torch.Tensor
    context: list[ContextChunk]


class AscendInt8Impl(AscendAttentionImpl):
    """`AscendAttentionImpl` of a layer whose cache is int8."""

    def __init__(self, whole: AscendAttentionImpl, keys: Steps, values: Steps) -> None:
        """Take the place of `whole`, which has not attended yet.

        Raises:
            ValueError: the operator cannot attend so; or `whole` is not a decoder's attention to its own tokens.
        """
        for name, value in vars(whole).items():
            setattr(self, name, value)
        if type(whole) is not AscendAttentionImpl:
            raise ValueError("only a decoder's attention to its own tokens can keep int8: leave its cache unquantized")
        self.steps = (keys, values)
        self._attend = self._attend_int8

    def _rehearse(self, output: torch.Tensor) -> torch.Tensor:
        """Claim what a long context takes while vLLM measures memory."""
        rows, width = CONTEXT_ROWS + output.shape[0], self.num_kv_heads * self.head_size
        claimed = [output.new_empty(2, rows, width, dtype=dtype) for dtype in (torch.int8, self.steps[0].scale.dtype)]
        del claimed
        return output.zero_()

    def _write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        shape, (keys, values) = key.shape, self.steps
        npu.scatter_kv_cache(
            npu.quantise(key.flatten(1), keys.reciprocal, keys.zero_point).view(shape),
            npu.quantise(value.flatten(1), values.reciprocal, values.zero_point).view(shape),
            self._keys,
            self._values,
            slots,
        )

    def _attend_int8(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        decodes = batch.num_decodes
        if decodes == len(batch.kv_lens):
            return self._attend_decodes(query, batch)
        attend = self._attend_prompts if self.window is None else self._attend_windows
        if not decodes:
            return attend(query, batch)
        return torch.cat((self._attend_decodes(query[:decodes], batch), attend(query[decodes:], batch)))

    def _attend_decodes(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        block_table, kv_lens, hidden = _decodes(batch, self.window)
        keys, values = self.steps
        return npu.int8_attention(
            query,
            self._flat_keys,
            self._flat_values,
            keys.scale,
            values.scale,
            keys.offset,
            values.offset,
            block_table=block_table,
            kv_lens=kv_lens,
            num_kv_heads=self.num_kv_heads,
            scale=self.scale,
            hidden=hidden,
        )

    def _attend_prompts(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        prompts = _prompts(batch)
        ends = prompts.query_ends
        own = self._restored(prompts.slots)
        if not prompts.context:
            return npu.varlen_attention(
                query, *own, query_ends=ends, kv_ends=ends, num_heads=self.num_heads, scale=self.scale,
                causal=batch.causal, window=None,
            )  # fmt: skip
        total, lse = self._attend_part(query, own, ends, ends, causal=batch.causal)
        for chunk in prompts.context:
            part = self._attend_part(
                query[chunk.tokens], self._restored(chunk.slots), chunk.query_ends, chunk.kv_ends, causal=False
            )
            merged = npu.merge_attention(total[chunk.tokens], lse[chunk.tokens], *part)
            total[chunk.tokens], lse[chunk.tokens] = merged
        return total

    def _attend_part(
        self,
        query: torch.Tensor,
        keys_values: tuple[torch.Tensor, torch.Tensor],
        query_ends: list[int],
        kv_ends: list[int],
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return npu.varlen_attention_and_lse(
            query, *keys_values, query_ends=query_ends, kv_ends=kv_ends, num_heads=self.num_heads, scale=self.scale,
            causal=causal,
        )  # fmt: skip

    def _attend_windows(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        output = torch.empty_like(query)
        for chunk in _windows(batch, self.window):
            output[chunk.tokens] = npu.varlen_attention(
                query[chunk.tokens],
                *self._restored(chunk.slots),
                query_ends=chunk.query_ends,
                kv_ends=chunk.kv_ends,
                num_heads=self.num_heads,
                scale=self.scale,
                causal=batch.causal,
                window=self.window,
            )
        return output

    def _restored(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of these slots in the model's type, each ``[slots, num_kv_heads, head_size]``."""
        width = self.num_kv_heads * self.head_size
        pairs = zip((self._flat_keys, self._flat_values), self.steps, strict=True)
        keys, values = (
            npu.dequantise(cache.view(-1, width).index_select(0, slots), steps.scale, steps.offset).view(
                -1, self.num_kv_heads, self.head_size
            )
            for cache, steps in pairs
        )
        return keys, values


def _prompts(batch: AscendAttentionMetadata) -> Prompts:
    """Computed once per batch."""
    if "prompts" not in batch.kept:
        first = batch.num_decodes
        ends, kv_lens = _query_ends(batch), batch.kv_lens[first:]
        news = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        contexts = [length - new for length, new in zip(kv_lens, news, strict=True)]
        context = plan(contexts, ends, batch.block_table[first:], batch.block_size, CONTEXT_ROWS)
        slots = batch.slot_mapping[first : batch.num_actual_tokens]
        batch.kept["prompts"] = Prompts(ends, slots, context)
    prompts: Prompts = batch.kept["prompts"]
    return prompts


def _windows(batch: AscendAttentionMetadata, window: int | None) -> list[ContextChunk]:
    """What the requests with several new tokens see of the cache; computed once per batch and window."""
    assert window is not None
    if ("windows", window) not in batch.kept:
        first = batch.num_decodes
        batch.kept["windows", window] = plan_windows(
            batch.kv_lens[first:],
            _query_ends(batch),
            batch.block_table[first:],
            batch.block_size,
            window,
            CONTEXT_ROWS,
        )
    chunks: list[ContextChunk] = batch.kept["windows", window]
    return chunks


def _query_ends(batch: AscendAttentionMetadata) -> list[int]:
    first = batch.num_decodes
    return [end - first for end in batch.query_ends[first:]]


def _decodes(batch: AscendAttentionMetadata, window: int | None) -> tuple[torch.Tensor, list[int], torch.Tensor | None]:
    """Block table, lengths and what a window hides of the requests with one new token; once per batch and window."""
    if ("decodes", window) not in batch.kept:
        lengths = batch.kv_lens[: batch.num_decodes]
        table, hidden = batch.block_table[: batch.num_decodes], None
        if window is not None:
            table, lengths, hidden = _within(table, lengths, window, batch.block_size)
        batch.kept["decodes", window] = table, lengths, hidden
    found: tuple[torch.Tensor, list[int], torch.Tensor | None] = batch.kept["decodes", window]
    return found


def _within(
    table: torch.Tensor, lengths: list[int], window: int, block_size: int
) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """The blocks that a window reaches into, the lengths counted from the first of them, and what is before it there.

    Uploads from pinned memory: a copy from any other would wait for the device.
    """
    skipped = [max(length - window, 0) // block_size for length in lengths]
    left = [length - blocks * block_size for length, blocks in zip(lengths, skipped, strict=True)]
    numbers = torch.tensor([skipped, left], dtype=torch.int32, pin_memory=True).to(table.device, non_blocking=True)
    width = -(-max(left) // block_size)
    columns = numbers[0].unsqueeze(1) + torch.arange(width, dtype=torch.int32, device=table.device)
    reached = table.gather(1, columns.clamp_(max=table.shape[1] - 1).long())
    positions = torch.arange(width * block_size, dtype=torch.int32, device=table.device)
    hidden = positions < (numbers[1] - window).unsqueeze(1)
    return reached, left, hidden.view(len(lengths), 1, 1, -1)
