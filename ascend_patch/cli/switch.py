"""``ascend-patch enable`` and ``disable``: switches that last, in ``ascend_patch.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.choices import patch_ids
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.settings import Settings

ENABLE_HELP = """Switch patches on and remember it in ascend_patch.toml.

\b
The project's file (the nearest one from this folder up to the repository's root, else a new
one here) goes before the user's file; environment variables go before both.
"""

DISABLE_HELP = """Switch patches off and remember it in ascend_patch.toml.

\b
The project's file (the nearest one from this folder up to the repository's root, else a new
one here) goes before the user's file; environment variables go before both.
A required patch is only switched off with --force: vLLM will then refuse to start.
"""

EXAMPLES = """\b
Examples:
  ascend-patch disable sampling.top_k_top_p      for this project
  ascend-patch disable ops.rms_norm --user       for every project of this user
  ascend-patch enable sampling.top_k_top_p
  VLLM_ASCEND_PATCH_DISABLE=ops.rms_norm ...     for one command only

\b
JSON keys: file, changed, enabled[], disabled[], skipped[] (patches that require a disabled
one), overridden[]: id, by."""

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The patches.", autocompletion=patch_ids)]
User = Annotated[bool, typer.Option("--user", help="The user's file instead of the project's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def enable(context: typer.Context, ids: Ids, user: User = False, as_json: Json = False) -> None:
    """Switch patches on."""
    here = workspace.of(context)
    here.check_ids(ids)
    _switch(here, user, as_json, enable=ids, disable=[])


def disable(
    context: typer.Context,
    ids: Ids,
    user: User = False,
    force: Annotated[bool, typer.Option("--force", help="Also a required patch.")] = False,
    as_json: Json = False,
) -> None:
    """Switch patches off."""
    here = workspace.of(context)
    here.check_ids(ids)
    if not force:
        refuse_required(here, ids, "--force switches it off all the same")
    _switch(here, user, as_json, enable=[], disable=ids)


def refuse_required(here: Workspace, ids: list[str], otherwise: str) -> None:
    """Refuse to switch off what the engine cannot start without.

    Raises:
        Refusal: one of `ids` is required, or a required patch requires it.
    """
    for patch_id in ids:
        if here.registry[patch_id].required:
            raise Refusal(
                f"{patch_id} is required, {here.package} does not start without it "
                f"({here.registry[patch_id].why.rstrip('.')}): {otherwise}"
            )
        needing = [other for other in here.registry.dependents(patch_id) if here.registry[other].required]
        if needing:
            raise Refusal(f"{patch_id} is needed by {', '.join(needing)}, which is required: {otherwise}")


def _switch(here: Workspace, user: bool, as_json: bool, enable: list[str], disable: list[str]) -> None:
    from ascend_patch import settings

    before = here.settings
    _changed(before, enable, disable).validate(here.registry)
    path = _file(here, user)
    old = path.read_bytes() if path.is_file() else b""
    settings.write(path, enable=enable, disable=disable)
    changed = path.read_bytes() != old
    after = settings.load(here.environ, here.directory)
    overridden = _overridden(after, enable, disable)
    skipped = sorted({other for patch_id in disable for other in here.registry.dependents(patch_id)} - set(disable))
    if as_json:
        output.as_json(
            {
                "file": str(path),
                "changed": changed,
                "enabled": enable,
                "disabled": disable,
                "skipped": skipped,
                "overridden": overridden,
            }
        )
        return
    verb = f"enables {', '.join(enable)}" if enable else f"disables {', '.join(disable)}"
    output.say(f"{path} {'now' if changed else 'already'} {verb}")
    if skipped:
        output.say(f"skipped with it, because they require it: {', '.join(skipped)}", "yellow")
    for entry in overridden:
        output.complain(f"warning: {entry['by']} goes before {path} and says otherwise about {entry['id']}")


def _changed(settings: Settings, enable: list[str], disable: list[str]) -> Settings:
    """The settings as they would be, to find contradictions before anything is written."""
    return settings.changed(
        enable=(settings.enable | set(enable)) - set(disable),
        # What a selection with 'only' names and the file disables is reported as overridden, not as a contradiction.
        disable=((settings.disable | set(disable)) - set(enable)) - settings.only,
    )


def _file(here: Workspace, user: bool) -> Path:
    from ascend_patch import settings

    if user:
        return settings.user_file(here.environ)
    found = settings.project_file(here.directory, here.environ)
    return found if found is not None else (here.directory or Path.cwd()) / settings.FILE


def _overridden(after: Settings, enable: list[str], disable: list[str]) -> list[dict[str, Any]]:
    """Ids for which a source that goes before the written file decides otherwise."""
    found = []
    for patch_id in enable:
        if patch_id in after.disable:
            found.append({"id": patch_id, "by": after.origins.get(f"disable {patch_id}", "another source")})
        elif after.only and patch_id not in after.only:
            found.append({"id": patch_id, "by": after.origins.get("only", "another source")})
    for patch_id in disable:
        if patch_id in after.enable:
            found.append({"id": patch_id, "by": after.origins.get(f"enable {patch_id}", "another source")})
        elif patch_id in after.only:
            found.append({"id": patch_id, "by": after.origins.get("only", "another source")})
    return found
