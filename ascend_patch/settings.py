"""What the user chose: environment variables and ``ascend_patch.toml``.

Each id is decided by the highest source that names it: the environment, then the project's file
(in the current folder or one above it, up to the repository's root or the home folder), then the
user's file. The other settings likewise.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .engine.errors import SettingsError
from .engine.plan import Selection
from .engine.registry import Registry
from .value import Value

FILE = "ascend_patch.toml"
DEVICES = ("auto", "npu", "host")
_LISTS = ("disable", "only", "enable")
_KEYS = (*_LISTS, "strict", "device", "assume_version")
_VARIABLES = {
    "disable": "VLLM_ASCEND_PATCH_DISABLE",
    "only": "VLLM_ASCEND_PATCH_ONLY",
    "enable": "VLLM_ASCEND_PATCH_ENABLE",
    "strict": "VLLM_ASCEND_PATCH_STRICT",
    "device": "ASCEND_PATCH_DEVICE",
    "assume_version": "VLLM_ASCEND_PATCH_ASSUME_VERSION",
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")

__all__ = ["DEVICES", "FILE", "Settings", "SettingsError", "load", "project_file", "user_file", "write"]


class Settings(Value):
    """The settings in force.

    Attributes:
        device: ``auto``, ``npu`` or ``host``.
        assume_version: the vLLM version to choose patches by, whatever is installed; '' to go by what is found.
        origins: where each setting comes from, e.g. ``{"device": "ASCEND_PATCH_DEVICE", "disable ops.x": "a.toml:3"}``.
    """

    disable: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    enable: frozenset[str] = frozenset()
    strict: bool = False
    device: str = "auto"
    assume_version: str = ""
    origins: Mapping[str, str] = MappingProxyType({})

    @property
    def selection(self) -> Selection:
        return Selection(self.disable, self.only, self.enable, self.strict)

    def validate(self, registry: Registry) -> None:
        """Check the ids against the patches there are.

        Raises:
            SettingsError: an unknown id, or settings that contradict each other.
        """
        for key in _LISTS:
            for id in sorted(getattr(self, key)):
                if id not in registry:
                    guess = registry.suggest(id)
                    hint = f"did you mean {guess}?" if guess else "see 'ascend-patch list'"
                    raise SettingsError(f"{self._origin(key, id)}: there is no patch {id!r}: {hint}")
        for id in sorted(self.only & self.disable):
            raise SettingsError(
                f"{self._origin('disable', id)} disables {id}, which {self._origin('only', id)} selects: remove one"
            )
        if self.only:
            self._validate_only(registry)
        for id in sorted(self.enable | self.only):
            for other in registry[id].conflicts:
                if other in self.enable | self.only:
                    raise SettingsError(f"{id} and {other} are both enabled and conflict: disable one of them")

    def _validate_only(self, registry: Registry) -> None:
        origin = self.origins.get("only", "only")
        missing = [patch.id for patch in registry if patch.required and patch.id not in self.only]
        if missing:
            raise SettingsError(f"{origin} leaves out what is required: add {', '.join(missing)}")
        for id in sorted(self.only):
            absent = [other for other in registry.feature(id) if other not in self.only]
            if absent:
                raise SettingsError(f"{origin} selects {id} without what it requires: add {', '.join(absent)}")

    def _origin(self, key: str, id: str) -> str:
        return self.origins.get(f"{key} {id}") or self.origins.get(key, key)


class _Source(Value):
    """One place that settings come from, highest first."""

    values: dict[str, Any]
    name: str
    lines: Mapping[str, int] = MappingProxyType({})

    def origin(self, key: str) -> str:
        return f"{self.name}:{self.lines[key]}" if key in self.lines else self.values.get(f"name {key}", self.name)


def load(
    environ: Mapping[str, str] | None = None, directory: str | os.PathLike[str] | None = None, *, files: bool = True
) -> Settings:
    """Read all sources and merge them.

    Args:
        environ: instead of the process's environment.
        directory: instead of the current folder.
        files: whether to read ``ascend_patch.toml`` files at all.

    Raises:
        SettingsError: a source is malformed.
    """
    environ = os.environ if environ is None else environ
    sources = [_from_environment(environ)]
    if files:
        for path in (project_file(directory, environ), user_file(environ)):
            if path is not None and path.is_file():
                sources.append(_from_file(path))
    return _merged(sources)


def _merged(sources: list[_Source]) -> Settings:
    chosen: dict[str, str] = {}
    origins: dict[str, str] = {}
    values: dict[str, Any] = {"only": frozenset(), "strict": False, "device": "auto"}
    for source in sources:
        both = set(source.values.get("disable", ())) & set(source.values.get("enable", ()))
        for id in sorted(both):
            raise SettingsError(f"{source.origin('disable')}: {id} is both in enable and in disable: remove one")
        for key in ("disable", "enable"):
            for id in source.values.get(key, ()):
                if id not in chosen:
                    chosen[id] = key
                    origins[f"{key} {id}"] = source.origin(key)
    for source in reversed(sources):
        for key in ("only", "strict", "device", "assume_version"):
            if key in source.values:
                values[key] = frozenset(source.values[key]) if key == "only" else source.values[key]
                origins[key] = source.origin(key)
    return Settings(
        disable=frozenset(id for id, key in chosen.items() if key == "disable"),
        enable=frozenset(id for id, key in chosen.items() if key == "enable"),
        origins=origins,
        **values,
    )


def _from_environment(environ: Mapping[str, str]) -> _Source:
    values: dict[str, Any] = {}
    for key, variable in _VARIABLES.items():
        text = environ.get(variable)
        if text is None or not text.strip():
            continue
        values[f"name {key}"] = variable
        if key in _LISTS:
            values[key] = [item for item in re.split(r"[,\s]+", text) if item]
        elif key == "strict":
            values[key] = _truth(text, variable)
        elif key == "device":
            values[key] = _device(text.strip().lower(), variable)
        else:
            values[key] = _version(text.strip(), variable)
    return _Source(values, "environment")


def _truth(text: str, where: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise SettingsError(f"{where} is {text!r}: set it to 1 or 0")
    return word in _TRUE


def _device(text: str, where: str) -> str:
    if text not in DEVICES:
        raise SettingsError(f"{where}: there is no device {text!r}: choose one of {', '.join(DEVICES)}")
    return text


def _version(text: str, where: str) -> str:
    from .engine.versions import is_version

    if not is_version(text):
        raise SettingsError(f"{where}: {text!r} is no version: write it like 0.32.0")
    return text


def _from_file(path: Path) -> _Source:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): repair or remove it") from None
    return _from_text(path, text)


def _from_text(path: Path, text: str) -> _Source:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = found[1] if found else max(1, len(text.splitlines()))  # "at end of document"
        raise SettingsError(f"{path}:{line}: not valid TOML: {error}: repair or remove it") from None
    source = _Source(values, str(path), _lines(text))
    for key, value in values.items():
        where = source.origin(key)
        if key not in _KEYS:
            raise SettingsError(f"{where}: unknown setting {key!r}: known are {', '.join(_KEYS)}")
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise SettingsError(f'{where}: {key} must be a list of patch ids, such as {key} = ["area.name"]')
        if key == "strict" and not isinstance(value, bool):
            raise SettingsError(f"{where}: strict must be true or false")
        if key == "device":
            _device(value if isinstance(value, str) else repr(value), where)
        if key == "assume_version":
            _version(value if isinstance(value, str) else repr(value), where)
    return source


def _lines(text: str) -> dict[str, int]:
    """The line on which each top-level key stands."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*\[?\s*[\"']?([\w.-]+)", line)
        if match:
            found.setdefault(match[1], number)
    return found


