"""Two ways to launch in the order of torch-npu's operators.

torch-npu may hand its operators to a queue thread (``TASK_QUEUE_ENABLE``, on by default). A launch past the queue would
run before operators that were called earlier. So either the launch goes into the queue too, through the function that
torch-npu's own operators use (``OpCommand::RunOpApiV2``), or the queue is drained first. The first needs a few lines of
C++, compiled once; the second needs nothing, and makes the host wait for the queue thread at each launch.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ascend_patch.kernels.building import BuildError, files
from ascend_patch.kernels.declaration import KernelLaunchError
from ascend_patch.kernels.loading import acl
from ascend_patch.toolchain import digest

_log = logging.getLogger("ascend_patch.kernels")

Launch = Callable[[int, int, int, bytes, int, str], int]
"""(function handle, blocks, device, arguments, their bytes, name) -> return code, 0 for success."""

SOURCE = Path(__file__).with_name("queue_launcher.cpp")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
RUN_OP_API = (
    "_ZN6at_npu6native9OpCommand10RunOpApiV2ERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEERKSt8functionIFivEEb"
)
"""``at_npu::native::OpCommand::RunOpApiV2(const std::string&, const std::function<int()>&, bool)`` in libtorch_npu.

Its presence under exactly this name is the check that the C++ ABI fits; torch-npu 2.9 to 2.14 have it.
"""


@cache
def launcher() -> Launch:
    """The launcher of this process, chosen at its first launch."""
    if not queue_enabled():
        return direct()
    try:
        return queued()
    except BuildError as error:
        _log.info("kernels are launched from Python, draining torch-npu's task queue each time (%s)", error)
        return direct()


def queue_enabled() -> bool:
    """Whether torch-npu hands operators to its queue thread."""
    from torch_npu import _C

    # Older releases cannot say: assume their default.
    return bool(getattr(_C, "_npu_get_task_queue_enable", lambda: 1)())


def direct() -> Launch:
    """Calls ACL at once. Asking for the stream drains the queue, which keeps the order."""
    from torch_npu import _C

    call = acl.launch_function()
    stream = _C._npu_getCurrentRawStream

    def launch(function: int, blocks: int, device: int, arguments: bytes, size: int, name: str) -> int:
        return call(function, blocks, stream(device), None, arguments, size, None, 0)

    return launch


def queued() -> Launch:
    """Puts the launch into torch-npu's queue; the queue thread calls ACL.

    Raises:
        BuildError: torch-npu lacks what it needs, or there is no C++ compiler.
    """
    from torch_npu import _C

    stream = getattr(_C, "_npu_getCurrentRawStreamNoWait", None)
    if stream is None:
        raise BuildError("this torch-npu cannot tell the current stream without draining its queue")
    try:
        run_op_api = getattr(ctypes.CDLL("libtorch_npu.so"), RUN_OP_API)
    except (OSError, AttributeError):
        raise BuildError("this torch-npu has no OpCommand::RunOpApiV2 with the C++ ABI expected") from None
    library = ctypes.CDLL(str(_build()))
    library.ascend_patch_setup(run_op_api, acl.launch_function())
    library.ascend_patch_message.restype = ctypes.c_char_p
    call = library.ascend_patch_launch
    call.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
    )
    names: dict[str, bytes] = {}

    def launch(function: int, blocks: int, device: int, arguments: bytes, size: int, name: str) -> int:
        label = names.get(name) or names.setdefault(name, name.encode())
        if call(function, blocks, stream(device), arguments, size, label):
            raise KernelLaunchError(f"launch of {name}: {library.ascend_patch_message().decode(errors='replace')}")
        return 0

    return launch


def _build() -> Path:
    """The launcher's shared object, compiled once per source and compiler."""
    toolchain = files.compiler()
    root = files.cache_folder()
    key = digest([SOURCE.read_bytes(), toolchain.identity.encode(), " ".join(FLAGS).encode()])
    folder = root / f"queue_launcher-{key}"
    library = folder / "queue_launcher.so"
    if not library.is_file():
        with files.locked(root, SOURCE.stem):
            if not library.is_file():
                with files.staged(folder) as staging:
                    files.announce(f"compiling the launcher with {toolchain.command[0]}")
                    command = [*toolchain.command, *FLAGS, str(SOURCE), "-o", str(staging / library.name)]
                    files.run(command, SOURCE.name)
    return library
