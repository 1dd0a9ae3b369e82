"""torch_npu, imported and set up once for all modules here."""

from __future__ import annotations

import torch
import torch_npu

# With just-in-time compilation on, torch-npu routes operators to the old compiled `aclop` interface, which compiles for
# seconds per shape and which newer SoCs do not have. The binary `aclnn` operators are what we mean, always.
torch_npu.npu.set_compile_mode(jit_compile=False)

operators = torch.ops.npu
