"""`vllm serve` as a user starts it, on a free port of the loopback interface."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.worker import overlay_environment

START_LIMIT = 400.0
STOP_LIMIT = 120.0


@dataclass
class Server:
    """A running server. `exit_code` is set once it has stopped."""

    address: str
    process: subprocess.Popen[bytes]
    log_file: Path
    exit_code: int | None = None

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def post(self, path: str, body: dict[str, Any], timeout: float = 120.0) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        return self._answer(path, request, timeout)

    def upload(self, path: str, file: bytes, timeout: float = 120.0, **fields: str) -> Any:
        """Send a form with a `file`, as a browser does."""
        request = urllib.request.Request(self.address + path, *form(file, fields))
        return self._answer(path, request, timeout)

    def upload_for_a_stream(self, path: str, file: bytes, timeout: float = 120.0, **fields: str) -> Iterator[Any]:
        """The events of a streamed answer to `upload`."""
        request = urllib.request.Request(self.address + path, *form(file, {**fields, "stream": "true"}))
        return self._events(request, timeout)

    def _answer(self, path: str, request: urllib.request.Request, timeout: float) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answer = response.read()
                if response.headers.get_content_type() != "application/json":
                    return answer.decode() or None
                return json.loads(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error}: {error.read().decode(errors='replace')}") from None

    def get(self, path: str, timeout: float = 30.0) -> str:
        with urllib.request.urlopen(self.address + path, timeout=timeout) as response:
            text: str = response.read().decode()
        return text

    def stream(self, path: str, body: dict[str, Any], timeout: float = 120.0) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer."""
        data = json.dumps({**body, "stream": True}).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        return self._events(request, timeout)

    @staticmethod
    def _events(request: urllib.request.Request, timeout: float) -> Iterator[Any]:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            for line in response:
                text = line.decode().strip()
                if text.startswith("data: ") and text != "data: [DONE]":
                    yield json.loads(text.removeprefix("data: "))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"vllm serve ended with code {self.process.returncode}\n{self.log()[-6000:]}")
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise AssertionError(f"vllm serve was not ready after {START_LIMIT:.0f} s\n{self.log()[-6000:]}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C or another signal, then wait; a server that does not end is killed and fails the test."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.exit_code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"vllm serve did not stop within {STOP_LIMIT:.0f} s\n{self.log()[-6000:]}") from None
        return self.exit_code


def form(file: bytes, fields: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with a `file` and other fields."""
    mark = "a-line-that-is-in-no-file"
    head = f"--{mark}\r\nContent-Disposition: form-data; name="
    texts = "".join(f'{head}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    before = f'{texts}{head}"file"; filename="sound.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    body = before.encode() + file + f"\r\n--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serve(model: Path | str, log_file: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Start the server, wait until it is ready; stop it at the end if the test has not."""
    port = free_port()
    vllm = str(Path(sys.executable).with_name("vllm"))
    command = [vllm, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), *options]
    # The engine runs in a process of its own, as it does for users.
    variables = overlay_environment(VLLM_ENABLE_V1_MULTIPROCESSING="1", **environment)
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   cwd=log_file.parent)  # fmt: skip
        server = Server(f"http://127.0.0.1:{port}", process, log_file)
        try:
            server.wait_until_ready()
            yield server
        finally:
            if process.poll() is None:
                server.stop()
