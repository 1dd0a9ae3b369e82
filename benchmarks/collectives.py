"""Bandwidth of hostcann's collectives (torch-npu's hccl back end) against gloo: same machine, same run, same data.

    python benchmarks/collectives.py [--ranks 2 4] [--seconds 0.5] [--dry-run]

GB/s of payload (bytes of the tensor over the time of a call) and the ratio, into README.md and README.zh.md. The two
take turns, so that a busy machine slows down both; the best of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import readme

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
ROUNDS = 3
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
Call = Callable[[], None]


def call(name: str, size: int, device: str, group: Any, ranks: int) -> Call:
    """One collective on float32 tensors of `size` bytes (the larger of input and output)."""
    import torch
    import torch.distributed as dist

    whole = torch.ones(size // 4, device=device)
    part = torch.ones(size // 4 // ranks, device=device)
    calls: dict[str, Call] = {
        "all_reduce": lambda: dist.all_reduce(whole, dist.ReduceOp.MAX, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, dist.ReduceOp.MAX, group=group),
        "broadcast": lambda: dist.broadcast(whole, 0, group=group),
        "all_to_all": lambda: dist.all_to_all_single(target, whole, group=group),
    }
    target = torch.empty_like(whole)
    return calls[name]


def measure(run: Call, finish: Call, seconds: float, agree: Callable[[int], int]) -> float:
    """Seconds of one call, as many calls in a row as fit into `seconds`; all ranks make the same number."""
    run()
    finish()
    begun = time.perf_counter()
    run()
    finish()
    count = agree(max(3, min(2000, int(seconds / (time.perf_counter() - begun)))))
    begun = time.perf_counter()
    for _ in range(count):
        run()
    finish()
    return (time.perf_counter() - begun) / count


def rank_main(rank: int, ranks: int, port: int, seconds: float) -> None:
    import warnings

    import torch

    from ascend_patch import hostcann

    warnings.simplefilter("ignore")
    hostcann.load()
    import torch_npu  # noqa: F401

    hostcann.attach()
    import torch.distributed as dist

    torch.npu.set_device(rank)
    dist.init_process_group("hccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    gloo = dist.new_group(backend="gloo")

    def agree(count: int) -> int:
        smallest = torch.tensor([count])
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=gloo)
        return int(smallest)

    for name in COLLECTIVES:
        for size in SIZES:
            ours = call(name, size, "npu", None, ranks)
            theirs = call(name, size, "cpu", gloo, ranks)
            best = [float("inf"), float("inf")]
            for _ in range(ROUNDS):
                best[0] = min(best[0], measure(ours, torch.npu.synchronize, seconds, agree))
                best[1] = min(best[1], measure(theirs, lambda: None, seconds, agree))
            if rank == 0:
                print(json.dumps({"name": name, "size": size, "ours": best[0], "gloo": best[1]}), flush=True)
    dist.destroy_process_group()


def group(ranks: int, seconds: float) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOSTCANN_DEVICES": str(ranks), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", str(rank), "--ranks", str(ranks), "--port", str(port),
             "--seconds", str(seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        output = processes[0].communicate(timeout=1800)[0]
        if any(process.wait(60) for process in processes):
            raise SystemExit("a rank failed; run one with --rank by hand to see its messages")
    finally:
        for process in processes:
            process.kill()
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def table(groups: dict[int, list[dict[str, Any]]]) -> str:
    """The Markdown table; `groups` holds the measurements for each number of ranks."""
    lines = [
        "| collective | tensor | " + " | ".join(f"{ranks} ranks, GB/s | of gloo's" for ranks in groups) + " |",
        "|---|---|" + "--:|--:|" * len(groups),
    ]
    for rows in zip(*groups.values(), strict=True):
        cells = []
        for row in rows:
            ours, gloo = (row["size"] / row[key] / 1e9 for key in ("ours", "gloo"))
            cells.append(f"{ours:.3f} | {ours / gloo:.2f} x")
        lines.append(f"| {rows[0]['name']} | {rows[0]['size'] >> 10} KiB | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measurement")
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the files alone")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        rank_main(arguments.rank, arguments.ranks[0], arguments.port, arguments.seconds)
        return
    text = (
        f"Collectives of hostcann, which are no NPU's, measured by `python benchmarks/collectives.py` on"
        f" {len(os.sched_getaffinity(0))} cores.\n\n"
        + table({ranks: group(ranks, arguments.seconds) for ranks in arguments.ranks})
        + "\n"
    )
    readme.publish("collectives", text, dry_run=arguments.dry_run)


if __name__ == "__main__":
    main()
