"""``ascend-patch kernels``: the AscendC kernels, their binaries, and building them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output
from ascend_patch.cli.errors import FINDING, Refusal, suggestion

if TYPE_CHECKING:
    from ascend_patch.kernels.declaration import Kernel
    from ascend_patch.kernels.inspection import Verdict

SHORT = "The AscendC kernels: list, build, check"

HELP = """List, build and check the AscendC kernels.

\b
Torch is not imported and nothing is loaded. Binaries are searched in this order:
ASCEND_PATCH_KERNEL_PATH, the package, the just-in-time cache (built there when missing: for the
NPU with CANN's aclrtc, for hostcann with the system's C++ compiler). Without one a kernel's
PyTorch reference runs, with one line in the log. ASCEND_PATCH_KERNELS=0 switches all of them off,
ASCEND_PATCH_KERNELS=-NAME,-NAME single ones.
No binary for an NPU is shipped: none was ever built or run by the project.
"""

EXAMPLES = """\b
Examples:
  ascend-patch kernels list
  ascend-patch kernels build --host
  ascend-patch kernels build --npu --arch dav-2201 --output kernels-of-mine
  ascend-patch kernels check kernels-of-mine"""

LIST_HELP = """List every kernel: what it replaces and what it was built for."""

LIST_EXAMPLES = """\b
Examples:
  ascend-patch kernels list
  ascend-patch kernels list --json | jq -r '.kernels[].name'

\b
JSON keys: abi, kernels[]: name, why, replaces (launches of PyTorch operators), core, entries[],
parameters[], source, source_sha256, built[]: place, folder, target, problem ("": usable)."""

BUILD_HELP = """Build kernels for this machine's CPU (--host) or for NPUs (--npu).

\b
--host needs a C++ compiler and fills the just-in-time cache, or --output. What it builds runs on
hostcann only. --npu needs the compiler of a CANN toolkit (bisheng) and writes to the package's
prebuilt folder, or to --output: point ASCEND_PATCH_KERNEL_PATH there. Each folder gets an
index.json with toolchain, sources and hashes, which the loader checks.
Exit code 1: a compilation failed. Exit code 2: there is no compiler; nothing was changed.
"""

BUILD_EXAMPLES = """\b
Examples:
  ascend-patch kernels build --host
  ascend-patch kernels build --host compute_slot_mapping --output /tmp/kernels
  ascend-patch kernels build --npu                             all architectures
  ascend-patch kernels build --npu --arch dav-2201 --dry-run   print the commands

\b
JSON keys: built[]: kernel, target, folder. Of --dry-run: commands[]: kernel, target, command."""

CHECK_HELP = """Check built kernels as the loader does, without loading them.

\b
ABI number, target, declared entries and parameters, source, ELF machine and flags, length, sha256.
Without PATH: ASCEND_PATCH_KERNEL_PATH and the package. Exit code 1: something would be refused.
"""

CHECK_EXAMPLES = """\b
Examples:
  ascend-patch kernels check
  ascend-patch kernels check kernels-of-mine
  ascend-patch kernels check --json | jq '.files[] | select(.problem != "")'

\b
JSON keys: ok, files[]: place, folder, target, kernel, problem ("": the loader accepts it)."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_kernels(as_json: Json = False) -> None:
    """List every kernel."""
    from ascend_patch.kernels import catalogue, inspection
    from ascend_patch.kernels.declaration import ABI

    kernels = _catalogue()
    found = [verdict for place, folder in inspection.folders() for verdict in inspection.check(place, folder)]
    rows: list[dict[str, Any]] = []
    for kernel in kernels.values():
        mine = [verdict for verdict in found if verdict.kernel == kernel.name]
        built = [_facts(verdict, ("place", "folder", "target", "problem")) for verdict in mine]
        rows.append(
            {
                "name": kernel.name,
                "why": kernel.why,
                "replaces": kernel.replaces,
                "core": kernel.core,
                "entries": list(kernel.entries),
                "parameters": list(kernel.parameters),
                "source": str(catalogue.source(kernel)),
                "source_sha256": catalogue.source_digest(kernel),
                "built": built,
            }
        )
    if as_json:
        output.as_json({"abi": ABI, "kernels": rows})
        return
    output.table(
        ("kernel", "entries", "replaces", "prebuilt for", "why"),
        [
            (
                row["name"],
                str(len(row["entries"])),
                str(row["replaces"]),
                ", ".join(item["target"] for item in row["built"] if not item["problem"]) or "-",
                row["why"],
            )
            for row in rows
        ],
        keep=("kernel", "entries", "replaces"),
        spare=("entries",),
    )
    if output.on_terminal():
        output.say(f"{len(rows)} kernels; without a prebuilt binary they are compiled at first use", "dim")


def build(
    names: Annotated[list[str] | None, typer.Argument(metavar="KERNEL", help="Only these kernels.")] = None,
    host: Annotated[bool, typer.Option("--host", help="For this machine's CPU, to run on hostcann.")] = False,
    npu: Annotated[bool, typer.Option("--npu", help="For NPUs, with CANN's compiler.")] = False,
    arch: Annotated[
        list[str] | None, typer.Option("--arch", metavar="NAME", help="Only this architecture; can be repeated.")
    ] = None,
    target: Annotated[str | None, typer.Option("--output", "-o", metavar="DIR", help="Another folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, run none (--npu).")] = False,
    as_json: Json = False,
) -> None:
    """Build kernels."""
    if host == npu:
        raise Refusal("say for what to build: either --host or --npu")
    if host and (arch or dry_run):
        raise Refusal("--arch and --dry-run belong to --npu: leave them out")
    kernels = _chosen(names or [])
    if host:
        built = _build_host(kernels, target)
    elif dry_run:
        _print_commands(kernels, arch or [], target, as_json)
        return
    else:
        built = _build_npu(kernels, arch or [], target)
    if as_json:
        output.as_json({"built": built})
        return
    for folder in dict.fromkeys(item["folder"] for item in built):
        names_there = ", ".join(item["kernel"] for item in built if item["folder"] == folder)
        output.say(f"{folder}: {names_there}")


