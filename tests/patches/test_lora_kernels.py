"""What vLLM's Punica wrapper calls, with arguments that only some versions pass."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.usefixtures("device")


def test_what_every_rank_has_whole_is_read_once() -> None:
    """vLLM 0.23 gathers it along the rank: the first part counts, the other ranks' are not read."""
    from ascend_patch.patches.lora._kernels import lora_expand

    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1, 3, 16, generator=generator)
    weights = torch.randn(2, 1, 8, 16, generator=generator)
    mapping, order = torch.tensor([1, -1, 0], dtype=torch.int32), torch.tensor([1, 2, 0], dtype=torch.int32)
    none = torch.empty(0, dtype=torch.int32).npu()
    tables = (mapping.npu(), order.npu(), none, none, none, torch.tensor([False]), None)
    output = torch.zeros(3, 8).npu()
    gathered = torch.cat([inputs, torch.full_like(inputs, torch.nan)], dim=2)
    lora_expand(gathered.npu(), [weights.npu()], output, *tables, add_inputs=True)
    expected = torch.stack([weights[1, 0] @ inputs[0, 0], torch.zeros(8), weights[0, 0] @ inputs[0, 2]])
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-5, atol=1e-5)
