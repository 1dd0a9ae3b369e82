"""Devices, SoC models, versions, refused settings."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import pytest

PROPERTIES = """
p = torch.npu.get_device_properties(0)
print(p.name, p.total_memory, p.cube_core_num, p.vector_core_num)
"""


# What hostcann says of each model; the numbers have not been read off hardware.
@pytest.mark.parametrize(
    ("soc", "cube", "vector"),
    [
        ("Ascend910B3", 20, 40),
        ("Ascend910B1", 24, 48),
        ("Ascend910_9391", 24, 48),
        ("Ascend310P3", 8, 7),
    ],
)
def test_properties_follow_the_soc(run: Any, soc: str, cube: int, vector: int) -> None:
    out = run(PROPERTIES, HOSTCANN_SOC=soc, HOSTCANN_MEMORY="3GiB").stdout
    name, _, rest = next(line for line in out.splitlines() if line.startswith("Ascend")).partition(" ")
    assert name == soc
    assert rest.split()[-2:] == [str(cube), str(vector)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"HOSTCANN_SOC": "Ascend999"}, "HOSTCANN_SOC=Ascend999 is not a modelled SoC"),
        ({"HOSTCANN_MEMORY": "lots"}, "HOSTCANN_MEMORY=lots is not a size"),
        ({"HOSTCANN_DEVICES": "-1"}, "HOSTCANN_DEVICES=-1 must be a number"),
        ({"HOSTCANN_STREAMS": "fast"}, "HOSTCANN_STREAMS=fast must be"),
        ({"HOSTCANN_COMPUTE": "half"}, "HOSTCANN_COMPUTE=half must be"),
        ({"HOSTCANN_CANN": "9"}, "HOSTCANN_CANN=9 must be a version like 8.5.0"),
    ],
)
def test_a_wrong_setting_is_named(run: Any, setting: dict[str, str], message: str) -> None:
    done = run("torch.empty(1, device='npu')", code=1, **setting)
    assert message in done.stderr


def test_several_devices_have_their_own_memory(run: Any) -> None:
    out = run(
        """
        assert torch.npu.device_count() == 3
        first = torch.empty(1, device="npu:0")  # torch-npu switches to a device only once it was used
        a = torch.ones(30 << 20, dtype=torch.uint8, device="npu:1")
        assert torch.npu.mem_get_info(0)[0] > 124 << 20, torch.npu.mem_get_info(0)
        assert torch.ones(1, device="npu").device.index == 0
        assert torch.npu.mem_get_info(1)[0] < 100 << 20
        b = a.to("npu:2")
        assert b.device.index == 2 and (a + a).device.index == 1
        try:
            a + b
        except RuntimeError as error:
            print(error)
        torch.npu.set_device(2)
        assert torch.empty(1, device="npu").device.index == 2
        """,
        HOSTCANN_DEVICES=3,
        HOSTCANN_MEMORY="128MiB",
    ).stdout
    assert "found at least two devices" in out


@pytest.mark.parametrize(("visible", "count"), [("2,0", 2), ("1", 1), ("0,7,1", 1), ("0,1,1", 2)])
def test_visible_devices_select_and_end_at_the_first_invalid_one(run: Any, visible: str, count: int) -> None:
    source = "print('count', torch.npu.device_count())"
    assert f"count {count}" in run(source, HOSTCANN_DEVICES=4, ASCEND_RT_VISIBLE_DEVICES=visible).stdout


def test_the_cann_version_is_8_5(torch_on_npu: ModuleType) -> None:
    from ascend_patch.hostcann import _loader

    buffer = ctypes.create_string_buffer(1024)
    assert _loader.handle("ascendcl").aclsysGetCANNVersion(0, buffer) == 0
    assert buffer.value == b"8.5.0"


def test_torch_npu_takes_the_aclnn_path(torch_on_npu: ModuleType) -> None:
    torch_on_npu.empty(1, device="npu")
    import torch_npu

    assert torch_npu.npu.is_jit_compile_false()


def test_an_unimplemented_function_fails_with_its_name(torch_on_npu: ModuleType) -> None:
    from ascend_patch.hostcann import _loader
    from ascend_patch.hostcann.__main__ import unimplemented_functions

    names = unimplemented_functions()
    assert "aclrtIpcMemGetExportKey" in names and "HcclCommRegister" in names
    for library in ("ascendcl", "hccl"):
        handle = _loader.handle(library)
        acl = _loader.handle("ascendcl")
        acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
        for name in names:
            if hasattr(handle, name):
                acl.aclGetRecentErrMsg()
                assert getattr(handle, name)() != 0
                assert name.encode() in acl.aclGetRecentErrMsg()


def test_everything_torch_npu_links_exists(torch_on_npu: ModuleType) -> None:
    """Hard undefined symbols of torch-npu's library, against the process with hostcann loaded."""
    import subprocess
    from pathlib import Path

    import torch_npu

    library = Path(torch_npu.__file__).parent / "lib" / "libtorch_npu.so"
    listing = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    wanted = [
        name for name in names if name.startswith(("acl", "Hccl", "Msprof", "rtKernel", "rtDev", "rtFunc", "rtGet"))
    ]
    assert len(wanted) > 60
    everything = ctypes.CDLL(None)
    assert [name for name in wanted if not hasattr(everything, name)] == []