def _build_host(kernels: list[Kernel], target: str | None) -> list[dict[str, str]]:
    from ascend_patch.kernels.building import BuildError, host
    from ascend_patch.kernels.loading.targets import host_target
    from ascend_patch.toolchain import NoCompiler, Toolchain

    try:
        Toolchain.require()
    except NoCompiler as error:
        raise Refusal(f"no C++ compiler: {error}") from None
    try:
        if target is None:
            folders = host.build_all(kernels)
        else:
            folders = [host.build_into(kernels, Path(target))] * len(kernels)
    except BuildError as error:
        raise Refusal(str(error), FINDING) from None
    name = host_target().name
    return [_built(kernel, name, folder) for kernel, folder in zip(kernels, folders, strict=True)]


def _build_npu(kernels: list[Kernel], arch: list[str], target: str | None) -> list[dict[str, str]]:
    from ascend_patch.kernels.building import BuildError, npu
    from ascend_patch.kernels.loading import search

    try:
        npu.find_toolchain()
        wanted = list(npu.targets(arch))
    except BuildError as error:
        raise Refusal(str(error)) from None
    root = Path(target) if target is not None else search.PREBUILT
    try:
        folders = [(item.name, npu.build_into(kernels, root, item)) for item in wanted]
    except BuildError as error:
        raise Refusal(str(error), FINDING) from None
    return [_built(kernel, name, folder) for name, folder in folders for kernel in kernels]


def _print_commands(kernels: list[Kernel], arch: list[str], target: str | None, as_json: bool) -> None:
    import shlex

    from ascend_patch.kernels.building import BuildError, npu
    from ascend_patch.kernels.loading import search

    try:
        toolchain = npu.find_toolchain()
    except BuildError as error:
        output.complain(f"{error}; the commands below assume its usual places")
        toolchain = None
    try:
        wanted = list(npu.targets(arch))
    except BuildError as error:
        raise Refusal(str(error)) from None
    root = Path(target) if target is not None else search.PREBUILT
    rows = []
    for item in wanted:
        for kernel in kernels:
            file = root.absolute() / item.name / f"{kernel.name}{item.suffix}"
            for words in npu.commands(kernel, item, file, toolchain):
                # What is in a command for show is left to the shell: variables are not quoted.
                text = shlex.join(words) if toolchain is not None else " ".join(words)
                rows.append({"kernel": kernel.name, "target": item.name, "command": text})
    if as_json:
        output.as_json({"commands": rows})
    else:
        for row in rows:
            print(row["command"])


def check(
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="A folder of built kernels.")] = None,
    as_json: Json = False,
) -> None:
    """Check built kernels."""
    from ascend_patch.kernels import inspection

    _catalogue()
    folders = [("PATH", Path(path).absolute())] if path is not None else inspection.folders()
    verdicts = []
    for place, folder in folders:
        found = list(inspection.check(place, folder))
        # The package ships none, which is in order; a folder that someone names must hold some.
        if not found and place != "package":
            found = [inspection.Verdict(place, folder, "", "", "no index.json here or one folder below")]
        verdicts += found
    ok = not any(verdict.problem for verdict in verdicts)
    if as_json:
        output.as_json({"ok": ok, "files": [_facts(verdict, verdict._fields) for verdict in verdicts]})
    else:
        _print_verdicts(verdicts)
    if not ok:
        raise typer.Exit(FINDING)


def _print_verdicts(verdicts: list[Verdict]) -> None:
    if not verdicts:
        output.say("no prebuilt kernels: they are compiled at first use, or their PyTorch references run")
        return
    output.table(
        ("state", "target", "kernel", "place", "finding"),
        [
            (
                output.state_cell("error" if verdict.problem else "ok"),
                verdict.target or "-",
                verdict.kernel or "-",
                verdict.place,
                verdict.problem or str(verdict.folder),
            )
            for verdict in verdicts
        ],
        keep=("state", "target", "kernel"),
    )


def _catalogue() -> dict[str, Kernel]:
    from ascend_patch.kernels import catalogue

    try:
        return catalogue.kernels()
    except catalogue.CatalogueError as error:
        raise Refusal(f"a kernel is declared wrongly: {error}") from None


def _chosen(names: list[str]) -> list[Kernel]:
    kernels = _catalogue()
    for name in names:
        if name not in kernels:
            near = suggestion(name, kernels, "see 'ascend-patch kernels list'")
            raise Refusal(f"there is no kernel {name!r}: {near}")
    return [kernels[name] for name in dict.fromkeys(names)] if names else list(kernels.values())


def _built(kernel: Kernel, target: str, folder: Path) -> dict[str, str]:
    return {"kernel": kernel.name, "target": target, "folder": str(folder)}


def _facts(verdict: Verdict, fields: tuple[str, ...]) -> dict[str, str]:
    return {name: str(getattr(verdict, name)) for name in fields}


app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, function, text, examples in (
    ("list", list_kernels, LIST_HELP, LIST_EXAMPLES),
    ("build", build, BUILD_HELP, BUILD_EXAMPLES),
    ("check", check, CHECK_HELP, CHECK_EXAMPLES),
):
    app.command(command, help=text, epilog=examples)(function)
