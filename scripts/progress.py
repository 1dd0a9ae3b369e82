"""A list of steps with elapsed times, and commands whose output goes to a log file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SPINNER = "|/-\\"
HEARTBEAT_SECONDS = 20.0
# pip repeats these for every unused folder of a configured local index.
NOISE = re.compile(r"^WARNING: (Location|The candidate selected for download or install is a yanked)")
REMEDIES = [
    (r"No space left on device|Errno 28", "The disk is full: free some space and run the same command again."),
    (
        r"Name or service not known|Temporary failure in name resolution|Network is unreachable|NewConnectionError"
        r"|ConnectTimeout|Connection refused|ReadTimeoutError|Max retries exceeded|CERTIFICATE_VERIFY_FAILED",
        "The package index cannot be reached: check the network, or name a mirror with PIP_INDEX_URL, and run again.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "The package index has no such package for this Python and machine: use Python 3.11 on x86-64 or aarch64 Linux,"
        " or name an index that has it (PIP_INDEX_URL; for torch --torch-index).",
    ),
]


class SetupError(Exception):
    """A step cannot be done; the message names the cause and the remedy."""


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `41 s`, `2 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Progress:
    """Shows which step is under way: a moving line on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, log_file: Path) -> None:
        self.total = total
        self.number = 0
        self.log_file = log_file
        self.detail = ""
        self.moving = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
        self.begun = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Count and time one step. The title is printed before it begins."""
        self.number += 1
        label = f"[{self.number:>2}/{self.total}] {title}"
        self.detail = ""
        begun = time.monotonic()
        finished = threading.Event()
        if not self.moving:
            print(f"{label} ...", end="", flush=True)
        ticker = threading.Thread(target=self._tick, args=(label, begun, finished), daemon=True)
        ticker.start()
        outcome = "failed"
        try:
            yield
            outcome = format_seconds(time.monotonic() - begun)
        finally:
            finished.set()
            ticker.join()
            print(f"\r\033[K{label}: {outcome}" if self.moving else f" {outcome}", flush=True)

    def skip(self, title: str) -> None:
        """Count a step that was done by an earlier run."""
        self.number += 1
        print(f"[{self.number:>2}/{self.total}] {title}: already there", flush=True)

    def _tick(self, label: str, begun: float, finished: threading.Event) -> None:
        turn = 0
        while not finished.wait(0.2 if self.moving else HEARTBEAT_SECONDS):
            turn += 1
            elapsed = format_seconds(time.monotonic() - begun)
            if self.moving:
                line = f"{SPINNER[turn % 4]} {label}  {elapsed}  {self.detail}"
                print("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
            else:
                print(f" {elapsed} ...", end="", flush=True)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Run a command with its output in the log file; return its standard output and error.

        Raises:
            SetupError: it ended with an error; the message has the last lines and a remedy where one is known.
        """
        lines: list[str] = []
        with self.log_file.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if NOISE.match(line):
                        continue
                    log.write(line)
                    log.flush()
                    lines.append(line.rstrip())
                    self.detail = lines[-1].strip()
                code = process.wait()
            except BaseException:
                # Interrupted: take the whole group along, compilers started by pip included.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
        if code:
            raise SetupError(explain(command, code, lines, self.log_file))
        return "\n".join(lines)


def explain(command: Sequence[str], code: int, lines: Sequence[str], log_file: Path) -> str:
    """What failed, its last lines, and what to do about it."""
    text = "\n".join(lines)
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), "")
    last = "\n".join(f"    {line}" for line in lines[-8:])
    shown = " ".join(command[:6]) + (" ..." if len(command) > 6 else "")
    remedy = remedy or "Fix the cause and run the same command again."
    return f"`{shown}` ended with code {code}:\n{last}\n{remedy}\nFull log: {log_file}"
