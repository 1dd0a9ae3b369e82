"""The attention backend of vLLM up to 0.28, where a backend names the shape of its KV cache.

Keys and values are the two planes of `_backend`, under the same index order that later versions make.
"""

from __future__ import annotations

from ascend_patch.patches.attention._backend import AscendAttentionBackend


class ShapedCacheBackend(AscendAttentionBackend):
    """`AscendAttentionBackend` with a KV cache of ``[num_blocks, 2, block_size, num_kv_heads * head_size]``."""

    # Up to 0.22: attention writes into a tensor that the layer allocates.
    accept_output_buffer = True

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        return (num_blocks, 2, block_size, num_kv_heads * head_size)

    @staticmethod
    def get_kv_cache_stride_order(include_num_layers_dimension: bool = False) -> tuple[int, ...]:
        """The plane index lies outside the block index in memory, which makes each plane contiguous.

        Raises:
            NotImplementedError: for one tensor of all layers.
        """
        if include_num_layers_dimension:
            raise NotImplementedError
        return (1, 0, 2, 3)
