"""`list` and `show`: every patch, its switch and its predicted state."""

from __future__ import annotations

import pytest

from .conftest import ALL_IDS, PATCH_THAT_UPSTREAM_OUTGREW, Toy

LIST_KEYS = {
    "id", "area", "why", "required", "traced", "on", "on_reason", "state", "unneeded", "state_reason", "variant",
    "variants", "requires", "conflicts", "upstream", "unnecessary_when", "expires", "no_sign", "module",
}  # fmt: skip


def states(toy: Toy, **environ: str) -> dict[str, str]:
    return {patch["id"]: patch["state"] for patch in toy("list", "--json", environ=environ).json["patches"]}


def test_json_names_every_patch_with_all_documented_keys(toy: Toy) -> None:
    result = toy("list", "--json")
    assert result.code == 0 and result.err == ""
    assert result.json["package"] == "gadget" and result.json["version"] == "1.5.0"
    assert {patch["id"] for patch in result.json["patches"]} == ALL_IDS
    assert all(set(patch) == LIST_KEYS for patch in result.json["patches"])


def test_states_are_predicted_from_the_sources(toy: Toy) -> None:
    assert states(toy) == {
        "device.where": "pending",
        "device.registry": "pending",
        "math.add": "pending",
        "math.run": "disabled",
        "math.old": "skipped",
        "life.stop": "pending",
    }


def test_drift_upstream_shows_in_the_list(toy: Toy) -> None:
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    found = {patch["id"]: patch for patch in toy("list", "--json").json["patches"]}
    assert found["math.add"]["state"] == "drifted"
    assert "body" in found["math.add"]["state_reason"]


def test_a_variant_is_chosen_by_version(toy: Toy) -> None:
    found = {patch["id"]: patch for patch in toy("list", "--json").json["patches"]}
    assert found["math.add"]["variant"] == ">=1.0,<2"
    assert [variant["versions"] for variant in found["math.add"]["variants"]] == [">=0.5,<1.0", ">=1.0,<2"]
    assert found["math.old"]["variant"] is None


def test_the_switch_says_where_it_comes_from(toy: Toy) -> None:
    (toy.project / "ascend_patch.toml").write_text('disable = ["life.stop"]\n')
    environ = {"VLLM_ASCEND_PATCH_DISABLE": "math.add"}
    found = {patch["id"]: patch for patch in toy("list", "--json", environ=environ).json["patches"]}
    assert (found["math.add"]["on"], found["math.add"]["on_reason"]) == (
        False,
        "disabled by VLLM_ASCEND_PATCH_DISABLE",
    )
    assert found["life.stop"]["on_reason"] == f"disabled by {toy.project / 'ascend_patch.toml'}:1"
    assert (found["math.run"]["on"], found["math.run"]["on_reason"]) == (False, "off by default")
    assert (found["device.where"]["on"], found["device.where"]["on_reason"]) == (True, "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--area", "device"], {"device.where", "device.registry"}),
        (["--area", "device", "--area", "life"], {"device.where", "device.registry", "life.stop"}),
        (["--state", "skipped"], {"math.old"}),
        (["--state", "applies", "--area", "math"], {"math.add"}),
        (["--state", "pending", "--area", "math"], {"math.add"}),
        (["--required"], {"device.where"}),
        (["--optional", "--area", "device"], {"device.registry"}),
    ],
)
def test_filters(toy: Toy, options: list[str], expected: set[str]) -> None:
    assert {patch["id"] for patch in toy("list", "--json", *options).json["patches"]} == expected


def test_unknown_filter_words_are_refused_with_the_known_ones(toy: Toy) -> None:
    assert "did you mean device?" in toy("list", "--area", "devise").refused()
    assert "skipped" in toy("list", "--state", "qqqq").refused()


def test_without_the_package_states_are_unknown(toy: Toy) -> None:
    for path in [*(toy.site / "gadget").iterdir()]:
        path.unlink()
    result = toy("list", "--json")
    assert result.code == 0
    assert result.json["version"] is None
    assert {patch["state"] for patch in result.json["patches"]} == {None}


def test_piped_output_is_one_whole_line_per_patch(toy: Toy) -> None:
    lines = toy("list").out.splitlines()
    assert lines[0].split() == ["ID", "KIND", "SWITCH", "STATE", "VARIANTS", "NOTE"]
    assert {line.split()[0] for line in lines[1:]} == ALL_IDS
    row = next(line for line in lines if line.startswith("math.add"))
    assert row.endswith("this sentence is long enough to be cut.")
    assert not set("".join(lines)) & set("│─┃━╭╮╯╰…\x1b")


