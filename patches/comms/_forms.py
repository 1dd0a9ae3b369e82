"""Which way the user wants tokens to take to the experts."""

from __future__ import annotations

import os

VARIABLE = "VLLM_ASCEND_PATCH_MOE_EXCHANGE"
FORMS = ("auto", "gather", "fused")


def chosen_form() -> str:
    """``gather``: every rank gathers all tokens. ``fused``: operators move them, wherever they take them. ``auto``.

    Raises:
        ValueError: there is no such form.
    """
    form = os.environ.get(VARIABLE) or "auto"
    if form not in FORMS:
        raise ValueError(f"{VARIABLE}={form} is none of {', '.join(FORMS)}: choose one or unset it.")
    return form
