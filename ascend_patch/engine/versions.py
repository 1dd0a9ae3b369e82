"""Whether a version lies in a declared range. `packaging` is imported on first use: a start rarely needs it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from .installed import distribution_version


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


def is_untagged(version: str) -> bool:
    """Whether a version looks like that of a build from sources without tags, as ``0.1.dev1+g5e40263c3`` does."""
    return version.startswith(("0.1.dev", "0.0"))


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
