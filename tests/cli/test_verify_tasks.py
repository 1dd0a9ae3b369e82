"""`verify --todo` and `verify --explain`: what is left to do for a version, and what upstream changed."""

from __future__ import annotations

import pytest

from ascend_patch.cli.describe import merged
from ascend_patch.cli.tasks import extended

from .conftest import PATCH_THAT_UPSTREAM_OUTGREW, Toy, forget
from .index import Index

EXPLAINED = {"target", "state", "changes", "diff"}


def tasks(toy: Toy, *arguments: str) -> dict[str, dict[str, object]]:
    return {item["id"]: item for item in toy("verify", "--todo", "--json", *arguments).json["patches"]}


def test_a_version_with_a_contract_leaves_nothing_but_what_no_range_covers(toy: Toy) -> None:
    result = toy("verify", "--todo")
    kinds = {id: item["kind"] for id, item in tasks(toy).items()}
    assert kinds.pop("math.old") == "decide"  # its range is far below, and nothing is known of it
    assert set(kinds.values()) == {"nothing"}
    assert result.code == 1
    (toy.site / "gadget_patches/math/old.py").unlink()
    done = toy("verify", "--todo")
    assert done.code == 0 and "5 of 5 patches: nothing to do" in done.out and "then" not in done.out


def test_an_optional_patch_that_ended_before_a_known_version_ended_on_purpose(toy: Toy) -> None:
    toy.install("1.7.0")
    found = tasks(toy)["math.old"]
    assert (found["kind"], found["text"]) == ("nothing", ">=0.1,<0.2 does not reach the known 1.5.0 either")
    toy.edit("gadget_patches/math/old.py", "variants=(", "required=True, variants=(")
    assert tasks(toy)["math.old"]["kind"] == "decide"


def test_a_version_inside_the_ranges_wants_its_contract(toy: Toy) -> None:
    toy.install("1.7.0")
    found = tasks(toy)
    assert {id for id, item in found.items() if item["kind"] == "contract"} == set(found) - {"math.old"}
    out = toy("verify", "--todo").out
    assert "fits, and has no contract of this version yet (5)" in out
    assert "then  ascend-patch verify --update" in out
    assert toy("verify", "--update").code == 0
    assert tasks(toy)["math.add"]["kind"] == "nothing"


def test_a_version_above_the_ranges_names_each_edit(toy: Toy) -> None:
    toy.install("2.3.1")
    found = tasks(toy)["math.add"]
    (edit,) = found["edits"]  # type: ignore[misc]
    place = toy.site / "gadget_patches/math/add.py"
    number = 1 + next(n for n, line in enumerate(place.read_text().splitlines()) if '">=1.0,<2"' in line)
    assert found["kind"] == "extend"
    assert edit == {"place": f"{place.resolve()}:{number}", "old": ">=1.0,<2", "new": ">=1.0,<2.4"}
    out = toy("verify", "--todo").out
    assert "extend the range: every target is as expected (5)" in out
    assert f'{place.resolve()}:{number}: ">=1.0,<2" -> ">=1.0,<2.4"' in out
    # Doing what it says is enough.
    assert "extended 5 ranges; the list above is from before" in toy("verify", "--todo", "--extend").out
    assert '">=0.5,<1.0"' in place.read_text() and '">=1.0,<2.4"' in place.read_text()
    forget("gadget_patches")
    assert toy("verify", "--update").code == 0
    assert {item["kind"] for id, item in tasks(toy).items() if id != "math.old"} == {"nothing"}


def test_only_what_fits_is_extended(toy: Toy) -> None:
    toy.install("2.0.0")
    toy.edit("gadget/core.py", "def add(a, b)", "def add(a, b, c=0)")
    before = {path: path.read_text() for path in (toy.site / "gadget_patches").rglob("*.py")}
    done = toy("verify", "--todo", "--extend", "--json").json
    changed = {path for path, text in before.items() if path.read_text() != text}
    assert {path.stem for path in changed} == {"where", "registry", "run", "stop"}
    assert {place.rpartition(":")[0] for place in done["extended"]} == {str(path.resolve()) for path in changed}
    assert toy("verify", "--todo", "--json").json["extended"] == []


