"""Versions: which distributions are installed, and whether a version lies in a declared range.

`packaging` is imported on first use and `importlib.metadata` not at all: both
cost more than everything else that happens while the patched package starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path


def normalised(name: str) -> str:
    """The comparable form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution_version(name: str, path: Iterable[str] | None = None) -> str | None:
    """The version of an installed distribution, read from the names of its ``.dist-info`` folder."""
    wanted = normalised(name)
    for folder in sys.path if path is None else path:
        place = Path(folder)  # '' is the current one, and means another folder after each change of it
        try:
            changed = place.stat().st_mtime_ns
        except OSError:
            continue
        version = _distributions(str(place.absolute()), changed).get(wanted)
        if version is not None:
            return version
    return None


@lru_cache(maxsize=64)
def _distributions(folder: str, changed: int) -> Mapping[str, str]:
    """The versions of what is installed in a folder as it was at `changed`: a start asks for several of them."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            stem, dot, extension = entry.name.rpartition(".")
            if dot and extension in ("dist-info", "egg-info"):
                name, dash, version = stem.partition("-")
                if dash:
                    found.setdefault(normalised(name), version.split("-py3")[0])
    return found


def is_version(text: str) -> bool:
    """Whether `text` is a PEP 440 version."""
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


@cache
def release_of(version: str) -> str:
    """The release a version belongs to, without pre-, dev-, post- and local parts.

    Specifiers exclude pre-releases on purpose: ``0.33.0rc1`` lies neither in ``<0.33`` nor
    in ``>=0.33``. For a patch the question is which sources it meets, and those of a release
    candidate or of a nightly build are best described by the release they lead to. What they
    really contain is the contract's business.
    """
    from packaging.version import Version

    return Version(version).base_version


def is_development(version: str) -> bool:
    """Whether a version is that of a build between two releases, as ``0.22.1.dev300+gabc`` is."""
    from packaging.version import Version

    return Version(version).is_devrelease


def newer(version: str, than: str) -> bool:
    """Whether the release of one version comes after that of another."""
    from packaging.version import Version

    return Version(release_of(version)) > Version(release_of(than))


@cache
def fits(version: str, specifier: str) -> bool:
    """Whether `version` lies in `specifier`; see `release_of` for pre-releases and local builds."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(release_of(version), prereleases=True)


def unmet(needs: Iterable[str]) -> list[str]:
    """Those of the requirements that the installed distributions do not meet, each with what was found."""
    from packaging.requirements import Requirement

    missing = []
    for text in needs:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = distribution_version(requirement.name)
        if version is None:
            missing.append(f"{text} (not installed)")
        elif not fits(version, str(requirement.specifier)):
            missing.append(f"{text} (installed: {version})")
    return missing
