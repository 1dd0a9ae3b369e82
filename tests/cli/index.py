"""A package index on a free port of this machine, for one package: JSON (PEP 691), sdists, wheels read by ranges."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """One file of a release."""

    data: bytes
    sha256: str
    yanked: bool = False


@dataclass
class Index:
    """What the index holds, how it behaves, and what it was asked.

    Attributes:
        speaks_json: otherwise it answers with a page for people.
        sends_parts: whether it honours the Range header.
        asked: ``METHOD path`` of every request, with `` bytes=...`` when a part was asked for.
        authorized: the Authorization headers of requests for the page.
        sent: bytes of files that were sent.
    """

    package: str
    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    speaks_json: bool = True
    sends_parts: bool = True
    asked: list[str] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)
    sent: int = 0

    def sdist(self, version: str, members: Mapping[str, str], *, yanked: bool = False, sha256: str = "") -> None:
        """Add a release with an sdist; `members` by their path below its root folder."""
        buffer = io.BytesIO()
        metadata = f"Metadata-Version: 2.1\nName: {self.package}\nVersion: {version}\n"
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in {**members, "PKG-INFO": metadata}.items():
                info = tarfile.TarInfo(f"{self.package}-{version}/{name}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        self._add(f"{self.package}-{version}.tar.gz", buffer.getvalue(), yanked, sha256)

    def wheel(self, version: str, members: Mapping[str, str | bytes], *, yanked: bool = False) -> None:
        """Add a release with a wheel."""
        buffer = io.BytesIO()
        metadata = f"Metadata-Version: 2.1\nName: {self.package}\nVersion: {version}\n"
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in {**members, f"{self.package}-{version}.dist-info/METADATA": metadata}.items():
                archive.writestr(name, text)
        self._add(f"{self.package}-{version}-py3-none-any.whl", buffer.getvalue(), yanked, "")

    def _add(self, name: str, data: bytes, yanked: bool, sha256: str) -> None:
        self.files[name] = File(data, sha256 or hashlib.sha256(data).hexdigest(), yanked)

    def page(self) -> dict[str, object]:
        """The answer for the package; addresses of files are relative, as those of many mirrors are."""
        entries = [
            {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": file.sha256}, "yanked": file.yanked}
            for name, file in self.files.items()
        ]
        return {"meta": {"api-version": "1.0"}, "name": self.package, "files": entries}


@contextmanager
def serve(package: str) -> Iterator[Index]:
    """An empty index that answers until the block ends."""
    index = Index(package)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            part = self.headers.get("Range", "")
            index.asked.append(f"{self.command} {self.path} {part}".rstrip())
            if self.path == f"/simple/{package}/":
                index.authorized += self.headers.get_all("Authorization", [])
                kind = "application/vnd.pypi.simple.v1+json" if index.speaks_json else "text/html"
                self._send(200, json.dumps(index.page()).encode() if index.speaks_json else b"<a href=x>x</a>", kind)
                return
            file = index.files.get(self.path.rpartition("/")[2])
            if file is None:
                self._send(404, b"", "text/plain")
            elif part and index.sends_parts:
                first, _, last = part.removeprefix("bytes=").partition("-")
                self._send(206, file.data[int(first) : int(last) + 1], "application/octet-stream")
            else:
                self._send(200, file.data, "application/octet-stream")

        def _send(self, code: int, data: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)
                index.sent += len(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
