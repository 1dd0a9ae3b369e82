"""`verify`: the patches against sources of any kind."""

from __future__ import annotations

import ast
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from ascend_patch.cli.fitting import launch_refusals, refusals
from ascend_patch.engine.launches import parse_use

from .conftest import PATCH_THAT_UPSTREAM_OUTGREW, Toy


def make_sdist(toy: Toy, version: str) -> Path:
    path = toy.root / f"gadget-{version}.tar.gz"
    files = {**toy.sources(), "PKG-INFO": f"Metadata-Version: 2.1\nName: gadget\nVersion: {version}\n"}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"gadget-{version}/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def make_wheel(toy: Toy, version: str) -> Path:
    path = toy.root / f"gadget-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in toy.sources().items():
            archive.writestr(name, text)
        archive.writestr(
            f"gadget-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: gadget\nVersion: {version}\n"
        )
    return path


def make_checkout(toy: Toy, version: str) -> Path:
    folder = toy.root / f"gadget-{version}"
    for name, text in toy.sources().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_everything_in_order_is_exit_0(toy: Toy) -> None:
    result = toy("verify")
    assert result.code == 0 and result.err == ""
    assert "5 of 6 patches apply" in result.out  # math.old covers other versions


def test_json_keys(toy: Toy) -> None:
    found = toy("verify", "--json").json
    assert set(found) == {
        "package", "version", "origin", "source", "inside", "taken_for", "contract", "ok", "applied", "not_needed",
        "short", "misfits", "patches", "unnecessary", "overridden", "launched", "updated", "accepted",
    }  # fmt: skip
    assert (found["version"], found["source"], found["contract"], found["ok"]) == ("1.5.0", "installed", True, True)
    assert (found["inside"], found["taken_for"], found["applied"], found["short"]) == (True, None, 5, [])
    keys = {"id", "required", "state", "unneeded", "reason", "variant", "number", "targets"}
    assert all(set(patch) == keys for patch in found["patches"])
    assert {patch["id"]: patch["number"] for patch in found["patches"]}["math.add"] == 2


def with_a_kernel(toy: Toy) -> None:
    """`gadget.core:add` is a kernel, launched in two modules, and ours stands in for one."""
    toy.edit(
        "gadget/core.py", "def add(a, b):", "def run_add(a):\n    add[(1,)](a, 2)\n\n\n@gadget.jit\ndef add(a, b):"
    )
    toy.write("gadget/user.py", "from gadget.core import add\n\n\ndef use(a):\n    add[(1,)](a, b=2)\n")
    toy.edit(
        "gadget_patches/math/add.py", "def add(a, b):", "Launched = staticmethod\n\n\n@Launched\ndef add(grid, a, b):"
    )
    assert toy("verify", "--update").code == 0


def test_a_launch_that_our_function_does_not_take_is_named(toy: Toy) -> None:
    with_a_kernel(toy)
    assert toy("verify", "--json").json["misfits"] == []
    toy.edit("gadget/user.py", "b=2", "b=2, num_warps=4")
    toy.edit("gadget/core.py", "(a, 2)", "(a, 2, 3)")
    assert toy("verify", "--update").code == 0  # and there is nothing in the contract to compare it with
    assert toy("verify", "--strict").code == 1
    found = toy("verify", "--json").json["misfits"]
    assert found == [
        {
            "id": "math.add",
            "problems": [
                "gadget.core:add: our function takes 2 arguments by position when gadget.core:run_add launches it as"
                " [1](3)",
                "gadget.core:add: our function does not take 'num_warps' by name when gadget.user:use launches it as"
                " [1](1, b, num_warps)",
            ],
        }
    ]


def test_a_new_launch_in_another_module_is_named(toy: Toy) -> None:
    with_a_kernel(toy)
    toy.write("gadget/more.py", "from gadget import core\n\n\ndef more(a):\n    core.add[(1,)](a, a)\n")
    result = toy("verify")
    assert result.code == 0
    assert "gadget.core:add: now also launched in gadget.more:more as [1](2) since 1.5.0" in result.out
    assert toy("verify", "--strict").code == 1
    (found,) = toy("verify", "--json").json["launched"]
    assert found["target"] == "gadget.core:add" and "gadget.more:more" in found["text"]
    assert toy("verify", "--todo", "--json").json["launched"] == [found]


def test_contracts_of_another_format_are_written_anew(toy: Toy) -> None:
    path = toy.root / "contracts" / "1.5.0.json"
    path.write_text('{"format": 1}')
    assert "verify --all --update" in toy("verify").refused()
    result = toy("verify", "--update")
    assert result.code == 0 and "the contracts of 1.5.0 cannot be read, and nothing is compared with them" in result.err
    assert toy("verify").code == 0 and not toy("verify", "--update").err