def project_file(
    directory: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The nearest ``ascend_patch.toml`` from `directory` upwards, not beyond a repository's root or the home folder."""
    home = Path((os.environ if environ is None else environ).get("HOME", "/")).absolute()
    try:
        start = Path(directory or Path.cwd()).absolute()
    except OSError:
        return None  # the current folder was deleted
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
        if folder == home or any((folder / name).exists() for name in (".git", ".hg", ".svn")):
            return None
    return None


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where the user's own settings are, whether the file exists or not."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/"), ".config")
    return Path(base, "ascend_patch", FILE)


def write(path: str | os.PathLike[str], *, enable: Iterable[str] = (), disable: Iterable[str] = ()) -> None:
    """Enable and disable patches in a settings file, which is made when there is none.

    Only the two lists are rewritten, each on one line; everything else, comments included, stays.

    Raises:
        SettingsError: the file is malformed or cannot be written; it is then unchanged.
    """
    place = Path(path)
    present = _from_file(place).values if place.exists() else {}
    on, off = set(enable), set(disable)
    lists = {
        "enable": (set(present.get("enable", ())) | on) - off,
        "disable": (set(present.get("disable", ())) | off) - on,
    }
    text = place.read_text("utf-8") if place.exists() else "# Settings of ascend_patch; see 'ascend-patch list'.\n"
    for key, ids in lists.items():
        text = _with_list(text, key, sorted(ids))
    written = _from_text(place, text).values
    if any(set(written.get(key, ())) != ids for key, ids in lists.items()):
        raise SettingsError(f"{place}: its lists are laid out in a way that cannot be edited safely: edit it by hand")
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.replace(place)
    except OSError as error:
        raise SettingsError(f"{place} cannot be written: {error.strerror}") from None


def _with_list(text: str, key: str, ids: list[str]) -> str:
    """The file's text with one top-level list exchanged, added or, when it is empty, removed."""
    line = f"{key} = [{', '.join(f'{chr(34)}{id}{chr(34)}' for id in ids)}]\n" if ids else ""
    pattern = re.compile(rf"^[ \t]*[\"']?{key}[\"']?[ \t]*=[ \t]*\[[^\]]*\][ \t]*(#[^\n]*)?(\n|\Z)", re.M)
    match = pattern.search(text)
    if match is None:
        # Before everything else, because after a [table] header it would belong to the table.
        header = re.match(r"(?:#[^\n]*\n)*", text)
        at = header.end() if header else 0
        return text[:at] + line + text[at:]
    comment = f"{line[:-1]}  {match[1]}\n" if line and match[1] else (f"{match[1]}\n" if match[1] else line)
    return text[: match.start()] + comment + text[match.end() :]
