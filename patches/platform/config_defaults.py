"""vLLM asks the platform for its defaults before it derives its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="platform.config_defaults",
    why="Early vLLM derives compilation and custom operators for Inductor before a platform can say that it has none.",
    required=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.17",
            rewrites=(Wrap("vllm.config.vllm:VllmConfig.__post_init__", by=":platform_first"),),
        ),
        Variant(versions=">=0.17.0,<0.34", unneeded="vLLM calls Platform.apply_config_platform_defaults itself."),
    ),
    upstream="vllm/config/vllm.py, VllmConfig.__post_init__",
    unnecessary_when="The oldest supported vLLM is 0.17.",
    expires=(Expiry("vllm.config.vllm:VllmConfig.__post_init__", mentions="apply_config_platform_defaults"),),
)


def platform_first(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Do what later versions of ``__post_init__`` begin with."""

    def __post_init__(self: Any) -> None:
        from ascend_patch.patches.platform._npu_platform import NPUPlatform

        NPUPlatform.apply_config_platform_defaults(self)
        original(self)

    return __post_init__
