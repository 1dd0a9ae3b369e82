"""Plans kept between processes: a vLLM instance is several, and each would decide the same from the same files.

A kept plan counts only while everything it was made from is as it was: each file that was read, each that was looked
for and not there, our own sources, the installed versions that patches asked for. Whatever is wrong with it (no folder,
a broken file, another owner) costs the time of planning anew and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ascend_patch.value import Value

from . import plan as plans
from . import registry, vocabulary
from .installed import distribution_version
from .plan import Plan, Selection
from .registry import Registry
from .sources import SourceTree

MOST_PLANS = 40
"""Files in the folder; the oldest go. A plan takes some 50 kB."""
FRESH_NS = 2_000_000_000
"""A file written less than this ago may change again without a new time stamp, and does not witness anything."""

_CLASSES: Mapping[tuple[str, str], type] = {
    (one.__module__, one.__qualname__): one
    for one in (
        *(vocabulary.State, vocabulary.Patch, vocabulary.Variant, vocabulary.Expiry, vocabulary.Retarget),
        *(vocabulary.Register, vocabulary.Replace, vocabulary.Wrap, vocabulary.Add),
        *(plans.Plan, plans.Decision, plans.Finding, plans.Standing, registry.Registry),
    )
}

Stamp = tuple[int, int, int] | None
"""When a file was written, when its entry changed, its size; None when there is none."""


class Question(Value):
    """What a plan answers.

    Attributes:
        origin: the folder that holds the patched package.
        version: what the tree says about itself.
        assumed: the version that the user says it is, ''; and who says so.
        own: folders of our sources: patches, contracts, this engine.
    """

    package: str
    origin: str
    version: str
    selection: Selection
    assumed: tuple[str, str]
    own: tuple[str, ...]

    @property
    def file(self) -> str:
        """The name of the file with the answer."""
        chosen = self.selection.as_dict().items()
        selection = {name: sorted(part) if isinstance(part, frozenset) else part for name, part in chosen}
        parts = {**self.as_dict(), "selection": selection, "python": sys.version, "machine": os.uname().machine}
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24] + ".plan"


class Answer(Value):
    """What was decided, and by whom."""

    registry: Registry
    plan: Plan


def recall(folder: Path, question: Question) -> Answer | None:
    """The kept answer, or None when there is none or anything it was made from changed."""
    try:
        with Path(folder, question.file).open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            data = io.BytesIO(file.read())
        stamps, installed = _Unpickler(data).load()
        if any(_stamp(path) != known for path, known in stamps.items()):
            return None
        if any(distribution_version(name) != version for name, version in installed.items()):
            return None
        return Answer(*_Unpickler(data).load())
    except Exception:  # unreadable, cut off, from another release of ours: planning anew answers as well
        return None


def keep(folder: Path, question: Question, answer: Answer, tree: SourceTree) -> None:
    """Keep an answer that was just found, with what it depends on. Never raises."""
    with contextlib.suppress(Exception):
        answer = answer.changed(plan=_without_agreement(answer.plan))
        stamps = {path: _stamp(path) for path in {*_own(question.own), *tree.looked_for(), *_functions(answer.plan)}}
        newest = max(known[0] for known in stamps.values() if known is not None)
        if newest > time.time_ns() - FRESH_NS:
            return
        answer.plan.fingerprint  # noqa: B018 - computed once, and then kept with the rest
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / question.file, (stamps, _installed(answer.registry)), (answer.registry, answer.plan))
        _remove_oldest(folder)


def _without_agreement(plan: Plan) -> Plan:
    """What agreed with its contract needs no mention, and its class no import."""
    decisions = {
        id: item.changed(findings=tuple(finding for finding in item.findings if finding.problem))
        for id, item in plan.decisions.items()
    }
    return plan.changed(decisions=decisions)


def _write(path: Path, *parts: object) -> None:
    """Write all or nothing, readable by this user alone."""
    handle, draft = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                pickler = pickle.Pickler(file, protocol=5)
                pickler.dispatch_table = _REDUCERS
                pickler.dump(part)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise


def _frozen(entries: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(entries)


# Mapping proxies cannot be pickled, and Python 3.11 before 3.11.4 pickles members of enumerations by way of `getattr`.
_REDUCERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    MappingProxyType: lambda mapping: (_frozen, (dict(mapping),)),
    vocabulary.State: lambda state: (vocabulary.State, (state.value,)),
}


class _Unpickler(pickle.Unpickler):
    """Builds the classes of a plan and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        if (module, name) == (__name__, _frozen.__name__):
            return _frozen
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a plan")


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - hundreds of them: no Path for each
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _own(folders: Iterable[str]) -> Iterator[str]:
    """Our folders, for what comes and goes, and the declarations, functions and contracts in them."""
    for folder in folders:
        yield folder
        with os.scandir(folder) as entries:
            inside = list(entries)
        yield from (entry.path for entry in inside if entry.name.endswith((".py", ".json")))
        yield from _own(entry.path for entry in inside if entry.name != "__pycache__" and entry.is_dir())


def _functions(plan: Plan) -> Iterator[str]:
    """The files whose contents are in the fingerprint."""
    for module in {name for decision in plan.accepted for name in plans.modules_of(decision)}:
        spec = plans.spec_of(module)
        if spec is not None and spec.origin:
            yield spec.origin


def _installed(known: Registry) -> dict[str, str | None]:
    """The distributions that some variant needs, with their versions here."""
    from packaging.requirements import Requirement

    texts = {text for patch in known for variant in patch.variants for text in variant.needs}
    names = {Requirement(text).name for text in texts}
    return {name: distribution_version(name) for name in names}


def _remove_oldest(folder: Path) -> None:
    """Plans, and drafts of processes that were killed while they wrote."""
    newest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in newest_first[MOST_PLANS:]:
        path.unlink(missing_ok=True)