@pytest.mark.parametrize(
    ("use", "ours", "problems"),
    [
        ("[1](2, BLOCK)", "grid, a, b, BLOCK", []),
        ("[1](2, BLOCK)", "grid, a, b, *, BLOCK, other=1", []),
        ("[1](3)", "grid, *all", []),
        ("[1](1, x)", "grid, a, **all", []),
        ("[1](1, *, **)", "grid, a, b", []),
        ("[1](3)", "grid, a, b", ["takes 2 arguments by position"]),
        ("[1](2, a)", "grid, a, b", ["does not take 'a' by name"]),
        ("[1](1)", "grid, a, b, c=1, *, d", ["misses 'b'", "misses 'd'"]),
    ],
)
def test_whether_ours_takes_a_launch(use: str, ours: str, problems: list[str]) -> None:
    function = ast.parse(f"def f({ours}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert list(launch_refusals(parse_use(use), function)) == [f"our function {problem}" for problem in problems]


def test_a_required_patch_that_drifted_is_exit_1(toy: Toy) -> None:
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    result = toy("verify")
    assert result.code == 1
    assert "device.where drifted" in result.err and "1 sites to retarget instead of 2" in result.err
    assert toy("verify", "--json").json["ok"] is False


def test_what_falls_short_is_summed_up_and_the_command_that_shows_it_looks_at_the_same_sources(toy: Toy) -> None:
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    result = toy("verify")
    assert "4 of 6 patches apply; 1 required ones fall short: device.where" in result.out
    assert "see 'ascend-patch diff device.where'" in result.err
    path = str(make_sdist(toy, "1.4.0"))
    result = toy("verify", "--vllm", path, "--as", "1.5.0")
    command = f"ascend-patch diff device.where --vllm {path} --as 1.5.0"
    assert result.code == 1 and f"see '{command}'" in result.err
    assert "os.xpu.device" in toy(*command.split()[1:]).out


def test_signs_of_expiry_in_a_version_from_before_the_patches_are_none(toy: Toy) -> None:
    toy.write(
        "gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW.replace("<1.5", "<1.7").replace(">=1.5", ">=1.7")
    )
    toy.edit("gadget/core.py", "def add(", "def wake(): ...\n\n\ndef add(")
    for version, reported in (("1.5.0", True), ("3.0.0", True), ("0.0.dev1", True), ("0.3.0", False)):
        toy.install(version)
        found = toy("verify", "--json").json
        assert [item["id"] for item in found["unnecessary"]] == (["life.wake"] if reported else []), version


def test_an_optional_one_only_counts_with_strict(toy: Toy) -> None:
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    assert toy("verify").code == 0
    assert toy("verify", "--strict").code == 1
    target = next(patch for patch in toy("verify", "--json").json["patches"] if patch["id"] == "math.add")["targets"][0]
    assert (target["problem"], target["against"]) == ("body", "1.5.0")


def test_switched_off_and_conflicting_patches_are_checked_too(toy: Toy) -> None:
    (toy.project / "ascend_patch.toml").write_text('disable = ["math.add"]\n')
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    found = {patch["id"]: patch["state"] for patch in toy("verify", "--json").json["patches"]}
    assert (found["math.add"], found["math.run"]) == ("drifted", "pending")


@pytest.mark.parametrize(
    ("make", "kind"), [(make_sdist, "sdist"), (make_wheel, "wheel"), (make_checkout, "folder")]
)  # fmt: skip
def test_every_kind_of_source(toy: Toy, make: object, kind: str) -> None:
    path = make(toy, "1.5.0")  # type: ignore[operator]
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")  # the installed one must not be looked at
    result = toy("verify", "--vllm", str(path), "--json")
    assert result.code == 0
    assert (result.json["source"], result.json["version"]) == (kind, "1.5.0")


def test_a_version_that_no_patch_names_is_judged_by_contracts(toy: Toy) -> None:
    toy.install("3.0.0")
    result = toy("verify")
    assert result.code == 0 and "gadget 3.0.0 is outside the versions these patches name" in result.out
    found = toy("verify", "--json").json
    assert (found["inside"], found["taken_for"]["version"], found["applied"]) == (False, "1.5.0", 5)
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    assert toy("verify").code == 1
    assert toy("verify", "--json").json["short"] == ["device.where"]
    assert "--todo" in toy("verify", "--update").refused()


def test_sources_like_no_known_version_are_refused(toy: Toy) -> None:
    toy.install("3.0.0")
    (toy.site / "gadget/core.py").unlink()
    line = toy("verify").refused()
    assert "no patch covers gadget 3.0.0" in line and ">=0.1,<0.2 and >=0.5,<2" in line
    assert toy("verify", "--as", "1.5.0").code == 1


def test_the_settings_say_what_the_installed_version_is_taken_for(toy: Toy) -> None:
    environ = {"VLLM_ASCEND_PATCH_ASSUME_VERSION": "0.7.0"}
    found = toy("verify", "--json", environ=environ).json
    assert found["taken_for"]["version"] == "0.7.0" and found["short"] == ["device.where"]
    elsewhere = toy("verify", "--json", "--vllm", str(make_checkout(toy, "1.5.0")), environ=environ).json
    assert elsewhere["taken_for"] is None and elsewhere["short"] == []


@pytest.mark.parametrize("command", ["verify", "diff math.add"])
def test_what_is_no_version_is_refused_as_the_engine_does(toy: Toy, command: str) -> None:
    environ = {"VLLM_ASCEND_PATCH_ASSUME_VERSION": "banana"}
    assert "'banana' is no version" in toy(*command.split(), environ=environ).refused()
    assert toy(*command.split(), "--vllm", str(make_checkout(toy, "1.5.0")), environ=environ).code == 0


def test_a_new_subclass_that_overrides_a_target_is_named(toy: Toy) -> None:
    toy.edit("gadget_patches/life/stop.py", '(Add("gadget.core:Child.close", by=":close"),)',
             '(Wrap("gadget.core:Base.stop", by=":close"),)')  # fmt: skip
    toy.edit("gadget_patches/life/stop.py", "import Add, Patch", "import Wrap, Patch")
    assert toy("verify", "--update").code == 0
    toy.write("gadget/more.py", "from gadget.core import Base\n\n\nclass Grand(Base):\n    def stop(self): ...\n")
    result = toy("verify")
    assert result.code == 0 and "gadget.core:Base.stop: gadget.more:Grand overrides it since 1.5.0" in result.out
    assert toy("verify", "--strict").code == 1
    (found,) = toy("verify", "--json").json["overridden"]
    assert found["target"] == "gadget.core:Base.stop" and "gadget.more:Grand" in found["text"]


def test_a_patch_that_upstream_outgrew_is_reported_and_no_error(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    toy.install("1.2.0")
    assert toy("verify", "--json").json["unnecessary"] == []
    toy.edit("gadget/core.py", "def run(job):", "def wake():\n    pass\n\n\ndef run(job):")
    result = toy("verify")
    assert result.code == 0
    row = next(line for line in result.out.splitlines() if line.startswith("life.wake"))
    assert "unnecessary? upstream has gadget.core:wake" in row
    assert "upstream seems to have outgrown life.wake" in result.out
    (found,) = toy("verify", "--json").json["unnecessary"]
    assert found["id"] == "life.wake" and "gadget.core:wake" in found["signs"][0]
    toy.install("1.5.0")  # where it is known not to be needed there is nothing to report
    assert toy("verify", "--json").json["unnecessary"] == []
    assert toy("verify", "--json").json["not_needed"] == ["life.wake"]


def test_a_version_in_between_is_accepted_by_a_known_contract(toy: Toy) -> None:
    toy.install("1.7.0")
    result = toy("verify", "--strict", "--json")
    assert result.code == 0 and result.json["contract"] is False
    against = {item["against"] for patch in result.json["patches"] for item in patch["targets"] if item["against"]}
    assert against == {"1.5.0"}


def test_update_writes_the_contract_of_that_version(toy: Toy) -> None:
    toy.install("1.7.0")
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    assert next(p for p in toy("verify", "--json").json["patches"] if p["id"] == "math.add")["state"] == "drifted"
    result = toy("verify", "--update", "--json")
    path = toy.root / "contracts" / "1.7.0.json"
    assert result.code == 0 and str(path) in result.json["updated"]
    assert set(json.loads(path.read_text())["targets"]) == {
        "gadget.core:where", "gadget.core:DEVICES", "gadget.core:add", "gadget.core:run", "gadget.core:Child.close",
    }  # fmt: skip
    assert next(p for p in result.json["patches"] if p["id"] == "math.add")["state"] == "pending"
    assert not list(path.parent.glob(".*")), "a draft was left behind"
    assert "is up to date" in toy("verify", "--update").out


def test_a_target_that_moved_is_searched_for(toy: Toy) -> None:
    toy.edit("gadget/core.py", "def add(a, b):\n    return a + b", "")
    toy.write("gadget/sums.py", "def add(a, b):\n    return a + b\n")
    assert "gadget.core:add is gone; its name is now defined in gadget.sums" in toy("verify").out
    target = next(p for p in toy("verify", "--json").json["patches"] if p["id"] == "math.add")["targets"][0]
    assert (target["problem"], target["now_in"]) == ("missing", ["gadget.sums"])


def test_update_says_what_changed(toy: Toy) -> None:
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    out = toy("verify", "--update").out
    # Every target lies in the one file that changed, so every contract has a new file hash.
    assert "5 targets: 0 added, 0 removed, 5 changed" in out


def test_a_function_that_does_not_take_upstreams_arguments_is_found_whatever_the_contract_says(toy: Toy) -> None:
    toy.edit("gadget/core.py", "def add(a, b)", "def add(a, b, where)")
    assert toy("verify", "--update").code == 0  # the contract says that add has three parameters
    result = toy("verify")
    assert result.code == 0, "an optional one is no reason to fail"
    assert "gadget.core:add: our function has no parameter 'where'" in result.out
    assert "4 of 6 patches apply" in result.out
    assert next(line for line in result.out.splitlines() if line.startswith("math.add")).split()[1:3] == [
        "optional",
        "unfit",
    ]
    assert toy("verify", "--strict").code == 1
    (found,) = toy("verify", "--json").json["misfits"]
    assert found == {"id": "math.add", "problems": ["gadget.core:add: our function has no parameter 'where'"]}
    toy.edit("gadget_patches/math/add.py", "traced=True", "traced=True, required=True")
    required = toy("verify")
    assert required.code == 1 and "math.add does not fit gadget 1.5.0" in required.err
    assert toy("verify", "--json").json["short"] == ["math.add"]
    assert "our function has no parameter 'where'" in toy("verify", "--todo").out


@pytest.mark.parametrize(
    ("theirs", "ours", "problems"),
    [
        ("self, a, b=1, *, c", "self, a, b=2, *, c", []),
        ("self, a", "self, a, *, extra=None", []),
        ("self, a, b", "*args, **kwargs", []),
        ("a, *, b", "a, **more", []),
        ("a, /, b", "x, b", []),
        (
            "a, b",
            "b, a",
            ["our function has parameter 'a' in another place", "our function has parameter 'b' in another place"],
        ),
        ("a, b", "a, c", ["our function calls parameter 'b' 'c'"]),
        ("a", "a, b", ["our function wants a parameter 'b' that upstream's callers do not pass"]),
        ("a", "a, *, b", ["our function wants a parameter 'b' that upstream's callers do not pass"]),
        ("a, *, b", "a", ["our function has no parameter 'b'"]),
    ],
)
def test_arguments(theirs: str, ours: str, problems: list[str]) -> None:
    def function(parameters: str) -> ast.FunctionDef:
        node = ast.parse(f"def f({parameters}): ...").body[0]
        assert isinstance(node, ast.FunctionDef)
        return node

    assert list(refusals(function(theirs), function(ours))) == problems


def test_update_names_what_would_be_drift_without_it(toy: Toy) -> None:
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    toy.edit("gadget/core.py", "def run(job)", "def run(job, times=1)")
    toy.install("1.7.0")
    result = toy("verify", "--update")
    assert result.code == 0
    assert "math.add now takes for granted: gadget.core:add: body changed since 1.5.0" in result.out
    assert "math.run now takes for granted: gadget.core:run: parameter 'times' added since 1.5.0" in result.out
    assert "'ascend-patch verify --explain math.add --from 1.5.0 --to 1.7.0'" in result.out
    assert result.out.count("takes for granted") == 2
    assert toy("verify", "--update", "--json").json["accepted"] == []
    toy.install("1.8.0")  # like 1.7.0 now
    assert toy("verify", "--update", "--json").json["accepted"] == []


def test_refusals_change_nothing(toy: Toy) -> None:
    before = sorted(path.name for path in (toy.root / "contracts").iterdir())
    assert "--as" in toy("verify", "--update", "--as", "1.6.0").refused()
    assert "write it like" in toy("verify", "--as", "soon").refused()
    assert "does not exist" in toy("verify", "--vllm", str(toy.root / "nowhere")).refused()
    (toy.root / "contracts" / "1.5.0.json").write_text("{")
    assert "1.5.0.json" in toy("verify").refused()
    assert sorted(path.name for path in (toy.root / "contracts").iterdir()) == before
