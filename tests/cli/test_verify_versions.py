"""`verify` for released versions: one by its number, all of them as a table."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import PATCH_THAT_UPSTREAM_OUTGREW, Toy
from .index import Index, serve


@pytest.fixture
def released(toy: Toy, index: Index) -> Index:
    """Releases 0.7.0 (patched otherwise), 1.4.0 and 1.5.0 (as installed), 1.6.0 (`add` changed), 3.0.0 (outside)."""
    toy.uses(index)
    for version in ("0.7.0", "1.4.0", "1.5.0"):
        index.sdist(version, toy.sources())
    changed = {name: text.replace("return a + b", "return b + a") for name, text in toy.sources().items()}
    index.sdist("1.6.0", changed)
    index.sdist("3.0.0", {name: text.replace("os.cuda", "os.xpu") for name, text in toy.sources().items()})
    index.sdist("1.7.0rc1", changed)
    return index


def rows(out: str) -> dict[str, list[str]]:
    """The lines of a plain table by their first word."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


def test_a_version_is_downloaded_once(toy: Toy, released: Index) -> None:
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")  # the installed one must not be looked at
    first = toy("verify", "--vllm", "1.5.0")
    assert first.code == 0 and "5 of 6 patches apply" in first.out
    assert first.err == "ascend-patch: downloading the sources of gadget 1.5.0\n"
    released.asked.clear()
    again = toy("verify", "--vllm", "1.5.0", "--json")
    assert again.err == "" and released.asked == []
    assert again.json["version"] == "1.5.0" and again.json["source"] == "wheel"


