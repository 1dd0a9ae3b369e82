"""Which way the user wants tokens to take to the experts."""

from __future__ import annotations

import os

VARIABLE = "VLLM_ASCEND_PATCH_MOE_EXCHANGE"
FORMS = ("auto", "gather", "alltoall", "fused")


def chosen_form() -> str:
    """``gather``: every rank gathers all tokens. ``alltoall``: each sends its own to their experts' ranks. ``fused``:
    operators that do both at once, wherever they take them, otherwise gathered. ``auto``: see `NPUAll2AllManager`.

    Raises:
        ValueError: there is no such form.
    """
    form = os.environ.get(VARIABLE) or "auto"
    if form not in FORMS:
        raise ValueError(f"{VARIABLE}={form} is none of {', '.join(FORMS)}: choose one or unset it.")
    return form
