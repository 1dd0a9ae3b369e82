"""Has upstream outgrown a patch? Told by the signs a patch declares, and by retargets that find nothing to do.

Reads sources like a contract check; part of a verification, not of a start.
"""

from __future__ import annotations

import ast

from .contract_checking import Finding
from .errors import SourceError
from .sources import SourceTree
from .syntax import find_definition
from .vocabulary import Expiry, Patch, Retarget, Target, Variant


def signs(patch: Patch, tree: SourceTree, variant: Variant | None, findings: tuple[Finding, ...]) -> list[str]:
    """Why the patch has become unnecessary in this tree, a sentence for each sign; empty while it is needed.

    Args:
        variant: the one that was looked at, if any.
        findings: of its rewrites.
    """
    found = [_sign(expiry, tree) for expiry in patch.expires]
    only_retargets = variant is not None and all(isinstance(item, Retarget) for item in variant.rewrites)
    idle = [item.problem == "sites" and item.text.startswith("0 sites") for item in findings]
    if only_retargets and idle and all(idle):
        found.append("there is nothing left to retarget")
    return [sentence for sentence in found if sentence]


def _sign(expiry: Expiry, tree: SourceTree) -> str:
    try:
        definition = find_definition(tree, Target.parse(expiry.target))
    except SourceError:
        return ""
    if definition is None:
        return ""
    if not expiry.without:
        return f"upstream has {expiry.target} ({definition.file.path}:{definition.line})"
    if any(expiry.without in ast.unparse(node) for node in definition.nodes):
        return ""
    return f"{expiry.target} no longer mentions {expiry.without!r} ({definition.file.path}:{definition.line})"
