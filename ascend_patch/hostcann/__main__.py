"""`python -m ascend_patch.hostcann build | info | clean`."""

from __future__ import annotations

import argparse
import re
import sys
import time

from ascend_patch.hostcann import _build
from ascend_patch.hostcann._paths import LIBRARIES, SOURCES, HostCannError, cache_root
from ascend_patch.hostcann._plan import Plan
from ascend_patch.toolchain import Toolchain


def unimplemented_functions() -> list[str]:
    """Names of the ABI functions that exist only to fail with their name."""
    names: set[str] = set()
    for path in SOURCES.rglob("*.cpp"):
        names.update(re.findall(r"^HOSTCANN_UNIMPLEMENTED\((\w+)\)", path.read_text(), flags=re.MULTILINE))
    return sorted(names)


def _info() -> None:
    toolchain = Toolchain.find()
    plan = Plan()
    built = _build.find()
    print(f"cache      {cache_root()}")
    print(f"compiler   {' '.join(toolchain.command) if toolchain else 'none found'}")
    print(f"torch      {plan.torch}")
    print(f"libraries  {built if built else 'not built'}")
    for library in LIBRARIES:
        print(f"  {library.file:24} {len(library.units()):3} translation units")
    names = unimplemented_functions()
    print(f"not implemented ({len(names)}; each fails with its name):")
    for name in names:
        print(f"  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ascend_patch.hostcann", description="CANN for the CPU: its build.")
    parser.add_argument("command", choices=["build", "info", "clean"], help="build it, describe it, empty the cache")
    command = parser.parse_args().command
    try:
        if command == "build":
            start = time.monotonic()
            print(f"{_build.build()} ({time.monotonic() - start:.1f} s)")
        elif command == "info":
            _info()
        else:
            print(f"emptied {_build.clean()}")
    except HostCannError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
