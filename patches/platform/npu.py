"""Device selection: vLLM's platform is an Ascend NPU."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Variant

PATCH = Patch(
    id="platform.npu",
    why="vLLM knows CUDA, ROCm, XPU, TPU and CPU; without this its platform is 'unspecified' and no engine starts.",
    required=True,
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Register(
                    "vllm.platforms:builtin_platform_plugins",
                    key="npu",
                    value=":npu_platform_plugin",
                ),
            ),
        ),
    ),
    upstream="vllm/platforms/__init__.py, resolve_current_platform_cls_qualname",
    unnecessary_when="vllm.platforms.builtin_platform_plugins has an entry for Ascend NPUs of its own.",
    expires=(
        Expiry("vllm.platforms:builtin_platform_plugins", mentions="'npu'"),
        Expiry("vllm.platforms:builtin_platform_plugins", mentions="'ascend'"),
    ),
)


def npu_platform_plugin() -> str:
    """Tell vLLM which platform class to use. The overlay is only live when an NPU (or host CANN) was chosen."""
    return "ascend_patch.patches.platform._npu_platform.NPUPlatform"
