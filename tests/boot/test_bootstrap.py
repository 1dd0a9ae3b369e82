"""What the bootstrap costs, when it is live, and that it never harms an interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site

MODULES = "import sys; print(*sys.modules)"  # any other import here would hide one of ours
OFF = [{}, *({"VLLM_ASCEND_AUTOPATCH": word} for word in ("", "0", "false", "False", " off ", "no"))]
ON = {"VLLM_ASCEND_AUTOPATCH": "1"}
OURS = ["ascend_patch", "ascend_patch._boot"]


def modules(site: Site, *flags: str, **environ: str) -> set[str]:
    return set(site.run(MODULES, *flags, environ=environ).stdout.split())


@pytest.mark.parametrize("environ", OFF, ids=str)
def test_off_loads_nothing(site: Site, environ: dict[str, str]) -> None:
    with_files = modules(site, **environ)
    (site.packages / "ascend_patch.pth").unlink()
    assert with_files == modules(site, **environ)


@pytest.mark.parametrize("flags", [(), ("-E",), ("-I",), ("-s",)], ids=str)
def test_on_loads_two_modules(site: Site, flags: tuple[str, ...]) -> None:
    with_files = modules(site, *flags, **ON)
    (site.packages / "ascend_patch.pth").unlink()
    assert sorted(with_files - modules(site, *flags, **ON)) == OURS


def test_one_finder_and_it_steps_aside_for_other_names(site: Site) -> None:
    out = site.run(
        """
        import sys
        from ascend_patch import _boot
        finders = [finder for finder in sys.meta_path if isinstance(finder, _boot.BootFinder)]
        _boot.install()
        print(len(finders), [finder for finder in sys.meta_path if isinstance(finder, _boot.BootFinder)] == finders)
        import json.tool, email.message
        print("ascend_patch.activation" in sys.modules)
        """,
        environ=ON,
    ).stdout
    assert out.split() == ["1", "True", "False"]


def test_importing_it_is_the_same_as_the_variable(site: Site) -> None:
    code = "import os, sys\n{}\nprint(os.environ.get('VLLM_ASCEND_AUTOPATCH'), 'ascend_patch._boot' in sys.modules)"
    assert site.run(code.format("import ascend_patch")).stdout.split() == ["1", "True"]
    assert site.run(code.format("")).stdout.split() == ["None", "False"]
    off = {"VLLM_ASCEND_AUTOPATCH": "0"}
    assert site.run(code.format("import ascend_patch"), environ=off).stdout.split() == ["0", "False"]


@pytest.mark.parametrize("environ", [{}, ON], ids=["off", "on"])
def test_files_that_outlive_the_package_are_silent(site: Site, environ: dict[str, str]) -> None:
    (site.packages / "ascend_patch").unlink()
    done = site.run("print('fine')", environ=environ)
    assert (done.stdout, done.stderr) == ("fine\n", "")
    done = site.run("import _ascend_patch_start; _ascend_patch_start.start(); print('fine')", environ=environ)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_the_start_file_does_what_the_pth_line_does(site: Site) -> None:
    """Python 3.15 reads the .start file instead of the .pth line; here its entry point is called by hand."""
    (site.packages / "ascend_patch.pth").unlink()
    lines = (site.packages / "ascend_patch.start").read_text().splitlines()
    (entry,) = [line for line in lines if line and not line.startswith("#")]
    code = f"""
        import pkgutil, sys
        pkgutil.resolve_name({entry!r})()
        print("ascend_patch._boot" in sys.modules)
    """
    assert site.run(code, environ=ON).stdout.split() == ["True"]
    for environ in OFF:
        assert site.run(code, environ=environ).stdout.split() == ["False"]


def test_the_files_are_one_readable_line(site: Site) -> None:
    (line,) = (site.packages / "ascend_patch.pth").read_text().splitlines()
    assert line.startswith("import ") and "exec" not in line and "VLLM_ASCEND_AUTOPATCH" in line


def test_the_public_names(site: Site) -> None:
    out = site.run(
        "import ascend_patch; print(ascend_patch.status(), ascend_patch.overlay(), "
        "{'status', 'undo', 'overlay', '__version__'} <= set(dir(ascend_patch)), hasattr(ascend_patch, 'nothing'))"
    ).stdout
    assert out.split() == ["[]", "None", "True", "False"]


@pytest.mark.parametrize("method", ["subprocess", "spawn", "fork", "forkserver"])
def test_children_are_reached(site: Site, method: str) -> None:
    (site.folder / "child.py").write_text(
        "import sys\ndef look():\n    print('ascend_patch._boot' in sys.modules, flush=True)\n"
        "if __name__ == '__main__': look()\n"
    )
    out = site.run(
        f"""
        import sys; sys.path.insert(0, ".")
        import ascend_patch, child, multiprocessing, subprocess
        if {method!r} == "subprocess":
            subprocess.run([sys.executable, "child.py"], check=True)
        else:
            process = multiprocessing.get_context({method!r}).Process(target=child.look)
            process.start(); process.join()
        """
    ).stdout
    assert out.split() == ["True"]
