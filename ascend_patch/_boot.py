"""What runs in every interpreter: one finder that knows two names. Nothing but `sys` is imported here.

Until one of the two names is imported, the overlay costs this module and one set lookup per import.
"""

import sys

PACKAGE = "vllm"
BACKEND = "torch_npu"


class BootFinder:
    """Waits for the package or its torch backend, then lets `ascend_patch.activation` take its place."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != PACKAGE and name != BACKEND:
            return None
        from ascend_patch import activation

        return activation.take_over(self).find_spec(name, path, target)  # type: ignore[arg-type]


_finder = None


def install() -> None:
    """Put the finder first; called again it does nothing. A package that is imported already is seen to at once."""
    global _finder
    if _finder is not None:
        return
    _finder = BootFinder()
    sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]
    if PACKAGE in sys.modules or BACKEND in sys.modules:
        from ascend_patch import activation

        activation.take_over(_finder)
        activation.catch_up()
