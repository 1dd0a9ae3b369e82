"""Where binaries come from, what is refused, and that the model runs on in any case."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ascend_patch.kernels import loading
from ascend_patch.kernels.building import BuildError, host
from ascend_patch.kernels.declaration import Kernel, KernelUnavailable
from ascend_patch.kernels.loading import acl, search
from ascend_patch.kernels.loading.index import NAME, Built
from ascend_patch.kernels.loading.targets import DEVICE_MACHINE, DEVICE_TARGETS, architecture_of

from .conftest import forget
from .toy import KERNEL

LIBRARY = "toy.so"


def edit(folder: Path, **changes: Any) -> None:
    """Change what the index says; keys of the kernel's own record begin with ``toy_``."""
    values = json.loads((folder / NAME).read_text())
    for key, value in changes.items():
        place = values["kernels"]["toy"] if key.startswith("toy_") else values
        assert key.removeprefix("toy_") in place
        place[key.removeprefix("toy_")] = value
    (folder / NAME).write_text(json.dumps(values))


def rehash(folder: Path) -> None:
    """An index that vouches for whatever file is there now."""
    edit(folder, toy_sha256=Built.of(KERNEL, folder / LIBRARY, "").sha256)


def patch_bytes(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def tampered(folder: Path) -> None:
    content = (folder / LIBRARY).read_bytes()
    patch_bytes(folder / LIBRARY, len(content) // 2, b"\x90\x90\x90\x90")


def truncated(folder: Path) -> None:
    content = (folder / LIBRARY).read_bytes()
    (folder / LIBRARY).write_bytes(content[: len(content) * 2 // 3])
    rehash(folder)


def for_another_cpu(folder: Path) -> None:
    patch_bytes(folder / LIBRARY, 18, struct.pack("<H", 243))  # EM_RISCV
    rehash(folder)


def for_the_device(folder: Path) -> None:
    patch_bytes(folder / LIBRARY, 18, struct.pack("<H", DEVICE_MACHINE))
    rehash(folder)


def not_elf(folder: Path) -> None:
    (folder / LIBRARY).write_text("#!/bin/sh\n" * 100)
    rehash(folder)


def another_shared_object(folder: Path) -> None:
    source = folder / "other.cpp"
    source.write_text("int other() { return 1; }\n")
    host.files.run(
        [*host.files.compiler().command, "-shared", "-fPIC", str(source), "-o", str(folder / LIBRARY)], "other"
    )
    rehash(folder)


def without_its_entry(folder: Path) -> None:
    content = (folder / LIBRARY).read_bytes().replace(b"toy_fault__ascendc", b"toy_foult__ascendc")
    (folder / LIBRARY).write_bytes(content)
    rehash(folder)


def outside(folder: Path) -> None:
    shutil.copy(folder / LIBRARY, folder.parent / LIBRARY)
    edit(folder, toy_file=f"../{LIBRARY}")


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (tampered, "its sha256 is not the one in index.json"),
    (truncated, "toy.so: truncated: "),
    (for_another_cpu, "for an unknown machine (ELF machine 0xf3)"),
    (for_the_device, "for AscendC device code (ELF machine 0x1029)"),
    (not_elf, "1000 bytes that are no ELF file"),
    (another_shared_object, "a shared object, but no host build of a kernel"),
    (without_its_entry, "the binary has no kernel toy_fault"),
    (outside, "is outside the folder"),
    (lambda folder: (folder / LIBRARY).unlink(), "toy.so: No such file or directory"),
    (lambda folder: (folder / NAME).unlink(), "index.json: No such file or directory"),
    (lambda folder: (folder / NAME).write_text("{}"), "is no index of kernels"),
    (lambda folder: edit(folder, abi=99), "ABI 99, this ascend_patch has 1"),
    (lambda folder: edit(folder, target="dav-2201"), "built for dav-2201, needed is host-"),
    (lambda folder: edit(folder, kernels={}), "no kernel toy"),
    (lambda folder: edit(folder, toy_entries=["toy_scale"]), "has the entries ('toy_scale',)"),
    (lambda folder: edit(folder, toy_parameters=["ptr"]), "has the parameters ('ptr',)"),
    (lambda folder: edit(folder, toy_source_sha256="0" * 64), "was built from another source"),
]


def scaled(npu: ModuleType) -> float:
    values = npu.ones(1, device="npu")
    loading.launch(KERNEL, "toy_scale", 1, 1, values, 3.0, 0)
    return float(values.cpu()[0])


@pytest.mark.parametrize(("spoil", "words"), REFUSED, ids=[words.strip() for _, words in REFUSED])
def test_a_bad_file_is_refused_with_the_reason_and_the_next_place_serves(
    kernels: Path,
    npu: ModuleType,
    built: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    monkeypatch.setenv(search.PATH, str(built))
    spoil(built)
    with caplog.at_level(logging.WARNING, "ascend_patch.kernels"):
        assert scaled(npu) == 4
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert words in message and message.startswith(f"kernel toy: refused, the next place is searched: {search.PATH}: ")
    found = search.find(KERNEL, 0)
    assert not isinstance(found, str) and found.place == "just in time"


def test_an_unspoilt_file_is_taken_from_the_explicit_path(
    kernels: Path, npu: ModuleType, built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "build", lambda kernel: pytest.fail("compiled although there is a binary"))
    for path in (built, built.parent):  # the folder itself, or what `build --output` was given
        monkeypatch.setenv(search.PATH, str(path))
        forget()
        assert scaled(npu) == 4
        found = search.find(KERNEL, 0)
        assert not isinstance(found, str) and (found.place, found.file.path) == (search.PATH, built / LIBRARY)
    assert not caplog.records


def test_the_explicit_path_comes_before_the_package_and_that_before_the_compiler(
    kernels: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = host.host_target()
    assert [place for place, _ in search.places(KERNEL, target)] == ["just in time"]
    shutil.copytree(built, kernels / "prebuilt" / target.name)
    monkeypatch.setenv(search.PATH, str(built))
    assert [place for place, _ in search.places(KERNEL, target)] == [search.PATH, "package", "just in time"]


def test_a_kernel_is_compiled_once_and_again_when_its_source_or_a_header_changes(kernels: Path) -> None:
    first = host.build(KERNEL)
    stamp = (first / LIBRARY).stat().st_mtime_ns
    assert host.build(KERNEL) == first and (first / LIBRARY).stat().st_mtime_ns == stamp
    for name in ("toy/toy.cpp", "host/entry.h"):
        path = kernels / name
        path.write_text(path.read_text() + "\n// changed\n")
        changed = host.build(KERNEL)
        assert changed != first and (changed / LIBRARY).is_file()
        first = changed
    assert not list(first.parent.glob("staging-*"))


def test_a_source_that_does_not_compile_names_the_error_and_leaves_nothing(kernels: Path) -> None:
    path = kernels / "toy" / "toy.cpp"
    path.write_text(path.read_text() + "\nint broken = undeclared_name;\n")
    with pytest.raises(BuildError, match=r"failed on toy: .*undeclared_name"):
        host.build(KERNEL)
    assert [item.name for item in host.files.cache_folder().iterdir()] == [".toy.lock"]


@pytest.mark.parametrize(
    ("soc", "on_host", "expected"),
    [
        ("Ascend910B3", False, "dav-2201"),
        ("Ascend910_9391", False, "dav-2201"),
        ("Ascend950PR_9599", False, "dav-3510"),
        ("Ascend910B4-1", True, "host-"),
        ("Ascend310P3", False, "no kernel is written for the SoC Ascend310P3"),
        ("Ascend910A", False, "no kernel is written for the SoC Ascend910A"),
        ("Ascend950PR_9599", True, "host builds model dav-2201, hostcann models Ascend950PR_9599"),
        ("", False, "no kernel is written for the SoC of unknown name"),
    ],
)
def test_the_soc_decides_what_a_binary_must_be_built_for(soc: str, on_host: bool, expected: str) -> None:
    try:
        assert search.needed_target(soc, on_host).name.startswith(expected)
    except KernelUnavailable as error:
        assert expected in str(error)


def test_every_architecture_has_a_target_with_the_flags_of_its_vector_code() -> None:
    # e_flags as read off published kernel files: vector code of A2 and A3, and of A5.
    assert {target.architecture: target.flags for target in DEVICE_TARGETS} == {
        "dav-2201": 0x930000,
        "dav-3510": 0x990000,
    }
    assert architecture_of("Ascend910_93") == architecture_of("Ascend910B") == "dav-2201"


def test_device_code_for_the_other_architecture_is_refused_by_its_flags() -> None:
    from ascend_patch.kernels.loading import elf

    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 0x1029, 1, 0, 64, 0, 0x930000, 64, 0, 0, 0, 0, 0
    )
    elf.check(header, DEVICE_TARGETS[0])
    with pytest.raises(elf.BadBinary, match="e_flags 0x930000, vector code for dav-3510 has 0x990000"):
        elf.check(header, DEVICE_TARGETS[1])


NOTHING = Kernel(name="nothing", why="Tests.", replaces=1, entries=("nothing",), parameters=("ptr",))


def test_the_fallback_is_logged_once_with_the_reason_and_computes_the_same(
    kernels: Path, npu: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ascend_patch.kernels import operators

    checked = []

    def launch(x: Any) -> Any:
        pytest.fail("launched without a binary")

    operator = operators.define(
        NOTHING,
        "test_fallback(Tensor x) -> Tensor",
        check=lambda x: checked.append(x.device.type),
        launch=launch,
        reference=lambda x: x + 1,
        fake=lambda x: x.new_empty(x.shape),
    )
    monkeypatch.setattr(host, "build", no_compiler)
    x = npu.ones(2, device="npu")
    with caplog.at_level(logging.INFO, "ascend_patch.kernels"):
        for _ in range(3):
            assert operator(x).cpu().tolist() == [2, 2]
        assert operator(x.cpu()).tolist() == [2, 2]
    assert checked == ["npu"] * 3 + ["cpu"]
    assert [record.getMessage() for record in caplog.records] == [
        "kernel nothing: PyTorch reference instead (just in time: no compiler)"
    ]


def no_compiler(kernel: Kernel) -> Path:
    raise BuildError("no compiler")


def test_an_operator_launches_when_there_is_a_binary(kernels: Path, npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace
    from ascend_patch.kernels import operators

    def reference(x: Any) -> None:
        x.mul_(2).add_(1)

    operator = operators.define(
        KERNEL,
        "test_toy(Tensor(a!) x) -> ()",
        check=lambda x: None,
        launch=lambda x: loading.launch(KERNEL, "toy_scale", 1, x.numel(), x, 2.0, 0),
        reference=reference,
        fake=lambda x: None,
    )
    on_npu, on_cpu = npu.arange(4.0, device="npu"), npu.arange(4.0)
    operator(on_npu)
    operator(on_cpu)
    assert on_npu.cpu().tolist() == on_cpu.tolist() == [1, 3, 5, 7]
    with trace.recording() as counts:
        operator(on_npu)
    assert counts()["aclnn"] == {"toy_scale": {"calls": 1, "bytes": 0}} and counts()["aten"] == {}
    npu.library.opcheck(operator, (npu.arange(4.0),))


def test_acl_says_what_is_missing_when_no_cann_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError

    acl.library.cache_clear()
    monkeypatch.setattr(acl.ctypes, "CDLL", none)
    with pytest.raises(KernelUnavailable, match="import torch_npu first"):
        acl.library()
