"""``ascend-patch diff``: upstream's code against what will be in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.choices import patch_ids
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.cli.compare import Comparison
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch, Variant

HELP = """Show what a patch puts in the place of upstream's code, as a unified diff.

\b
Both sides come from sources: nothing is imported. In the place of a wrapped
function stands our wrapper, and the original below it.
"""

EXAMPLES = """\b
Examples:
  ascend-patch diff worker.streams
  ascend-patch diff worker.streams --vllm 0.23.0
  ascend-patch diff worker.streams --vllm vllm-0.32.0.tar.gz
  ascend-patch diff worker.streams -U 1000 | less

\b
JSON keys: id, version, variant, rewrites[]: kind, target, upstream, upstream_at ("" = does
not exist), ours, ours_at, note, diff."""


def diff(
    context: typer.Context,
    patch_id: Annotated[str, typer.Argument(metavar="ID", help="The patch.", autocompletion=patch_ids)],
    vllm: Annotated[
        str | None,
        typer.Option(
            "--vllm", metavar="VERSION|PATH", help="A release, or a checkout, sdist, wheel or package folder instead."
        ),
    ] = None,
    taken_for: Annotated[
        str | None, typer.Option("--as", metavar="VERSION", help="Treat the sources as this version.")
    ] = None,
    context_lines: Annotated[
        int, typer.Option("--context", "-U", metavar="N", min=0, help="Unchanged lines around each change.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a patch puts in the place of upstream's code."""
    from ascend_patch.cli.compare import compare
    from ascend_patch.cli.inspection import open_sources

    here = workspace.of(context)
    patch = here.patch(patch_id)
    tree = open_sources(here, vllm, announce=output.complain, taken_for=taken_for)
    standing = here.stand(tree, installed=not vllm and not taken_for)
    variant = _variant(here, patch, tree, standing.version)
    if standing.reason:
        output.complain(standing.reason)
    comparisons = [compare(tree, patch, rewrite) for rewrite in variant.rewrites]
    if as_json:
        output.as_json(
            {
                "id": patch.id,
                "version": tree.version,
                "variant": variant.versions,
                "rewrites": [
                    {
                        "kind": item.rewrite.kind,
                        "target": item.rewrite.target,
                        "upstream": item.upstream,
                        "upstream_at": item.upstream_at,
                        "ours": item.ours,
                        "ours_at": item.ours_at,
                        "note": item.note,
                        "diff": item.unified(context_lines),
                    }
                    for item in comparisons
                ],
            }
        )
        return
    for item in comparisons:
        _print(item, context_lines)


def _variant(here: Workspace, patch: Patch, tree: SourceTree, version: str) -> Variant:
    """The one by which the patch is applied to the sources.

    Raises:
        Refusal: there is none.
    """
    from ascend_patch.engine.contract_building import variant_for

    variant = variant_for(patch.variants, version)
    if variant is not None:
        return variant
    ranges = " and ".join(variant.versions for variant in patch.variants)
    raise Refusal(
        f"{patch.id} has no variant for {here.package} {tree.version}: it covers {ranges}; "
        "'--as VERSION' compares with one of those"
    )


def _print(item: Comparison, context_lines: int) -> None:
    from ascend_patch.cli.describe import sentence

    # A line that `patch` and diff viewers skip, so that the output as a whole stays a diff.
    title = sentence(item.rewrite) + (f"  [{item.note}]" if item.note else "")
    output.heading(title)
    text = item.unified(context_lines)
    if not text:
        return
    output.diff(text)
