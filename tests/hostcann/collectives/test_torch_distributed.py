"""torch.distributed with torch-npu's own hccl back end: every collective and type against gloo on the same data."""

from __future__ import annotations

import pytest

from .conftest import Processes

REDUCED = ["int8", "int16", "int32", "int64", "float16", "float32", "bfloat16"]
MOVED = [*REDUCED, "uint8", "float64"]


@pytest.mark.parametrize("dtype", REDUCED)
@pytest.mark.parametrize("case", ["all_reduce", "reduce", "reduce_scatter"])
def test_reductions_equal_gloos(torch_ranks: Processes, case: str, dtype: str) -> None:
    torch_ranks.run({"case": case, "dtype": dtype})


@pytest.mark.parametrize("dtype", MOVED)
@pytest.mark.parametrize(
    "case",
    [
        "broadcast",
        "all_gather",
        "all_gather_into_a_list",
        "all_to_all",
        "all_to_all_with_splits",
        "scatter",
        "gather",
        "send_and_receive",
        "batched_send_and_receive",
    ],
)
def test_moved_data_equals_gloos(torch_ranks: Processes, case: str, dtype: str) -> None:
    torch_ranks.run({"case": case, "dtype": dtype})


@pytest.mark.parametrize("case", ["objects", "groups", "asynchronous", "other_work_goes_on", "barrier"])
def test_what_programs_build_on_them(torch_ranks: Processes, case: str) -> None:
    torch_ranks.run({"case": case, "dtype": "float32"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_different_sizes(torch_ranks: Processes, dtype: str) -> None:
    torch_ranks.run({"case": "rows_of_different_sizes", "dtype": dtype})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tokens_reach_their_experts_and_return(torch_ranks: Processes, dtype: str) -> None:
    torch_ranks.run({"case": "experts", "dtype": dtype})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_are_added_up(torch_ranks: Processes, dtype: str) -> None:
    torch_ranks.run({"case": "products", "dtype": dtype})
