"""Settings: what comes from where, what is refused and how it is said, and editing the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ascend_patch import settings
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import Patch, Replace, Variant
from ascend_patch.settings import SettingsError


def patch_of(id: str, **more: object) -> Patch:
    return Patch(id, "because", (Variant("==1", (Replace("a:b", by="c:d"),)),), **more)  # type: ignore[arg-type]


REGISTRY = Registry.from_patches(
    [
        patch_of("a.one"),
        patch_of("a.two", requires=("a.one",)),
        patch_of("b.needed", required=True),
        patch_of("c.this", on=False),
        patch_of("c.that", on=False, conflicts=("c.this",)),
    ]
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/project/.git").mkdir(parents=True)
    (tmp_path / "home/project/deep/er").mkdir(parents=True)
    return tmp_path / "home"


def loaded(home: Path, directory: str = "project/deep/er", **environ: str) -> settings.Settings:
    return settings.load({"HOME": str(home)} | environ, home / directory)


def user_file(home: Path, text: str) -> Path:
    path = home / ".config/ascend_patch/ascend_patch.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(home: Path) -> None:
    found = loaded(home)
    assert found == settings.Settings() and found.device == "auto" and not found.strict


def test_environment_before_project_before_user(home: Path) -> None:
    user_file(home, 'disable = ["a.one", "a.two"]\nenable = ["c.this"]\nstrict = true\ndevice = "npu"\n')
    project = home / "project/ascend_patch.toml"
    project.write_text('enable = ["a.one"]\ndevice = "host"\n')
    found = loaded(home)
    assert (found.disable, found.enable) == ({"a.two"}, {"a.one", "c.this"})
    assert (found.device, found.strict) == ("host", True)
    assert found.origins["device"] == f"{project}:2"
    found = loaded(
        home, VLLM_ASCEND_PATCH_DISABLE="a.one, c.this", VLLM_ASCEND_PATCH_STRICT="0", ASCEND_PATCH_DEVICE="AUTO"
    )
    assert (found.disable, found.enable) == ({"a.one", "a.two", "c.this"}, set())
    assert (found.device, found.strict) == ("auto", False)
    assert found.origins["device"] == "ASCEND_PATCH_DEVICE"


def test_where_the_project_file_is_looked_for(home: Path) -> None:
    outside = home / "ascend_patch.toml"
    outside.write_text("strict = true\n")
    assert not loaded(home).strict, "not beyond the repository's root"
    assert loaded(home, ".").strict
    (home / "project/deep/ascend_patch.toml").write_text("strict = true\n")
    assert loaded(home).strict and not loaded(home, "project").strict


def test_xdg_config_home(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "xdg/ascend_patch"
    folder.mkdir(parents=True)
    (folder / "ascend_patch.toml").write_text("strict = true\n")
    assert loaded(home, XDG_CONFIG_HOME=str(tmp_path / "xdg")).strict


MALFORMED = {
    "strict = ": r"ascend_patch\.toml:1: not valid TOML",
    "\n\nstrict = maybe": r"ascend_patch\.toml:3: not valid TOML",
    "\nunknown = 1\n": r"ascend_patch\.toml:2: unknown setting 'unknown': known are disable",
    'disable = "a.one"': r"toml:1: disable must be a list",
    "disable = [1]": r"toml:1: disable must be a list",
    'strict = "yes"': r"toml:1: strict must be true or false",
    'device = "gpu"': r"toml:1: there is no device 'gpu': choose one of auto, npu, host",
    'disable = ["a.one"]\nenable = ["a.one"]': r"toml:1: a\.one is both in enable and in disable",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_files(home: Path, text: str) -> None:
    (home / "project/ascend_patch.toml").write_text(text)
    with pytest.raises(SettingsError, match=MALFORMED[text]) as caught:
        loaded(home)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"VLLM_ASCEND_PATCH_STRICT": "perhaps"}, "VLLM_ASCEND_PATCH_STRICT is 'perhaps': set it to 1 or 0"),
        ({"ASCEND_PATCH_DEVICE": "cuda"}, "ASCEND_PATCH_DEVICE: there is no device 'cuda'"),
    ],
)
def test_malformed_environment(home: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        loaded(home, **environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"VLLM_ASCEND_PATCH_DISABLE": "a.onne"},
            r"VLLM_ASCEND_PATCH_DISABLE: there is no patch 'a\.onne': did you mean a\.one\?",
        ),
        (
            {"VLLM_ASCEND_PATCH_ONLY": "zzzzzz"},
            r"VLLM_ASCEND_PATCH_ONLY: there is no patch 'zzzzzz': see 'ascend-patch list'",
        ),
        (
            {"VLLM_ASCEND_PATCH_ONLY": "a.one b.needed", "VLLM_ASCEND_PATCH_DISABLE": "a.one"},
            r"disables a\.one, which .*ONLY selects",
        ),
        ({"VLLM_ASCEND_PATCH_ONLY": "a.one"}, r"ONLY leaves out what is required: add b\.needed"),
        ({"VLLM_ASCEND_PATCH_ONLY": "a.two,b.needed"}, r"selects a\.two without what it requires: add a\.one"),
        ({"VLLM_ASCEND_PATCH_ONLY": "c.this,c.that,b.needed"}, r"both enabled and conflict"),
    ],
)
def test_contradictions(home: Path, environ: dict[str, str], message: str) -> None:
    found = loaded(home, **environ)
    with pytest.raises(SettingsError, match=message):
        found.validate(REGISTRY)


def test_good_settings_pass(home: Path) -> None:
    loaded(home, VLLM_ASCEND_PATCH_ONLY="a.one,a.two,b.needed", VLLM_ASCEND_PATCH_DISABLE="c.this").validate(REGISTRY)


def test_writing_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new/ascend_patch.toml"
    settings.write(path, disable=["b.x", "a.one"])
    assert settings._from_file(path).values == {"disable": ["a.one", "b.x"]}
    path.write_text('# mine\nstrict = true # yes\ndisable = [\n  "a.one", # slow\n]  # why\ndevice = "host"\n')
    settings.write(path, enable=["a.one"], disable=["a.two"])
    text = path.read_text()
    assert settings._from_file(path).values == {
        "strict": True, "device": "host", "enable": ["a.one"], "disable": ["a.two"],
    }  # fmt: skip
    assert "# mine" in text and "# yes" in text and "# why" in text
    settings.write(path, enable=["a.two"])
    settings.write(path, disable=["a.one", "a.two"])
    assert settings._from_file(path).values == {"strict": True, "device": "host", "disable": ["a.one", "a.two"]}


def test_a_malformed_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "ascend_patch.toml"
    path.write_text("disable = [")
    with pytest.raises(SettingsError, match="not valid TOML"):
        settings.write(path, enable=["a.one"])
    assert path.read_text() == "disable = [" and [item.name for item in tmp_path.iterdir()] == ["ascend_patch.toml"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        settings.write(tmp_path / "file/ascend_patch.toml", enable=["a.one"])
