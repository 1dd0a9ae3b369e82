"""Kernels as torch operators ``torch.ops.ascend_patch.<name>``: one opaque node for compilation and graph capture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ascend_patch.kernels import loading
from ascend_patch.kernels.declaration import Kernel

NAMESPACE = "ascend_patch"

_log = logging.getLogger("ascend_patch.kernels")
# Keeps the registrations alive: torch takes them back when a Library object goes away.
_library = torch.library.Library(NAMESPACE, "FRAGMENT")

Function = Callable[..., Any]


def define(
    kernel: Kernel, schema: str, *, check: Function, launch: Function, reference: Function, fake: Function
) -> Function:
    """Registers one operator of a kernel and returns it.

    All four functions take the operator's arguments as its schema lists them.

    Args:
        schema: ``name(Tensor a, int b, Tensor(c!) out) -> ()``; what the operator writes to is marked ``(c!)``.
            A returned tensor must be new, never an argument.
        check: raises ValueError (shape, value, device) or TypeError (dtype); its result is not looked at.
        launch: calls `loading.launch` and returns the results. Runs on NPU tensors when the kernel can be loaded.
        reference: the same in PyTorch. Runs on CPU tensors, and on NPU tensors when the kernel cannot be loaded: the
            first time with one line in the log of ``ascend_patch.kernels`` that says why.
        fake: allocates the results without computing (None for an operator that only writes to its arguments).

    Returns:
        The overload ``torch.ops.ascend_patch.<name>.default``, cheaper to call than the packet of overloads.
    """
    name = schema.partition("(")[0].strip()
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, _on_npu(kernel, check, launch, reference), "PrivateUse1")
    _library.impl(name, _on_cpu(check, reference), "CPU")
    # As a Meta kernel, which fake tensors use likewise: register_fake asks `inspect` where it was called from, and in
    # a process with thousands of modules that costs a hundred milliseconds.
    _library.impl(name, fake, "Meta")
    operator: Function = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator


def _on_npu(kernel: Kernel, check: Function, launch: Function, reference: Function) -> Function:
    run: Function | None = None

    def choose() -> Function:
        reason = loading.unavailable(kernel)
        if reason is None:
            return launch
        _log.warning("kernel %s: PyTorch reference instead (%s)", kernel.name, reason)
        return reference

    def on_npu(*arguments: Any) -> Any:
        nonlocal run
        check(*arguments)
        if run is None:
            run = choose()
        return run(*arguments)

    return on_npu


def _on_cpu(check: Function, reference: Function) -> Function:
    def on_cpu(*arguments: Any) -> Any:
        check(*arguments)
        return reference(*arguments)

    return on_cpu
