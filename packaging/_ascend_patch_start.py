"""The gate in front of ascend_patch for ``ascend_patch.start`` (PEP 829, Python 3.15 and newer).

It is a module of its own because resolving an entry point inside `ascend_patch` would import that
package, and importing it is what activates the overlay.
"""

import os


def start() -> None:
    """Activate the overlay when VLLM_ASCEND_AUTOPATCH is on; never raise."""
    if os.environ.get("VLLM_ASCEND_AUTOPATCH", "").strip().lower() in ("", "0", "false", "no", "off"):
        return
    try:
        import ascend_patch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "ascend_patch":  # removed without this file: nothing to activate
            raise
