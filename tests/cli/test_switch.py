"""`enable` and `disable`: switches that last, and which source goes before which."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Toy


def project_file(toy: Toy) -> Path:
    return toy.project / "ascend_patch.toml"


def user_file(toy: Toy) -> Path:
    return toy.root / "home" / ".config" / "ascend_patch" / "ascend_patch.toml"


def is_on(toy: Toy, patch_id: str, **environ: str) -> bool:
    return bool(toy("show", patch_id, "--json", environ=environ).json["on"])


def test_disable_and_enable_last_in_the_project_file(toy: Toy) -> None:
    result = toy("disable", "math.add")
    assert result.code == 0 and str(project_file(toy)) in result.out
    assert not is_on(toy, "math.add")
    assert toy("enable", "math.add").code == 0
    assert is_on(toy, "math.add")


def test_several_at_once(toy: Toy) -> None:
    toy("disable", "math.add", "life.stop")
    assert not is_on(toy, "math.add") and not is_on(toy, "life.stop")


def test_a_patch_off_by_default_can_be_enabled(toy: Toy) -> None:
    toy("disable", "math.add")
    assert not is_on(toy, "math.run")
    toy("enable", "math.run")
    assert is_on(toy, "math.run")


def test_the_project_goes_before_the_user_and_the_environment_before_both(toy: Toy) -> None:
    assert str(user_file(toy)) in toy("disable", "math.add", "--user").out
    assert not is_on(toy, "math.add")
    toy("enable", "math.add")
    assert is_on(toy, "math.add")
    assert not is_on(toy, "math.add", VLLM_ASCEND_PATCH_DISABLE="math.add")


def test_the_nearest_file_upwards_is_the_project_file(toy: Toy) -> None:
    toy("disable", "math.add")
    inner = toy.project / "a" / "b"
    inner.mkdir(parents=True)
    toy.workspace.directory = inner
    assert str(project_file(toy)) in toy("disable", "life.stop").out
    assert not list(inner.iterdir())


def test_a_higher_source_that_says_otherwise_is_named(toy: Toy) -> None:
    environ = {"VLLM_ASCEND_PATCH_DISABLE": "math.add"}
    result = toy("enable", "math.add", environ=environ)
    assert result.code == 0
    assert "VLLM_ASCEND_PATCH_DISABLE goes before" in result.err and "math.add" in result.err
    assert toy("enable", "math.add", "--json", environ=environ).json["overridden"] == [
        {"id": "math.add", "by": "VLLM_ASCEND_PATCH_DISABLE"}
    ]
    toy("disable", "life.stop")
    assert "goes before" in toy("enable", "life.stop", "--user").err


def test_json_keys(toy: Toy) -> None:
    found = toy("disable", "device.registry", "--json").json
    assert found == {
        "file": str(project_file(toy)),
        "changed": True,
        "enabled": [],
        "disabled": ["device.registry"],
        "skipped": ["math.add"],
        "overridden": [],
    }
    assert toy("disable", "device.registry", "--json").json["changed"] is False


def test_a_required_patch_needs_force(toy: Toy) -> None:
    line = toy("disable", "device.where").refused()
    assert "required" in line and "(The function opens a CUDA device)" in line and "--force" in line
    assert not project_file(toy).exists()
    assert toy("disable", "device.where", "--force").code == 0
    assert not is_on(toy, "device.where")


def test_so_does_one_that_a_required_patch_requires(toy: Toy) -> None:
    toy.edit("gadget_patches/device/where.py", "required=True,", 'required=True, requires=("device.registry",),')
    assert "needed by device.where" in toy("disable", "device.registry").refused()


def test_an_unknown_id_among_known_ones_changes_nothing(toy: Toy) -> None:
    assert "did you mean math.add?" in toy("disable", "life.stop", "math.addd").refused()
    assert not project_file(toy).exists()


def test_a_contradiction_changes_nothing(toy: Toy) -> None:
    toy("enable", "math.add")
    before = project_file(toy).read_bytes()
    assert "conflict" in toy("enable", "math.run").refused()
    assert project_file(toy).read_bytes() == before


def test_a_malformed_file_is_refused_and_left_alone(toy: Toy) -> None:
    project_file(toy).write_text("disable = [[[\n")
    assert str(project_file(toy)) in toy("disable", "math.add").refused()
    assert project_file(toy).read_text() == "disable = [[[\n"


def test_comments_and_other_settings_stay(toy: Toy) -> None:
    project_file(toy).write_text('# ours\nstrict = true  # keep\ndisable = ["life.stop"]\n')
    toy("disable", "math.add")
    text = project_file(toy).read_text()
    assert "# ours" in text and "strict = true  # keep" in text
    assert not is_on(toy, "life.stop") and not is_on(toy, "math.add")


def test_a_place_that_cannot_be_written_is_one_line(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy.root / "home" / ".config").write_text("a file where a folder is needed")
    assert "cannot be written" in toy("disable", "math.add", "--user").refused()


def test_no_id_is_wrong_usage(toy: Toy) -> None:
    assert "ID" in toy("enable").refused()