def test_a_range_that_is_made_elsewhere_is_left_to_the_user(toy: Toy) -> None:
    toy.edit("gadget_patches/math/run.py", 'versions=">=1.0,<2"', 'versions=">=1.0," + "<2"')
    toy.install("2.0.0")
    assert 'does not hold the text ">=1.0,<2"' in toy("verify", "--todo", "--extend").refused()
    assert ">=1.0,<2.1" not in (toy.site / "gadget_patches/math/add.py").read_text()


def test_drift_names_the_target_and_the_command_that_explains_it(toy: Toy, index: Index) -> None:
    toy.uses(index)
    sources = {name: text.replace("def add(a, b)", "def add(a, b, c=0)") for name, text in toy.sources().items()}
    index.sdist("2.0.0", sources)
    index.sdist("1.5.0", toy.sources())
    result = toy("verify", "--todo", "--vllm", "2.0.0")
    assert result.code == 1
    assert "math.add: no variant covers it; compared with >=1.0,<2: gadget.core:add: parameter 'c' added" in result.out
    command = "ascend-patch verify --explain math.add --from 1.5.0 --to 2.0.0"
    assert command in result.out
    assert tasks(toy, "--vllm", "2.0.0")["math.add"]["commands"] == [command]
    explained = toy(*command.split()[1:])
    assert explained.code == 0
    assert "gadget.core:add: changed\n  signature changed: parameter 'c' added\n" in explained.out
    assert "-def add(a, b):\n+def add(a, b, c=0):" in explained.out


def test_what_is_gone_has_a_command_too(toy: Toy) -> None:
    toy.install("2.0.0")
    toy.edit("gadget/core.py", "def add(a, b)", "def plus(a, b)")
    found = tasks(toy)["math.add"]
    assert found["kind"] == "drift" and "gadget.core has no add" in str(found["text"])
    assert found["commands"] == ["ascend-patch verify --explain math.add --from 1.5.0"]


def test_drift_inside_a_range_is_drift(toy: Toy) -> None:
    toy.install("1.7.0")
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    found = tasks(toy)["device.where"]
    assert found["kind"] == "drift" and "1 sites to retarget instead of 2" in str(found["text"])
    assert found["commands"] == ["ascend-patch verify --explain device.where --from 1.5.0"]


def test_a_build_without_tags_asks_for_no_wider_range(toy: Toy) -> None:
    toy.install("0.1.dev1+g5e40263c3")
    toy.edit("gadget_patches/math/old.py", ">=0.1,<0.2", ">=0.4,<0.5")
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    before = {path: path.read_text() for path in (toy.site / "gadget_patches").rglob("*.py")}
    result = toy("verify", "--todo", "--extend")
    assert "meet the contracts of 1.5.0 best" in result.err and "need no change for a build without tags" in result.err
    assert before == {path: path.read_text() for path in before}
    found = tasks(toy)
    assert (found["math.add"]["kind"], found["math.run"]["kind"]) == ("drift", "nothing")


