"""The words a patch is written in: `Patch`, `Variant` and the five rewrites.

Everything here is inert data. Importing this module, or a patch module that
uses it, imports neither the patched package nor torch, so that a patch can be
listed, explained and checked on a machine where neither is installed.

Functions are named by reference strings, never passed as objects:
``"package.module:qualified.name"``, or ``":name"`` for a function further down
in the module that declares the patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import ClassVar

from ascend_patch.value import Value


class DeclarationError(ValueError):
    """A patch is declared wrongly: the fault of whoever wrote it, not of the user."""


class State(str, Enum):
    """Where a patch stands in one process."""

    PENDING = "pending"  # accepted, but (some of) its target modules are not imported yet
    APPLIED = "applied"
    SKIPPED = "skipped"
    DISABLED = "disabled"
    DRIFTED = "drifted"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


class Target(Value):
    """A place in the patched package: a module and a dotted name inside it."""

    module: str
    qualname: str

    @staticmethod
    @cache  # each is asked for at every rewrite of its module
    def parse(text: str) -> Target:
        """Read ``"package.module:Class.attribute"``.

        Raises:
            DeclarationError: there is not exactly one colon with text on both sides.
        """
        module, colon, qualname = text.partition(":")
        if not colon or not module or not qualname or ":" in qualname:
            raise DeclarationError(f"target {text!r} is not of the form 'package.module:qualified.name'")
        return Target(module, qualname)

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


class Rewrite(Value):
    """One change to one target. Use a subclass."""

    kind: ClassVar[str] = ""
    target: str

    def __post_init__(self) -> None:
        Target.parse(self.target)

    @property
    def place(self) -> Target:
        return Target.parse(self.target)


class Retarget(Rewrite):
    """Keep the upstream function and rename named things inside its code object.

    Attributes:
        names: attribute and global names to rename, e.g. ``{"cuda": "npu"}`` turns
            ``torch.cuda.Stream`` into ``torch.npu.Stream``.
        strings: whole string constants to exchange, e.g. ``{"cuda:": "npu:"}``.
        sites: how many places must change, counted over the function and the
            functions nested in it; several counts when upstream versions differ.
            Any other count is drift.
        never_after: names after which a listed name stays what it is: ``("backends",)``
            keeps ``torch.backends.cuda`` while ``torch.cuda`` is renamed.
    """

    kind: ClassVar[str] = "retarget"
    names: Mapping[str, str] = MappingProxyType({})
    strings: Mapping[str, str] = MappingProxyType({})
    sites: int | tuple[int, ...] = 1
    never_after: tuple[str, ...] = ()

    @property
    def allowed_sites(self) -> tuple[int, ...]:
        return (self.sites,) if isinstance(self.sites, int) else self.sites


class Register(Rewrite):
    """Put our object under `key` into an upstream mapping.

    `value` is a reference, resolved when the target's module has executed;
    with ``literal=True`` it is the text itself (for registries of dotted names).
    `key` is text, or with ``key_by_reference=True`` a reference (for mappings
    whose keys are enum members).
    """

    kind: ClassVar[str] = "register"
    key: str = ""
    value: str = ""
    literal: bool = False
    key_by_reference: bool = False


class Replace(Rewrite):
    """Our plain function in the slot. `by` is a reference to it."""

    kind: ClassVar[str] = "replace"
    by: str = ""


class Wrap(Rewrite):
    """`by` names a factory: it gets the original and returns the function for the slot."""

    kind: ClassVar[str] = "wrap"
    by: str = ""


class Add(Rewrite):
    """An attribute that must not exist yet. `by` is a reference to its value.

    On a class it is the class's own namespace that must lack the name; an
    inherited attribute is what is being overridden.
    """

    kind: ClassVar[str] = "add"
    by: str = ""


class Variant(Value):
    """What a patch does for a range of upstream versions.

    Attributes:
        versions: PEP 440 specifier of the patched package, with a lower and an upper bound.
        rewrites: the changes, in the order in which they are made.
        needs: further distributions with their ranges, e.g. ``("torch-npu>=2.9,<2.15",)``.
        unneeded: instead of rewrites: why these versions work without the patch. It then counts as in force
            for the patches that require it.
    """

    versions: str
    rewrites: tuple[Rewrite, ...] = ()
    needs: tuple[str, ...] = ()
    unneeded: str = ""

    def __post_init__(self) -> None:
        clauses = [clause.strip() for clause in self.versions.split(",")]
        pinned = any(clause.startswith("==") for clause in clauses)
        lower = any(clause.startswith(">") for clause in clauses)
        upper = any(clause.startswith("<") for clause in clauses)
        if not pinned and not (lower and upper):
            raise DeclarationError(f"variant range {self.versions!r} needs a lower and an upper bound")
        if not self.rewrites and not self.unneeded:
            raise DeclarationError(f"variant {self.versions!r} rewrites nothing and does not say why")
        if self.rewrites and self.unneeded:
            raise DeclarationError(f"variant {self.versions!r} is unneeded and has rewrites")


class Expiry(Value):
    """A sign, found in the sources, that upstream no longer needs a patch.

    By itself the sign is that upstream defines the target; an attribute that a class merely inherits does not count.

    Attributes:
        target: ``module:qualname`` of something upstream.
        without: the sign is that the target is there and no longer mentions this.
        mentions: the sign is that the target mentions this now.

    What is mentioned is source text as `ast.unparse` writes it (names, expressions, strings in single quotes),
    without comments, docstrings and annotations; a letter or digit at its ends begins and ends a word there, where
    ``_`` separates words: ``npu`` is in ``npu_ops`` and not in ``input``.
    """

    target: str
    without: str = ""
    mentions: str = ""

    def __post_init__(self) -> None:
        Target.parse(self.target)
        if self.without and self.mentions:
            raise DeclarationError(f"the sign at {self.target} is either what is gone or what is new: make two of it")


class Patch(Value):
    """One thing the overlay changes, and everything a reader wants to know about it.

    Attributes:
        id: ``area.name``; unique.
        why: one sentence.
        variants: at most one of them fits an upstream version.
        required: without it the engine must not start.
        traced: its functions run inside torch.compile; the engine then refuses
            anything but plain functions in the slot.
        requires: ids of patches that must be applied as well (they form one feature).
        conflicts: ids of patches that must not be applied together with this one.
        on: whether it is on unless the user says otherwise.
        upstream: issue, pull request or source line that this follows.
        unnecessary_when: how to recognise that upstream no longer needs it, for people.
        expires: the same for `verify`: when one of these signs is there, the patch is reported.
        no_sign: instead of signs: why upstream's sources cannot show it.
        module: the module that declares it; filled in by the registry.
    """

    id: str
    why: str
    variants: tuple[Variant, ...]
    required: bool = False
    traced: bool = False
    requires: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    on: bool = True
    upstream: str = ""
    unnecessary_when: str = ""
    expires: tuple[Expiry, ...] = ()
    no_sign: str = ""
    module: str = ""

    def __post_init__(self) -> None:
        area, dot, name = self.id.partition(".")
        if not dot or not area or not name or self.id != self.id.lower():
            raise DeclarationError(f"patch id {self.id!r} is not of the form 'area.name' in lower case")
        if not self.why.strip():
            raise DeclarationError(f"patch {self.id} does not say why")
        if not self.variants:
            raise DeclarationError(f"patch {self.id} has no variant")
        if self.expires and self.no_sign:
            raise DeclarationError(f"patch {self.id} declares signs of its expiry and says why there are none")

    @property
    def area(self) -> str:
        return self.id.partition(".")[0]
