"""What the platform and the attention backend both need to know of the KV cache; imports nothing."""

# Tokens per block of the KV cache: the fused attention operators page in blocks of 128 for every head size.
KV_BLOCK_SIZE = 128
