"""Sources of released versions: fetched once from the package index, kept as archives of their Python files.

`pip download` would have to run the build of an sdist before it hands it over, and for vLLM that wants torch.
So the sdist is read directly, from the index that pip is set up to use, and checked against the index's hash.
A release without one (vLLM 0.15) is read from its wheel, and of that only the parts that are Python.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ascend_patch import cache
from ascend_patch.cli.errors import Refusal

DEFAULT_INDEX = "https://pypi.org/simple"
_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
_TIMEOUT_SECONDS = 60


class Release(NamedTuple):
    """A released version and the file on the index that has its sources."""

    version: str
    url: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        return self.url.partition("#")[0].endswith(".whl")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where downloaded sources are kept."""
    return cache.root(environ) / "sources"


def index_url(environ: Mapping[str, str]) -> str:
    """The package index: ``PIP_INDEX_URL``, else what pip is configured with, else PyPI."""
    if environ.get("PIP_INDEX_URL"):
        return environ["PIP_INDEX_URL"].rstrip("/")
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    configured = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
    return configured[0].rstrip("/") if configured else DEFAULT_INDEX


def released(package: str, environ: Mapping[str, str]) -> dict[str, Release]:
    """Every released version that was not withdrawn, oldest first.

    Raises:
        Refusal: the index cannot be reached or does not answer in JSON (PEP 691).
    """
    from packaging.version import Version

    from ascend_patch.engine.versions import is_version

    address = f"{index_url(environ)}/{package}/"
    answer = _get(address, accept=_SIMPLE_JSON)
    try:
        files: list[dict[str, Any]] = json.loads(answer)["files"]
    except (ValueError, KeyError, TypeError):
        raise Refusal(
            f"{_without_password(address)} does not answer in JSON (PEP 691): set PIP_INDEX_URL to an index that does"
        ) from None
    pattern = re.compile(rf"{re.escape(package)}-([^-]+)(\.tar\.gz|-.*\.whl)", re.IGNORECASE)
    found: dict[str, Release] = {}
    for file in files:
        match = pattern.fullmatch(file.get("filename", ""))
        if match and is_version(match[1]) and not file.get("yanked"):
            url = urllib.parse.urljoin(address, file["url"])
            item = Release(match[1], url, file.get("hashes", {}).get("sha256", ""))
            if match[1] not in found or not item.is_wheel:
                found[match[1]] = item
    return {version: found[version] for version in sorted(found, key=Version)}


def cached(package: str, environ: Mapping[str, str]) -> dict[str, Path]:
    """The archives that earlier downloads left in the cache, by version, oldest first."""
    from packaging.version import Version

    from ascend_patch.engine.versions import is_version

    found = {path.stem[len(package) + 1 :]: path for path in cache_folder(environ).glob(f"{package}-*.zip")}
    return {version: found[version] for version in sorted(filter(is_version, found), key=Version)}


def spelled(version: str, known: Iterable[str]) -> str | None:
    """The version among `known` that is the same one, as ``0.23.0`` is ``0.23`` and ``v0.23.0``; else None."""
    from packaging.version import Version

    return next((text for text in known if Version(text) == Version(version)), None)


def source(
    package: str, version: str, environ: Mapping[str, str], *, known: Mapping[str, Release] | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Path:  # fmt: skip
    """The archive with a release's Python files, downloaded unless it is in the cache.

    Args:
        known: what `released` answered, to ask the index once for many versions.
        announce: is told of a download before it begins.

    Raises:
        Refusal: there is no such release, or it cannot be had.
    """
    here = cached(package, environ)
    kept_as = spelled(version, here)
    if kept_as is not None:
        return here[kept_as]
    releases = released(package, environ) if known is None else known
    found = spelled(version, releases)
    if found is None:
        newest = next(reversed(list(releases)), "none")
        raise Refusal(f"{package} {version} is not on the package index: the newest version there is {newest}")
    item = releases[found]
    place = cache_folder(environ) / f"{package}-{found}.zip"
    announce(f"downloading the sources of {package} {found}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        draft = Path(folder, "draft.zip")
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as kept:
            for name, read in _wheel_members(item) if item.is_wheel else _sdist_members(item):
                parts = name.split("/")
                if len(parts) == 2 and parts[1] in ("PKG-INFO", "METADATA") and not parts[0].endswith(".egg-info"):
                    kept.writestr("sources.dist-info/METADATA", read())
                elif parts[0] == package and name.endswith(".py"):
                    kept.writestr(name, read())
        draft.replace(place)
    return place


def _sdist_members(item: Release) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names as they would be in a wheel, and how to read them."""
    data = _get(item.url)
    if item.sha256 and hashlib.sha256(data).hexdigest() != item.sha256:
        raise Refusal(
            f"{_without_password(item.url)} does not have the hash that the index names: try again, "
            "or use another index"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            root, _, name = member.name.partition("/")
            handle = archive.extractfile(member) if member.isfile() else None
            if handle is not None:
                yield (f"{root}/{name}" if name == "PKG-INFO" else name.removeprefix("src/")), handle.read


def _wheel_members(item: Release) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The same of a wheel, of which only the parts that are asked for are transferred; zip checks their sums."""
    with zipfile.ZipFile(io.BufferedReader(_RemoteFile(item.url), buffer_size=1 << 20)) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            yield entry.filename, partial(archive.read, entry)


class _RemoteFile(io.RawIOBase):
    """A file on a web server, read by ranges."""

    def __init__(self, url: str) -> None:
        self._url, self._place = url, 0
        _, headers = _request(url, method="HEAD")
        self._size = int(headers.get("Content-Length") or 0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        data, _ = _request(self._url, headers={"Range": f"bytes={self._place}-{end - 1}"})
        if len(data) != end - self._place:
            raise Refusal(f"{_without_password(self._url)}: the server does not send parts of files: use another index")
        buffer[: len(data)] = data
        self._place = end
        return len(data)


def _get(url: str, accept: str = "*/*") -> bytes:
    return _request(url, headers={"Accept": accept})[0]


def _request(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[bytes, Message]:
    shown = _without_password(url)
    request = urllib.request.Request(shown, headers={**_authorization(url), **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.read(), answer.headers
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Refusal(f"cannot read {shown}: {error}: check the network, or set PIP_INDEX_URL") from None


def _authorization(url: str) -> dict[str, str]:
    """The header for a name and password in the address, which urllib would take for a part of the host's name."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