def test_a_terminal_gets_colours_and_no_color_takes_them(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert "\x1b[32m" in toy("list").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(f"\x1b[{code}m" in toy("list").out for code in range(30, 38))


def test_a_narrow_terminal_does_without_the_spare_columns(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert "variants" in toy("list").out
    monkeypatch.setenv("COLUMNS", "80")
    out = toy("list").out
    assert "variants" not in out and "math.add" in out and "applies" in out


def test_show_tells_everything(toy: Toy) -> None:
    result = toy("show", "math.add")
    assert result.code == 0
    for word in (
        "Upstream adds one by one", "optional", "device.registry", "https://example.org/issues/7",
        "gadget.core.add asks the device.", ">=0.5,<1.0", ">=1.0,<2 (this one fits)",
        "replace gadget.core:add with :add", "function (a, b) in gadget/core.py",
    ):  # fmt: skip
        assert word in result.out, word


def test_show_json_has_the_contract_and_the_findings(toy: Toy) -> None:
    shown = toy("show", "math.add", "--json").json
    assert set(shown) == LIST_KEYS | {"required_by", "taken_for", "outgrown", "findings", "contract"}
    assert shown["contract"]["gadget.core:add"] == {
        "kind": "function", "signature": "a, b", "file": "gadget/core.py", "overridden_by": [], "aliased_in": [],
        "uses": {}, "kernels": [],
    }  # fmt: skip
    assert toy("show", "device.registry", "--json").json["required_by"] == ["math.add"]
    toy.edit("gadget/core.py", "def add(a, b):", "def add(a, b, c):")
    assert [item["problem"] for item in toy("show", "math.add", "--json").json["findings"]] == ["signature"]


def test_a_patch_that_is_not_needed_says_why(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    found = {patch["id"]: patch for patch in toy("list", "--json").json["patches"]}["life.wake"]
    assert (found["state"], found["unneeded"]) == ("skipped", True)
    assert found["state_reason"] == "not needed: upstream wakes by itself"
    row = next(line for line in toy("list").out.splitlines() if line.startswith("life.wake"))
    assert row.split()[3] == "not-needed" and row.endswith("not needed: upstream wakes by itself")
    assert [patch["id"] for patch in toy("list", "--json", "--state", "not-needed").json["patches"]] == ["life.wake"]
    assert "life.wake" not in toy("list", "--state", "skipped").out
    shown = toy("show", "life.wake").out
    assert "not-needed (gadget 1.5.0)" in shown and "v2  gadget >=1.5,<2 (this one fits)" in shown
    assert "not needed: upstream wakes by itself" in shown


def test_show_names_the_signs_and_those_it_finds(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    assert "a sign of that      upstream has gadget.core:wake" in toy("show", "life.wake").out
    assert "no sign of that     no source shows it" in toy("show", "life.stop").out
    assert "seems outgrown" not in toy("show", "life.wake").out
    toy.install("1.2.0")
    toy.edit("gadget/core.py", "def run(job):", "def wake():\n    pass\n\n\ndef run(job):")
    assert "seems outgrown      upstream has gadget.core:wake (" in toy("show", "life.wake").out
    (sign,) = toy("show", "life.wake", "--json").json["outgrown"]
    assert sign.startswith("upstream has gadget.core:wake (")


def test_a_version_that_no_patch_names_is_taken_for_the_one_it_resembles(toy: Toy) -> None:
    toy.install("3.0.0")
    result = toy("list")
    assert "gadget 3.0.0 is outside" in result.err and "1.5.0" in result.err
    assert toy("list", "--json").json["taken_for"]["version"] == "1.5.0"
    assert "taken for           1.5.0: gadget 3.0.0 is outside" in toy("show", "math.add").out
    assumed = toy("list", "--json", environ={"VLLM_ASCEND_PATCH_ASSUME_VERSION": "0.7.0"}).json
    assert assumed["taken_for"]["version"] == "0.7.0"
    assert {patch["id"] for patch in assumed["patches"] if patch["variant"]} == {"math.add"}


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("math.ad", "math.add"), ("add", "math.add"), ("life.add", "math.add"), ("zzz", "'ascend-patch list' shows all")],
)
def test_an_unknown_id_is_refused_with_a_near_match(toy: Toy, typed: str, hint: str) -> None:
    line = toy("show", typed).refused()
    assert f"unknown patch {typed}" in line and hint in line


def test_broken_patches_are_one_line(toy: Toy) -> None:
    toy.edit("gadget_patches/math/add.py", 'by=":add"', 'by=":missing"')
    assert "math.add" in toy("list").refused()
    toy.edit("gadget_patches/math/add.py", "PATCH = Patch(", "PATCH = Patch(((")
    assert "gadget_patches.math.add" in toy("list").refused()


def test_malformed_settings_are_one_line(toy: Toy) -> None:
    (toy.project / "ascend_patch.toml").write_text("disable = [\n")
    assert str(toy.project / "ascend_patch.toml") in toy("list").refused()
    (toy.project / "ascend_patch.toml").write_text('disable = ["math.nope"]\n')
    assert "math.nope" in toy("list").refused()
