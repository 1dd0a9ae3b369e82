"""Checks of `doctor` on the overlay itself: bootstrap, settings, the last run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from ascend_patch import environment
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.findings import Finding, Machine
from ascend_patch.engine.errors import OverlayError

SWITCH = environment.BOOTSTRAP_SWITCH
OFF = ("", "0", "false", "no", "off")
PROBE_SECONDS = 20
_PROBE = "import sys; print('ascend_patch._boot' in sys.modules, sys.flags.no_site)"


def bootstrap(machine: Machine) -> Iterator[Finding]:
    """Does a new interpreter start the overlay? Tried out, because many things can stand in the way."""
    files = environment.bootstrap_files(machine.path)
    value = machine.environ.get(SWITCH)
    on = value is not None and value.strip().lower() not in OFF
    if not files:
        yield Finding(
            "bootstrap", "warning", f"no start-up file in any site folder: {SWITCH}=1 has no effect here",
            "pip install ascend-patch again, or put 'import ascend_patch' before 'import vllm'",
        )  # fmt: skip
        return
    where = files[0].path
    live, why_not = _probe(machine)
    if not live:
        yield Finding(
            "bootstrap", "error", f"{where} exists, but a new interpreter does not run it: {why_not}",
            "start Python without -S and in the environment that ascend-patch is installed in",
        )  # fmt: skip
    elif on:
        yield Finding("bootstrap", "ok", f"live: {where}, {SWITCH}={value}")
    elif value is not None:
        yield Finding(
            "bootstrap", "warning", f"{where} works, but {SWITCH}={value!r} keeps the overlay off", f"export {SWITCH}=1"
        )
    else:
        yield Finding(
            "bootstrap", "warning", f"{where} works, but {SWITCH} is not set in this shell",
            f"export {SWITCH}=1, or start vLLM with 'ascend-patch run -- COMMAND'",
        )  # fmt: skip


def _probe(machine: Machine) -> tuple[bool, str]:
    """Start the interpreter with the switch on and ask whether the boot module is there."""
    environ = {**machine.environ, SWITCH: "1"}
    try:
        done = subprocess.run(
            [machine.interpreter, "-c", _PROBE], env=environ, capture_output=True, text=True, timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{machine.interpreter} could not be started ({error})"
    loaded, _, no_site = done.stdout.strip().partition(" ")
    if loaded == "True":
        return True, ""
    if no_site == "1":
        return False, "site is off (-S)"
    last = (done.stderr.strip().splitlines() or ["its site folders do not include that one"])[-1]
    return False, last


def settings(machine: Machine) -> Iterator[Finding]:
    """Settings files and variables: readable, known ids, no contradiction."""
    from ascend_patch import settings as module

    here = machine.workspace
    try:
        loaded = here.settings
    except (Refusal, OverlayError) as error:
        yield Finding("settings", "error", str(error), "repair the place it names")
        return
    places = [module.project_file(here.directory, here.environ), module.user_file(here.environ)]
    read = [str(place) for place in places if place is not None and place.is_file()]
    chosen = [
        f"{key} {', '.join(sorted(getattr(loaded, key)))}"
        for key in ("disable", "only", "enable")
        if getattr(loaded, key)
    ]
    if loaded.strict:
        chosen.append("strict")
    files = f"read {', '.join(read)}" if read else "no ascend_patch.toml"
    yield Finding("settings", "ok", f"{files}; {'; '.join(chosen) if chosen else 'nothing switched'}")


def last_run(machine: Machine) -> Iterator[Finding]:
    """What the records of the last run say."""
    from ascend_patch.engine import records

    try:
        run = records.latest()
    except (OverlayError, OSError) as error:
        yield Finding("last run", "warning", f"its records cannot be read: {error}", "remove the records folder")
        return
    if run is None:
        yield Finding("last run", "ok", "none recorded yet")
        return
    agreement = run.agreement()
    failed = sorted(
        {
            f"{patch_id} {entry['state']}"
            for record in run.records
            for patch_id, entry in record.patches.items()
            if entry["state"] in ("failed", "rolled-back")
        }
    )
    stale = sorted(
        {
            str(place)
            for record in run.records
            for entry in record.patches.values()
            for place in entry.get("stale_aliases", ())
        }
    )
    remedy = f"'ascend-patch status --run {run.id}' shows it"
    if not agreement.agrees:
        yield Finding("last run", "error", f"its processes do not agree: {agreement.differences[0]}", remedy)
    if failed:
        yield Finding("last run", "error", f"in run {run.id}: {', '.join(failed)}", remedy)
    if stale:
        yield Finding(
            "last run", "warning", f"still bound to upstream's objects: {', '.join(stale)}",
            "import ascend_patch (or set the switch) before anything imports vllm",
        )  # fmt: skip
    if agreement.agrees and not failed and not stale:
        yield Finding("last run", "ok", f"{run.id}: {len(run.records)} recorded, all with the same patches")