def test_a_folder_named_like_a_version_is_a_path(toy: Toy, released: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy.root / "1.5.0" / "gadget-1.4.0"
    for name, text in toy.sources().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (toy.root / "1.5.0" / "gadget").symlink_to(folder / "gadget")
    monkeypatch.chdir(toy.root)
    assert toy("verify", "--vllm", "1.5.0", "--as", "1.9.0", "--json").json["source"] == "folder"
    assert released.asked == []


def test_what_is_neither_a_path_nor_a_version_is_refused(toy: Toy, released: Index) -> None:
    assert "does not exist" in toy("verify", "--vllm", "gadgets/").refused()
    assert "the newest version there is 3.0.0" in toy("verify", "--vllm", "1.5.9").refused()
    assert "leave out --offline" in toy("verify", "--vllm", "1.5.0", "--offline").refused()


def test_update_writes_the_contract_of_a_release(toy: Toy, released: Index) -> None:
    assert toy("verify", "--vllm", "1.6.0", "--strict").code == 1
    assert toy("verify", "--vllm", "1.6.0", "--update", "--strict").code == 0
    assert json.loads((toy.root / "contracts" / "1.6.0.json").read_text())["version"] == "1.6.0"


def test_the_table_has_a_row_for_each_patch_and_a_column_for_each_version(toy: Toy, released: Index) -> None:
    result = toy("verify", "--all")
    found = rows(result.out)
    assert found["PATCH"] == ["0.7.0", "1.4.0", "1.5.0", "1.6.0"]  # no release candidate, nothing outside
    assert found["device.where"] == ["no", "ok", "ok", "ok"]
    assert found["math.add"] == ["held", "v2", "v2", "drift"]  # on 0.7.0 what it requires is not covered
    assert found["math.old"] == ["no", "no", "no", "no"]
    assert found["1.4.0"][:4] == ["5", "of", "6", "-"]
    assert found["0.7.0"][:5] == ["0", "of", "6", "-", "device.where"]


def test_a_required_patch_that_falls_short_inside_is_exit_1(toy: Toy, released: Index) -> None:
    result = toy("verify", "--all")
    assert result.code == 1
    assert "gadget 0.7.0: required device.where fall short: see 'ascend-patch verify --vllm 0.7.0'" in result.err
    assert "nothing required falls short in 3 of the 4 versions" in result.out
    del released.files["gadget-0.7.0.tar.gz"]
    (toy.root / "cache/ascend_patch/sources/gadget-0.7.0.zip").unlink()
    good = toy("verify", "--all")
    assert good.code == 0 and good.err == ""
    assert toy("verify", "--all", "--strict").code == 1  # math.add drifted in 1.6.0


def test_versions_outside_are_shown_and_do_not_count(toy: Toy, released: Index) -> None:
    del released.files["gadget-0.7.0.tar.gz"]
    result = toy("verify", "--all", "--also", "3.0.0, 1.7.0rc1")
    assert result.code == 0
    found = rows(result.out)
    assert found["PATCH"] == ["1.4.0", "1.5.0", "1.6.0", "1.7.0RC1", "3.0.0"]
    assert found["device.where"] == ["ok", "ok", "ok", "ok", "drift"]
    assert " ".join(found["3.0.0"]).endswith("device.where outside the ranges; taken for 1.5.0")
    facts = {item["version"]: item for item in toy("verify", "--all", "--also", "3.0.0", "--json").json["versions"]}
    assert (facts["3.0.0"]["inside"], facts["3.0.0"]["ok"], facts["3.0.0"]["short"]) == (False, False, ["device.where"])
    assert facts["3.0.0"]["applied"] == 4


def test_a_target_that_is_gone_and_a_patch_that_is_not_needed(toy: Toy, released: Index) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    sources = {name: text.replace("def add(a, b)", "def plus(a, b)") for name, text in toy.sources().items()}
    released.sdist("1.8.0", sources)
    woken = {
        name: text.replace("def run(job)", "def wake():\n    pass\n\n\ndef run(job)")
        for name, text in toy.sources().items()
    }
    released.sdist("1.2.0", woken)
    result = toy("verify", "--all")
    found = rows(result.out)
    assert found["PATCH"] == ["0.7.0", "1.2.0", "1.4.0", "1.5.0", "1.6.0", "1.8.0"]
    assert found["math.add"][-1] == "missing"
    assert found["life.wake"] == ["no", "v1*", "v1", "-", "-", "-"]
    assert found["1.5.0"][:4] == ["5", "of", "7", "1"]
    assert "upstream seems to have outgrown life.wake in 1.2.0: upstream has gadget.core:wake" in result.out


def test_a_target_without_any_contract_has_a_question_mark(toy: Toy, released: Index) -> None:
    (toy.root / "contracts" / "1.5.0.json").unlink()
    found = rows(toy("verify", "--all").out)
    assert found["math.add"][1:] == ["v2?", "v2?", "v2?"]
    assert found["device.where"][1:] == ["ok", "ok", "ok"]  # its sites can be counted without one


def test_update_writes_every_contract_first(toy: Toy, released: Index) -> None:
    result = toy("verify", "--all", "--update", "--also", "3.0.0")
    names = {path.name for path in (toy.root / "contracts").iterdir()}
    assert names == {"0.7.0.json", "1.4.0.json", "1.5.0.json", "1.6.0.json"}  # none for a version outside
    assert rows(result.out)["math.add"][:4] == ["held", "v2", "v2", "v2"]
    assert result.out.count("wrote ") == 3 and "1.5.0.json is up to date" in result.out
    facts = toy("verify", "--all", "--update", "--json").json["versions"]
    assert all("is up to date" in item["updated"] for item in facts)


def test_json_of_all(toy: Toy, released: Index) -> None:
    found = toy("verify", "--all", "--json").json
    assert set(found) == {"package", "index", "ok", "versions"}
    assert (found["package"], found["index"], found["ok"]) == ("gadget", True, False)
    one = toy("verify", "--vllm", "1.6.0", "--json").json
    item = next(item for item in found["versions"] if item["version"] == "1.6.0")
    assert set(item) == set(one) - {"package", "overridden", "launched"} | {"cells"}
    assert item["cells"]["math.add"] == "drift" and item["patches"] == one["patches"]


def test_without_an_index_the_cache_is_looked_at_and_that_is_said(toy: Toy, released: Index) -> None:
    assert toy("verify", "--vllm", "1.5.0").code == 0
    released.asked.clear()
    result = toy("verify", "--all", "--offline")
    assert result.code == 0 and released.asked == []
    assert "--offline: only versions that were downloaded before" in result.err
    assert rows(result.out)["PATCH"] == ["1.5.0"]
    with serve("gadget") as gone:
        url = gone.url
    result = toy("verify", "--all", environ={"PIP_INDEX_URL": url})
    assert result.code == 0 and "cannot read http://127.0.0.1" in result.err
    assert "only versions that were downloaded before are looked at" in result.err
    assert toy("verify", "--all", "--json", environ={"PIP_INDEX_URL": url}).json["index"] is False
    line = toy("verify", "--all", "--offline", environ={"XDG_CACHE_HOME": str(toy.root / "empty")})
    assert line.code == 2 and "in the cache" in line.err
    assert "gadget 3.0.0 are not in the cache" in toy("verify", "--all", "--offline", "--also", "3.0.0").err


def test_a_terminal_joins_versions_without_a_difference(
    toy: Toy, released: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = toy("verify", "--all").out
    assert "-1.5.0" in out  # 1.4.0 to 1.5.0, one column
    assert out.count("device.registry") == 1
    monkeypatch.setenv("COLUMNS", "40")
    narrow = toy("verify", "--all").out
    assert narrow.count("device.registry") == 2, "the columns do not fit, so there are two tables"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", narrow)
    assert all(len(line) <= 40 for line in plain.splitlines() if "device.registry" in line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--all", "--vllm", "1.5.0"], "--vllm goes with a single version or --todo"),
        (["--all", "--todo"], "--all and --todo are different questions"),
        (["--also", "1.5.0"], "--also goes with --all"),
        (["--from", "1.5.0"], "--from goes with --explain"),
        (["--todo", "--update"], "--update goes with a single version or --all"),
        (["--all", "--also", "1.5,soon"], "--also 'soon' is no version"),
        (["--explain", "math.add"], "--from VERSION"),
        (["--explain", "math.ad", "--from", "1.5.0"], "did you mean math.add"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(toy: Toy, arguments: list[str], words: str) -> None:
    assert words in toy("verify", *arguments).refused()
