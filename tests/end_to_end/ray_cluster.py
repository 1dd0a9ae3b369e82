"""A Ray cluster of one node on this machine, started by somebody who knows nothing of the overlay."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.end_to_end.server import free_port

# Ray binds every interface, unless its node is the loopback address, which it resolves to the machine's own as long
# as this is not off. The token keeps other users of the machine out.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1", "RAY_AUTH_MODE": "token"}


class RayCluster:
    """`devices` NPUs by declaration: Ray itself looks for device files, which an emulated NPU has not."""

    def __init__(self, devices: int) -> None:
        # Ray puts sockets there, whose paths have a short limit, so pytest's own folders will not do.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        self._segments: set[Path] = set()
        token = secrets.token_hex(32)
        port = str(free_port())
        self.environment = {**LOOPBACK, "RAY_AUTH_TOKEN": token, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        options = {
            "node-ip-address": "127.0.0.1",
            "port": port,
            "include-dashboard": "false",
            "num-cpus": "4",
            "object-store-memory": str(100 << 20),
            "resources": json.dumps({"NPU": devices}),
            "temp-dir": self._folder,
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"]
        try:
            subprocess.run(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env={**bare, **LOOPBACK, "RAY_AUTH_TOKEN": token},
                cwd=self._folder,
                timeout=180,
                check=True,
                capture_output=True,
            )
        except BaseException:
            self.close()
            raise

    def _processes(self) -> list[int]:
        """Everything that this cluster started: each has its token."""
        token = f"RAY_AUTH_TOKEN={self.environment['RAY_AUTH_TOKEN']}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if token in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:  # it ended meanwhile, or is another user's
                    continue
        return found

    def remember_segments(self) -> None:
        """The shared memory that its processes and drivers have at this moment, for `close` to look after.

        Ray kills a worker together with the tracker that would remove the segments of vLLM's message queues, and leaves
        the semaphores of its compiled graphs itself.
        """
        for process in self._processes():
            try:
                maps = Path(f"/proc/{process}/maps").read_text()
            except OSError:  # it ended meanwhile
                continue
            self._segments |= {Path(name) for name in re.findall(r"/dev/shm/(?:psm_|sem\.hdr|sem\.obj)[\w-]+", maps)}

    def close(self) -> None:
        """End the cluster; nothing of it stays behind."""
        deadline = time.monotonic() + 30
        while (running := self._processes()) and time.monotonic() < deadline:
            for process in running:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for segment in self._segments:
            segment.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        assert not running, f"processes of a Ray cluster are left: {running}"
