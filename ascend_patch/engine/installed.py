"""Which distributions are installed, by the names of their metadata folders: none is imported.

`importlib.metadata` alone costs more than everything else that happens while the patched package starts.
"""

# So does pathlib, in the processes that have not imported it yet:
# ruff: noqa: PTH100, PTH112, PTH113, PTH116, PTH118, PTH119, PTH123, PTH208

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from ascend_patch.value import Value


class Distribution(Value):
    """One installed distribution: its name as spelt on disk, version and metadata folder (or file)."""

    name: str
    version: str
    location: str


def copies(name: str, path: Iterable[str] | None = None) -> Iterator[Distribution]:
    """Every installed copy of a distribution on `path` (default ``sys.path``), the one that an import sees first."""
    wanted = _normalised(name)
    for folder in dict.fromkeys(sys.path if path is None else path):
        place = os.path.abspath(folder)  # '' is the current one, and means another folder after each change of it
        try:
            changed = os.stat(place).st_mtime_ns
        except OSError:
            continue
        for entry in _metadata_in(place, changed).get(wanted, ()):
            found = _distribution_at(os.path.join(place, entry))
            if found is not None:
                yield found


def distribution_version(name: str, path: Iterable[str] | None = None) -> str | None:
    """The version of the distribution that an import would see, or None."""
    return next((found.version for found in copies(name, path)), None)


def _normalised(name: str) -> str:
    """The comparable form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=64)
def _metadata_in(folder: str, changed: int) -> Mapping[str, list[str]]:
    """The metadata in a folder as it was at `changed`, by distribution: a start asks for several of hundreds."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):  # a zip file, or not ours to read
        for entry in os.listdir(folder):
            if entry.endswith((".dist-info", ".egg-info")):
                found.setdefault(_normalised(entry.rpartition(".")[0].partition("-")[0]), []).append(entry)
    return found


def _distribution_at(location: str) -> Distribution | None:
    stem = os.path.basename(location).rpartition(".")[0]
    if location.endswith(".dist-info"):
        name, _, version = stem.partition("-")
        # pip leaves an empty folder behind when an uninstall is interrupted.
        complete = os.path.isfile(os.path.join(location, "METADATA"))
        return Distribution(name, version, location) if version and complete else None
    metadata = os.path.join(location, "PKG-INFO") if os.path.isdir(location) else location
    name, version = _header(metadata, "Name"), _header(metadata, "Version")
    return Distribution(name, version, location) if name and version else None


def _header(path: str, key: str) -> str:
    """The first header of that name in a metadata file, ''."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if line.isspace():
                break
            if name == key:
                return value.strip()
    return ""
