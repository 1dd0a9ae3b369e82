"""``ascend-patch status``: what was applied in the processes of a run, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.errors import FINDING, Refusal, suggestion

if TYPE_CHECKING:
    from ascend_patch.engine.records import Record, Run

HELP = """Show the processes of the last run, or of one that is still running, and whether they agree.

\b
Exit code 1: the processes do not agree, or a patch failed in one of them.
Exit code 2: there is no record of such a run.
"""

EXAMPLES = """\b
Examples:
  ascend-patch status
  ascend-patch status --all
  ascend-patch status --run ID
  ascend-patch status --json | jq '.runs[0].agrees'

\b
JSON keys: runs[]: id, alive, agrees, differences[], ok, processes[]: pid, role, alive, started,
command[], device, python, package, version, taken_for (null, or version and reason),
fingerprint, patches{id}: state, unneeded, reason, applied[], pending[], early_importers[],
stale_aliases[] (left out when empty)."""

BAD_STATES = ("failed", "rolled-back", "drifted")


def status(
    context: typer.Context,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="This run instead of the last.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All recorded runs, newest first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the processes of a run."""
    here = workspace.of(context)
    if run_id and every:
        raise Refusal("--run and --all contradict each other: leave out one")
    required = {patch.id for patch in here.registry if patch.required}
    chosen = [_facts(run, required) for run in _choose(run_id, every)]
    if as_json:
        output.as_json({"runs": chosen})
    elif every:
        _print_runs(chosen)
    else:
        _print(chosen[0])
    if not all(facts["ok"] for facts in chosen[:1]):
        raise typer.Exit(FINDING)


def _choose(run_id: str | None, every: bool) -> list[Run]:
    from ascend_patch.engine import records

    runs = [run for run in records.runs() if run.records]
    if not runs:
        raise Refusal("no run is recorded: start vLLM with 'ascend-patch run -- COMMAND' or VLLM_ASCEND_AUTOPATCH=1")
    if every:
        return runs
    if run_id is None:
        # A run that still lives is what the user looks at, even if a short one came after it.
        return [next((run for run in runs if run.alive), runs[0])]
    for run in runs:
        if run.id == run_id:
            return [run]
    hint = suggestion(run_id, [run.id for run in runs], "'ascend-patch status --all' shows all")
    raise Refusal(f"no run {run_id} is recorded: {hint}")


def _facts(run: Run, required: set[str]) -> dict[str, Any]:
    agreement = run.agreement()
    processes = [_process(record) for record in run.records]
    return {
        "id": run.id,
        "alive": run.alive,
        "agrees": agreement.agrees,
        "differences": list(agreement.differences),
        "ok": agreement.agrees and not any(_broken(process, required) for process in processes),
        "processes": processes,
    }


def _process(record: Record) -> dict[str, Any]:
    return {
        "pid": record.pid,
        "role": record.role,
        "alive": record.alive,
        "started": record.raw.get("started"),
        "command": record.raw.get("command", []),
        "device": record.raw.get("device", ""),
        "python": record.raw.get("python", ""),
        "package": record.raw.get("package", ""),
        "version": record.version,
        "taken_for": record.raw.get("taken_for") or None,
        "fingerprint": record.fingerprint,
        "patches": {patch_id: dict(entry) for patch_id, entry in record.patches.items()},
    }


def _broken(process: dict[str, Any], required: set[str]) -> list[str]:
    """Ids of patches that went wrong: failed ones, and required ones that are not in force for any other reason."""
    return [
        patch_id
        for patch_id, entry in process["patches"].items()
        if entry["state"] in ("failed", "rolled-back")
        or (patch_id in required and entry["state"] in ("drifted", "skipped", "disabled") and not _unneeded(entry))
    ]


def _unneeded(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("unneeded"))


def _count(process: dict[str, Any], *states: str) -> int:
    return sum(entry["state"] in states and not _unneeded(entry) for entry in process["patches"].values())


def _print_runs(runs: list[dict[str, Any]]) -> None:
    output.table(
        ("run", "alive", "processes", "agree", "ok"),
        [
            (
                facts["id"],
                "yes" if facts["alive"] else "no",
                str(len(facts["processes"])),
                "yes" if facts["agrees"] else output.Cell("no", "bold red"),
                "yes" if facts["ok"] else output.Cell("no", "bold red"),
            )
            for facts in runs
        ],
        keep=("run",),
    )


def _print(facts: dict[str, Any]) -> None:
    first = facts["processes"][0]
    output.heading(
        f"run {facts['id']}: {'running' if facts['alive'] else 'ended'}, "
        f"{first['package']} {first['version']}, device {first['device'] or '-'}"
    )
    for reason in dict.fromkeys(
        process["taken_for"]["reason"] for process in facts["processes"] if process["taken_for"]
    ):
        output.say(reason, "yellow")
    output.table(
        ("pid", "role", "alive", "applied", "pending", "off", "not needed", "wrong", "fingerprint"),
        [
            (
                str(process["pid"]),
                process["role"] or "-",
                "yes" if process["alive"] else "no",
                str(_count(process, "applied")),
                str(_count(process, "pending")),
                str(_count(process, "disabled", "skipped")),
                str(sum(map(_unneeded, process["patches"].values()))),
                _wrong(_count(process, *BAD_STATES)),
                process["fingerprint"][:12] or "-",
            )
            for process in facts["processes"]
        ],
        keep=("pid", "role", "fingerprint"),
    )
    for patch_id, entry in first["patches"].items():
        if _unneeded(entry):  # the same in every process that agrees with the first
            output.say(f"{patch_id}: {entry.get('reason', 'not needed')}", "dim")
    for process in facts["processes"]:
        for patch_id, entry in process["patches"].items():
            if entry["state"] in BAD_STATES:
                output.say(f"pid {process['pid']}: {patch_id} {entry['state']}: {entry.get('reason', '')}", "red")
            _print_places(process["pid"], patch_id, entry)
    if facts["agrees"]:
        count = len(facts["processes"])
        output.say("one process" if count == 1 else f"{count} processes, all with the same patches", "green")
    for line in facts["differences"]:
        output.say(f"they do not agree: {line}", "bold red")


def _print_places(pid: int, patch_id: str, entry: dict[str, Any]) -> None:
    """Name the modules that took upstream's object before it was patched, and those that still hold it."""
    early = entry.get("early_importers", ())
    if early:
        output.say(f"pid {pid}: {patch_id}: imported before the overlay by {', '.join(map(str, early))}", "yellow")
    stale = entry.get("stale_aliases", ())
    if stale:
        output.say(f"pid {pid}: {patch_id}: upstream's object is still bound at {', '.join(map(str, stale))}", "yellow")


def _wrong(count: int) -> output.Cell:
    return output.Cell(str(count), "bold red" if count else "")