def test_what_is_not_needed_asks_for_a_decision_beyond_its_range(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    assert tasks(toy)["life.wake"]["kind"] == "nothing"
    toy.install("2.0.0")
    found = tasks(toy)["life.wake"]
    assert found["kind"] == "decide" and "upstream wakes by itself" in str(found["text"])
    assert [(edit["old"], edit["new"]) for edit in found["edits"]] == [(">=1.5,<2", ">=1.5,<2.1")]  # type: ignore[attr-defined]


def test_new_overrides_and_outgrown_patches_are_named(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW.replace(">=1.5,<2", ">=1.8,<2").replace(
        ">=1.0,<1.5", ">=1.0,<1.8"))  # fmt: skip
    assert toy("verify", "--update").code == 0
    toy.install("1.6.0")
    toy.edit("gadget/core.py", "def run(job):", "def wake():\n    pass\n\n\ndef run(job):")
    toy.write("gadget/more.py", "from gadget.core import Child\n\n\nclass Last(Child):\n    def wake(self): ...\n")
    result = toy("verify", "--todo", "--json").json
    (sign,) = result["unnecessary"]
    assert sign["id"] == "life.wake" and "gadget.core:wake" in sign["signs"][0]
    assert "outgrown life.wake" in toy("verify", "--todo").out


@pytest.mark.parametrize(
    ("specifier", "version", "above", "expected"),
    [
        (">=0.13,<0.33", "0.33.0", None, ">=0.13,<0.34"),
        (">=0.13,<0.33", "0.33.1.dev3+gabc", None, ">=0.13,<0.34"),
        (">=0.13,!=0.15.0,<0.33", "0.33.2", None, ">=0.13,!=0.15.0,<0.34"),
        (">=0.13,<0.20", "0.20.1", ">=0.20.2,<0.34", ">=0.13,<0.20.2"),
        (">=0.13,<0.20", "0.20.1", ">=0.22,<0.34", ">=0.13,<0.21"),
        (">=0.13,<0.33", "0.11.0", None, ">=0.11.0,<0.33"),
        ("==0.32.0", "0.33.0", None, ">=0.32.0,<0.34"),
    ],
)
def test_a_range_grows_just_far_enough(specifier: str, version: str, above: str | None, expected: str) -> None:
    assert extended(specifier, version, above) == expected


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([">=0.5,<1.0", ">=1.0,<2"], [">=0.5,<2"]),
        ([">=1.0,<2", ">=0.1,<0.2"], [">=0.1,<0.2", ">=1.0,<2"]),
        ([">=0.9,<0.10", ">=0.10,<0.12", ">=0.9,<0.11"], [">=0.9,<0.12"]),
        (["==0.32.*"], [">=0.32,<=0.32"]),
    ],
)
def test_ranges_that_touch_are_one(ranges: list[str], expected: list[str]) -> None:
    assert merged(ranges) == expected


def explained(toy: Toy, patch_id: str, text: dict[str, str]) -> dict[str, object]:
    """What is explained when the sources become `text`."""
    for version, files in (("1.5.0", toy.sources()), ("1.6.0", text)):
        folder = toy.root / "sources" / f"gadget-{version}"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    old, new = (str(toy.root / "sources" / f"gadget-{version}") for version in ("1.5.0", "1.6.0"))
    result = toy("verify", "--explain", patch_id, "--from", old, "--to", new, "--json")
    assert result.code == 0
    assert (result.json["id"], result.json["from"], result.json["to"]) == (patch_id, "1.5.0", "1.6.0")
    (target,) = result.json["targets"]
    assert set(target) == EXPLAINED
    return dict(target)


def changed(toy: Toy, old: str, new: str) -> dict[str, str]:
    text = toy.sources()
    assert old in text["gadget/core.py"]
    return text | {"gadget/core.py": text["gadget/core.py"].replace(old, new)}


def test_explain_unchanged(toy: Toy) -> None:
    assert explained(toy, "math.add", toy.sources() | {"gadget/new.py": "x = 1\n"}) == {
        "target": "gadget.core:add", "state": "unchanged", "changes": [], "diff": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("patch_id", "old", "new", "words"),
    [
        ("math.add", "return a + b", "return b + a", "body changed"),
        ("math.add", "def add(a, b)", "def add(a, b, *, c)", "signature changed: parameter 'c' added"),
        ("math.add", "    return a + b", "    # the sum\n    return a + b", "only comments, docstrings"),
        ("device.where", "os.cuda.device(", "os.xpu.device(", "sites to retarget: 2 before, 1 now (2 declared)"),
        ("device.registry", "DEVICES = {", "DEVICES = dict() or {", "body changed"),
    ],
)
def test_explain_changes(toy: Toy, patch_id: str, old: str, new: str, words: str) -> None:
    found = explained(toy, patch_id, changed(toy, old, new))
    assert found["state"] == "changed"
    assert any(words in line for line in found["changes"]), found  # type: ignore[attr-defined]
    diff = str(found["diff"]).splitlines()
    assert diff[0].startswith("--- 1.5.0/gadget/core.py:") and diff[1].startswith("+++ 1.6.0/gadget/core.py:")


