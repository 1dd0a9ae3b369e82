"""vLLM knows the overlay's environment variables."""

from __future__ import annotations

import os
from functools import partial

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Variant

_VARIABLES = "vllm.envs:environment_variables"

NAMES = (
    "VLLM_ASCEND_AUTOPATCH",
    "VLLM_ASCEND_PATCH_ASSUME_VERSION",
    "VLLM_ASCEND_PATCH_DISABLE",
    "VLLM_ASCEND_PATCH_ENABLE",
    "VLLM_ASCEND_PATCH_INTEGER_FORMAT",
    "VLLM_ASCEND_PATCH_MOE_EXCHANGE",
    "VLLM_ASCEND_PATCH_ONLY",
    "VLLM_ASCEND_PATCH_STRICT",
)
"""Those of our variables that begin with vLLM's prefix."""

PATCH = Patch(
    id="platform.environment",
    why="vLLM warns of, or refuses, every variable that begins with VLLM_ and is not in its list.",
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=tuple(Register(_VARIABLES, key=name, value=f":{name}") for name in NAMES),
        ),
    ),
    upstream="vllm/platforms/interface.py, Platform.validate_environ",
    unnecessary_when="vLLM leaves variables of plug-ins alone.",
    expires=(
        Expiry("vllm.platforms.interface:Platform.validate_environ", without="'VLLM_'"),
        Expiry("vllm.platforms.interface:Platform.validate_environ", mentions="plugins"),
    ),
)

# vLLM's list holds a function for each, which reads it; here under the variable's name.
VLLM_ASCEND_AUTOPATCH = partial(os.environ.get, "VLLM_ASCEND_AUTOPATCH")
VLLM_ASCEND_PATCH_ASSUME_VERSION = partial(os.environ.get, "VLLM_ASCEND_PATCH_ASSUME_VERSION")
VLLM_ASCEND_PATCH_DISABLE = partial(os.environ.get, "VLLM_ASCEND_PATCH_DISABLE")
VLLM_ASCEND_PATCH_ENABLE = partial(os.environ.get, "VLLM_ASCEND_PATCH_ENABLE")
VLLM_ASCEND_PATCH_INTEGER_FORMAT = partial(os.environ.get, "VLLM_ASCEND_PATCH_INTEGER_FORMAT")
VLLM_ASCEND_PATCH_MOE_EXCHANGE = partial(os.environ.get, "VLLM_ASCEND_PATCH_MOE_EXCHANGE")
VLLM_ASCEND_PATCH_ONLY = partial(os.environ.get, "VLLM_ASCEND_PATCH_ONLY")
VLLM_ASCEND_PATCH_STRICT = partial(os.environ.get, "VLLM_ASCEND_PATCH_STRICT")
