"""`docs`: PATCHES.md says what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ascend_patch.cli.app import app

from .conftest import ALL_IDS, PATCH_THAT_UPSTREAM_OUTGREW, Toy


@pytest.fixture
def text(toy: Toy) -> str:
    return toy("docs", "--output", "-").out


def section(text: str, patch_id: str) -> str:
    return re.split(r"^### ", text, flags=re.M)[[*re.findall(r"^### (.*)$", text, re.M)].index(patch_id) + 1]


def test_every_patch_has_a_section_and_a_link_that_reaches_it(text: str) -> None:
    headings = re.findall(r"^### (.*)$", text, re.M)
    assert set(headings) == ALL_IDS and len(headings) == len(ALL_IDS)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\(#([^)]*)\)", text)) == anchors


def test_a_section_says_everything(text: str) -> None:
    found = section(text, "math.add")
    for words in (
        "Upstream adds one by one", "optional, traced", "Requires: [device.registry]", "https://example.org/issues/7",
        "Unnecessary when: gadget.core.add asks the device.", "Variants: 2", "gadget `>=0.5,<1.0`",
        "`replace gadget.core:add with :add`",
    ):  # fmt: skip
        assert words in found, words
    assert "Kind: required" in section(text, "device.where")
    assert "off by default" in section(text, "math.run")
    assert "Required by: [math.add]" in section(text, "device.registry")


def test_the_contents_name_the_versions_and_the_number_of_variants(text: str) -> None:
    assert "| [math.add](#mathadd) | optional | `>=0.5,<2` | 2 | Upstream adds" in text
    assert "| [math.old](#mathold) | optional | `>=0.1,<0.2` | 1 | Only an" in text


def test_variants_are_numbered_and_signs_named(toy: Toy) -> None:
    toy.write("gadget_patches/life/wake.py", PATCH_THAT_UPSTREAM_OUTGREW)
    found = section(toy("docs", "--output", "-").out, "life.wake")
    assert "Reported by `ascend-patch verify` when upstream has gadget.core:wake." in found
    assert "v1: gadget `>=1.0,<1.5`\n" in found
    assert "v2: gadget `>=1.5,<2`: not needed, upstream wakes by itself\n" in found


def test_the_contents_are_grouped_by_area(text: str) -> None:
    assert re.findall(r"^## (.*)$", text, re.M) == ["device", "life", "math"]
    assert "6 patches in 3 areas, 1 of them required." in text


def test_check_compares_and_writes_nothing(toy: Toy) -> None:
    target = toy.root / "PATCHES.md"
    assert toy("docs", "--output", str(target)).code == 0
    assert toy("docs", "--check", "--output", str(target)).code == 0
    before = target.read_bytes()
    toy.edit("gadget_patches/math/add.py", "asks the device", "asks the registry")
    result = toy("docs", "--check", "--output", str(target))
    assert result.code == 1
    assert "-- Unnecessary when: gadget.core.add asks the device." in result.out
    assert "+- Unnecessary when: gadget.core.add asks the registry." in result.out
    assert "out of date" in result.err
    assert target.read_bytes() == before
    toy("docs", "--output", str(target))
    assert toy("docs", "--check", "--output", str(target)).code == 0


def test_a_missing_file_is_out_of_date(toy: Toy) -> None:
    assert toy("docs", "--check", "--output", str(toy.root / "nowhere.md")).code == 1


def test_refusals(toy: Toy) -> None:
    assert "--output" in toy("docs").refused()  # the toy patches are not in a checkout
    assert "--check" in toy("docs", "--check", "--output", "-").refused()
    assert "No such file or directory" in toy("docs", "--output", str(toy.root / "no" / "folder.md")).refused()


def test_the_committed_file_is_up_to_date(checkout: Path) -> None:
    result = CliRunner().invoke(app, ["docs", "--check", "--output", str(checkout / "PATCHES.md")])
    assert result.exit_code == 0, result.stdout
