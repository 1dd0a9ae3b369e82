"""The application: its commands, and how their refusals reach the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from ascend_patch.cli import diff, docs, doctor, kernels, listing, run, show, status, switch, verify
from ascend_patch.cli.errors import USAGE, Refusal
from ascend_patch.cli.output import complain
from ascend_patch.engine.errors import OverlayError
from ascend_patch.engine.vocabulary import DeclarationError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

CLOSED_PIPE = 141
"""Exit code when the reader of a pipe went away, as other commands report it: 128 + SIGPIPE."""

# The base of all usage errors. Typer exports only its children, and from different places in its versions.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])

HELP = """Run stock vLLM on Ascend NPUs: list, explain, check and switch the patches that do it."""

EPILOG = """\b
Examples:
  ascend-patch doctor                          does everything here fit together?
  ascend-patch list --area attention           what is patched, and in which state
  ascend-patch diff worker.init_device         upstream's code against ours
  ascend-patch verify --all                    do the patches fit every vLLM they name?
  ascend-patch run -- vllm serve MODEL         start vLLM with the overlay
  ascend-patch run --disable ops.activation -- python job.py

\b
Exit codes of every command:
  0  in order
  1  a finding: drift, disagreement, an error in doctor, a file out of date
  2  wrong usage, unreadable or contradictory settings, unsupported vLLM; nothing was changed

\b
Environment:
  VLLM_ASCEND_AUTOPATCH=1       patch vLLM in every Python process that imports it
  VLLM_ASCEND_PATCH_DISABLE     ids to leave out, separated by commas
  VLLM_ASCEND_PATCH_ONLY        apply only these ids, the required ones among them
  VLLM_ASCEND_PATCH_STRICT=1    any drift is an error
  VLLM_ASCEND_PATCH_ASSUME_VERSION  take the installed vLLM for this version, whatever it says
  ASCEND_PATCH_DEVICE           auto (default), npu, or host (a CANN for the CPU)
  ASCEND_PATCH_KERNELS=0        no AscendC kernels (-NAME,-NAME: not these): their PyTorch references run
  ASCEND_PATCH_KERNEL_PATH      a folder of built kernels, searched first
  NO_COLOR=1                    no colours

Settings that last are in ascend_patch.toml: 'ascend-patch disable --help'."""


class OverlayCommands(TyperGroup):
    """Turns everything the overlay raises on purpose into one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the exit code of a refusal.
        """
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except Refusal as refusal:
            complain(_one_line(refusal))
            raise typer.Exit(refusal.code) from None
        except (OverlayError, DeclarationError) as error:
            complain(_one_line(error))
            raise typer.Exit(USAGE) from None
        except BrokenPipeError:
            # Python flushes once more at exit; give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(CLOSED_PIPE) from None
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            complain(f"{place}{error.strerror or error}")
            raise typer.Exit(USAGE) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse the command line and run it; wrong usage is reported in one line like any other refusal."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except USAGE_ERROR as error:
            complain(_usage(error))
            code = USAGE
        except typer.Abort:
            code = INTERRUPTED
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _usage(error: Any) -> str:
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text} (usage: '{context.command_path} --help')" if context is not None else text


def _version(wanted: bool) -> None:
    if wanted:
        import ascend_patch

        print(f"ascend-patch {ascend_patch.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=OverlayCommands,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    # Plain help: panels fold the examples into one paragraph, and cost an import of rich.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


_COMMANDS = (
    ("list", "Every patch with its state", listing.list_patches, listing.HELP, listing.EXAMPLES),
    ("show", "Everything about one patch", show.show, show.HELP, show.EXAMPLES),
    ("diff", "Upstream's code against ours", diff.diff, diff.HELP, diff.EXAMPLES),
    ("status", "The processes of the last run, and whether they agree", status.status, status.HELP, status.EXAMPLES),
    ("enable", "Switch patches on, lastingly", switch.enable, switch.ENABLE_HELP, switch.EXAMPLES),
    ("disable", "Switch patches off, lastingly", switch.disable, switch.DISABLE_HELP, switch.EXAMPLES),
    ("doctor", "Does everything here fit together?", doctor.doctor, doctor.HELP, doctor.EXAMPLES),
    ("verify", "Do the patches fit the sources of a vLLM?", verify.verify, verify.HELP, verify.EXAMPLES),
    ("run", "Run a command with the overlay on", run.run, run.HELP, run.EXAMPLES),
    ("docs", "Generate PATCHES.md", docs.docs, docs.HELP, docs.EXAMPLES),
)

for name, short, function, text, examples in _COMMANDS:
    app.command(
        name,
        short_help=short,
        help=text,
        epilog=examples,
        # What follows the command of `run` belongs to that command, also when it looks like an option of ours.
        context_settings={"allow_interspersed_args": name != "run"},
    )(function)

app.add_typer(kernels.app, name="kernels", short_help=kernels.SHORT, help=kernels.HELP, epilog=kernels.EXAMPLES)
