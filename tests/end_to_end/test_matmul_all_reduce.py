"""Products that are added up over the ranks while they are computed: in prefill, where their patch is on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_parallel import GREEDY, OPTIONS, TENSOR
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

OPERATOR = "aclnnMatmulAllReduce"
LAYERS, PRODUCTS = 2, 2  # of each layer: attention's output and the second one of the dense block
HALF = {**OPTIONS, **TENSOR, "dtype": "float16"}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Worker]:
    process = Worker(
        tmp_path / "worker.log",
        XDG_RUNTIME_DIR=str(tmp_path),
        VLLM_ASCEND_PATCH_ENABLE="comms.matmul_all_reduce",
    )
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.mark.shows("Llama: TP2, product and all-reduce as one operator (off by default)", table="layouts")
def test_prefill_uses_it_and_decode_does_not(process: Worker, worker: Worker, tmp_path: Path) -> None:
    model = str(tmp_path / "llama")
    worker.call("make_family", family="llama", folder=model)
    many = prompts() * 2  # 932 rows in the first step, up to 8 in the others
    reference = {"folder": model, "dtype": "float32", "prompts": many, "count": GREEDY["max_tokens"]}
    expected = [answer["token_ids"] for answer in worker.call("reference_greedy", **reference)]
    process.call("load", name="fused", model=model, enable_prefix_caching=False, **HALF)
    traced = process.call("traced_ranks", name="fused", prompts=many, params=GREEDY)
    assert [answer["token_ids"] for answer in traced["answers"]] == expected
    for rank in traced["ranks"]:
        assert rank["aclnn"][OPERATOR]["calls"] == LAYERS * PRODUCTS, rank
        # The other steps add up after each product, and the embeddings of every step.
        steps = GREEDY["max_tokens"]
        assert rank["hccl"]["HcclAllReduce"]["calls"] == (steps - 1) * LAYERS * PRODUCTS + steps, rank
    process.call("unload", name="fused")
