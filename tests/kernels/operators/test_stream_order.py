"""hostcann's check of stream order sees what a kernel reads and writes, byte by byte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = """
import torch
from ascend_patch import hostcann
hostcann.load()
import torch_npu
hostcann.attach()
torch.npu.set_device(0)
from ascend_patch.kernels.zero_blocks import zero_blocks

side = torch.npu.Stream()
cache = torch.ones(4, 64, dtype=torch.int32, device="npu")
tables = [torch.tensor([value], device="npu") for value in (cache.data_ptr(), 64, 64)]
block = torch.tensor([1], device="npu")

def zero():
    zero_blocks([cache], *tables, block)

def on_side(work):
    with torch.npu.stream(side):
        work()

def report(name, first, second, between=lambda: None):
    torch.npu.synchronize()
    first()
    between()
    try:
        on_side(second)
    except RuntimeError as error:
        print(name, "|", str(error).replace("\\n", " "))
    else:
        print(name, "|")

zero()  # compiled once, before anything is compared
report("read the block", zero, lambda: cache[1] + 1)
report("read another block", zero, lambda: cache[2] + 1)
report("write the table", zero, lambda: block.fill_(1))
report("zero a written block", lambda: cache[1].fill_(3), zero)
report("zero another block", lambda: cache[3].fill_(3), zero)
report("zero it behind an event", lambda: cache[1].fill_(3), zero, lambda: side.wait_stream(torch.npu.current_stream()))
report("zero it twice", zero, zero)
torch.npu.synchronize()
print("values |", cache.cpu()[:, 0].tolist())
"""


@cache
def reports() -> dict[str, str]:
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "HOSTCANN_STREAMS": "check"}
    done = subprocess.run(
        [sys.executable, "-c", SOURCE],
        env=environment,
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split(" |", 1) for line in done.stdout.splitlines() if " |" in line)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("read the block", r"add.*reads 256 bytes .* which zero_blocks on stream 1 wrote"),
        ("write the table", r"fill_.* writes 8 bytes .* which zero_blocks on stream 1 read"),
        ("zero a written block", r"zero_blocks on stream \d+ writes 256 bytes .* which fill_.* on stream 1 wrote"),
        ("zero it twice", r"zero_blocks on stream \d+ writes 256 bytes .* which zero_blocks on stream 1 wrote"),
    ],
)
def test_what_is_not_in_order_is_reported_with_both_names(case: str, words: str) -> None:
    assert "missing synchronisation" in reports()[case]
    assert re.search(words, reports()[case]), reports()[case]


@pytest.mark.parametrize("case", ["read another block", "zero another block", "zero it behind an event"])
def test_what_is_in_order_or_apart_is_not(case: str) -> None:
    assert reports()[case] == ""


def test_a_report_changes_no_values() -> None:
    assert reports()["values"] == " [1, 0, 1, 3]"