def test_explain_what_is_gone_and_what_moved(toy: Toy) -> None:
    gone = changed(toy, "def add(a, b):\n    return a + b", "")
    found = explained(toy, "math.add", gone | {"gadget/sums.py": "def add(a, b):\n    return a + b\n"})
    assert found["state"] == "gone"
    assert found["changes"] == ["gadget.core has no add; its name is now defined in gadget.sums"]
    assert "-def add(a, b):" in str(found["diff"])
    reexported = changed(toy, "def add(a, b):\n    return a + b", "from gadget.sums import add")
    found = explained(toy, "math.add", reexported | {"gadget/sums.py": "def add(a, b, c):\n    return a + b\n"})
    assert found["state"] == "changed"
    assert found["changes"][0] == "moved to gadget.sums:add"  # type: ignore[index]
    assert "signature changed: parameter 'c' added" in found["changes"]  # type: ignore[operator]


def test_explain_a_new_subclass_and_a_new_alias(toy: Toy) -> None:
    more = "from gadget.core import Child, run\n\n\nclass Last(Child):\n    def close(self): ...\n"
    found = explained(toy, "math.run", toy.sources() | {"gadget/more.py": more})
    assert (found["state"], found["changes"]) == ("changed", ["now also bound in gadget.more"])
    toy.edit("gadget_patches/life/stop.py", 'Add("gadget.core:Child.close"', 'Replace("gadget.core:Base.stop"')
    toy.edit("gadget_patches/life/stop.py", "import Add, Patch", "import Patch, Replace")
    more = "from gadget.core import Child\n\n\nclass Last(Child):\n    def stop(self): ...\n"
    found = explained(toy, "life.stop", toy.sources() | {"gadget/more.py": more})
    assert (found["state"], found["changes"]) == ("changed", ["now also overridden by gadget.more:Last"])


KERNEL = "@gadget.jit\ndef add(a, b):\n    return a + b\n\n\ndef launch(a):\n    add[(1,)](a, 2)"


def test_explain_another_launch_and_another_kernel(toy: Toy) -> None:
    toy.edit("gadget/core.py", "def add(a, b):\n    return a + b", KERNEL)
    found = explained(toy, "math.add", changed(toy, "(a, 2)", "(a, 2, FAST=True)"))
    assert (found["state"], found["changes"]) == ("changed", ["gadget.core:launch: keyword 'FAST' added"])
    assert "+    add[(1,)](a, 2, FAST=True)" in str(found["diff"])
    toy.edit("gadget_patches/math/add.py", 'Replace("gadget.core:add"', 'Replace("gadget.core:launch"')
    found = explained(toy, "math.add", changed(toy, "return a + b", "return a - b"))
    assert (found["state"], found["changes"]) == ("changed", ["kernel add that it launches changed"])
    assert "-    return a + b\n+    return a - b" in str(found["diff"])


def test_explain_what_is_in_neither_version(toy: Toy) -> None:
    found = explained(toy, "life.stop", toy.sources())
    assert (found["state"], found["changes"]) == ("absent", ["neither version has it"])
    added = changed(toy, "class Child(Base):\n    pass", "class Child(Base):\n    def close(self): ...")
    found = explained(toy, "life.stop", added)
    assert found["state"] == "new" and "1.6.0 has it (gadget/core.py:" in found["changes"][0]  # type: ignore[index]
