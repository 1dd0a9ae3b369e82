"""Has upstream outgrown a patch? Told by the signs a patch declares, and by retargets that find nothing to do.

Reads sources like a contract check; part of a verification, not of a start.
"""

from __future__ import annotations

import ast
import copy
import re

from .errors import SourceError
from .plan import Finding
from .sources import SourceTree
from .syntax import Definition, find_definition
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
    where = f"({definition.file.path}:{definition.line})"
    if expiry.without:
        here = mentions(definition, expiry.without)
        return "" if here else f"{expiry.target} no longer mentions {expiry.without!r} {where}"
    if expiry.mentions:
        here = mentions(definition, expiry.mentions)
        return f"{expiry.target} mentions {expiry.mentions!r} {where}" if here else ""
    return "" if definition.inherited else f"upstream has {expiry.target} {where}"


def mentions(definition: Definition, text: str) -> bool:
    """Whether the code of a definition mentions `text`, see `Expiry`."""
    begin = r"(?<![^\W_])" if text[0].isalnum() else ""
    end = r"(?![^\W_])" if text[-1].isalnum() else ""
    wanted = re.compile(begin + re.escape(text) + end)
    return any(wanted.search(ast.unparse(_Bare().visit(copy.deepcopy(node)))) for node in definition.nodes)


class _Bare(ast.NodeTransformer):
    """Removes what changes nothing: docstrings and annotations."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is None:
            return ast.Expr(node.target)
        return ast.fix_missing_locations(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._strip(node)
        node.returns = None
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        self._strip(node)
        node.returns = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._strip(node)
        return node

    def _strip(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
