"""Latent attention of one layer where the context of several prompts is cut into chunks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("device")
HEADS, BLOCK, SCALE = 2, 128, 0.1
LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_pieces_cover_every_context_once_and_in_order(contexts: list[int], rows: int) -> None:
    from ascend_patch.patches.attention._context import pieces

    chunks = pieces(contexts, rows)
    found: list[list[int]] = [[] for _ in contexts]
    for chunk in chunks:
        requests = [request for request, _, _ in chunk]
        assert requests == list(range(requests[0], requests[0] + len(requests)))
        assert 0 < sum(count for _, _, count in chunk) <= rows
        for request, start, count in chunk:
            found[request] += range(start, start + count)
    assert found == [list(range(length)) for length in contexts]


class Prompts:
    """Prompts whose first `contexts` tokens are in the cache and whose next `queries` ones are new."""

    def __init__(self, contexts: list[int], queries: list[int]) -> None:
        self.contexts, self.queries = contexts, queries
        lengths = [context + query for context, query in zip(contexts, queries, strict=True)]
        columns = max(-(-length // BLOCK) for length in lengths)
        order = torch.randperm(columns * len(lengths) + 2, generator=torch.Generator().manual_seed(1))
        self.blocks = len(order)
        self.table = order[: columns * len(lengths)].view(len(lengths), columns).int()
        self.latents = [random(length, LATENT, seed=10 + row) * 0.3 for row, length in enumerate(lengths)]
        self.ropes = [random(length, ROPE, seed=30 + row) for row, length in enumerate(lengths)]
        self.query = random(sum(queries), HEADS, NOPE + ROPE, seed=50)
        self.weight = random(LATENT, HEADS * (NOPE + VALUE), seed=51) * 0.05

    def new(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([part[context:] for part, context in zip(parts, self.contexts, strict=True)])

    def cache(self) -> torch.Tensor:
        """The contexts' tokens in two planes; everything else is not a number."""
        planes = [torch.full((self.blocks * BLOCK, size), torch.nan, dtype=torch.bfloat16) for size in (LATENT, ROPE)]
        for row, context in enumerate(self.contexts):
            for position in range(context):
                slot = int(self.table[row, position // BLOCK]) * BLOCK + position % BLOCK
                planes[0][slot] = self.latents[row][position]
                planes[1][slot] = self.ropes[row][position]
        return torch.cat([plane.flatten() for plane in planes]).view(self.blocks, BLOCK, LATENT + ROPE)

    def expected(self) -> torch.Tensor:
        """Attention in float64 over keys and values of whole prompts, multiplied out as the layer's product is."""
        results, first = [], 0
        for row, count in enumerate(self.queries):
            both = (self.latents[row].float() @ self.weight.float()).to(torch.bfloat16).double()
            keys, values = both.view(-1, HEADS, NOPE + VALUE).split([NOPE, VALUE], -1)
            ropes = self.ropes[row].double().unsqueeze(1).expand(-1, HEADS, -1)
            query = self.query[first : first + count].double()
            scores = torch.einsum("qhd,khd->hqk", query, torch.cat((keys, ropes), -1)) * SCALE
            order = torch.arange(scores.shape[-1])
            hidden = order > order[self.contexts[row] :].unsqueeze(1)
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            results.append(torch.einsum("hqk,khd->qhd", weights, values))
            first += count
        return torch.cat(results).flatten(1)


@pytest.mark.parametrize("rows", [16, 100, 4096])
@pytest.mark.parametrize(
    ("contexts", "queries"), [([300], [5]), ([0, 130, 0, 7], [3, 2, 4, 9]), ([20, 20, 20], [2, 2, 2]), ([0], [4])]
)
def test_context_in_chunks(contexts: list[int], queries: list[int], rows: int) -> None:
    from ascend_patch.patches.attention._context import plan
    from ascend_patch.patches.attention._latent import AscendLatentImpl, PrefillBatch

    prompts = Prompts(contexts, queries)
    weight = prompts.weight.npu()

    def project(latents: torch.Tensor) -> tuple[torch.Tensor, None]:
        return latents @ weight, None

    impl = AscendLatentImpl(HEADS, LATENT + ROPE, SCALE, 1, None, None, "auto", None, "decoder", None, None, LATENT,
                            NOPE, ROPE, NOPE + ROPE, VALUE, project)  # fmt: skip
    ends = torch.tensor(queries).cumsum(0).tolist()
    batch = PrefillBatch(ends, plan(contexts, ends, prompts.table.npu(), BLOCK, rows))
    output = torch.full((sum(queries), HEADS * VALUE), torch.nan, dtype=torch.bfloat16).npu()
    metadata: Any = SimpleNamespace(prefill=batch)
    impl.forward_mha(
        prompts.query.npu(),
        prompts.new(prompts.latents).npu(),
        prompts.new(prompts.ropes).unsqueeze(1).npu(),
        prompts.cache().npu(),
        metadata,
        torch.empty(0),
        output,
    )
    # Every merge rounds to bfloat16 once more.
    torch.testing.assert_close(output.cpu().double(), prompts.expected(), rtol=2e-2, atol=2e-2)
