"""vLLM knows the overlay's environment variables."""

from __future__ import annotations

import os
from functools import partial

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Variant

_VARIABLES = "vllm.envs:environment_variables"

PATCH = Patch(
    id="platform.environment",
    why="vLLM warns of, or refuses, every variable that begins with VLLM_ and is not in its list.",
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Register(_VARIABLES, key="VLLM_ASCEND_AUTOPATCH", value=":autopatch"),
                Register(_VARIABLES, key="VLLM_ASCEND_PATCH_DISABLE", value=":disable"),
                Register(_VARIABLES, key="VLLM_ASCEND_PATCH_ENABLE", value=":enable"),
                Register(_VARIABLES, key="VLLM_ASCEND_PATCH_ONLY", value=":only"),
                Register(_VARIABLES, key="VLLM_ASCEND_PATCH_STRICT", value=":strict"),
            ),
        ),
    ),
    upstream="vllm/platforms/interface.py, Platform.validate_environ",
    unnecessary_when="vLLM leaves variables of plug-ins alone.",
    expires=(
        Expiry("vllm.platforms.interface:Platform.validate_environ", without="'VLLM_'"),
        Expiry("vllm.platforms.interface:Platform.validate_environ", mentions="plugins"),
    ),
)

autopatch = partial(os.environ.get, "VLLM_ASCEND_AUTOPATCH")
disable = partial(os.environ.get, "VLLM_ASCEND_PATCH_DISABLE")
enable = partial(os.environ.get, "VLLM_ASCEND_PATCH_ENABLE")
only = partial(os.environ.get, "VLLM_ASCEND_PATCH_ONLY")
strict = partial(os.environ.get, "VLLM_ASCEND_PATCH_STRICT")
