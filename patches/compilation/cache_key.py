"""Compiled graphs are cached per set of patches."""

from __future__ import annotations

from collections.abc import Callable

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="compilation.cache_key",
    why="vLLM caches compiled graphs by its own version and settings, but what was traced depends on the patches, too.",
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(Wrap("vllm.envs:compile_factors", by=":with_patch_set"),),
        ),
    ),
    upstream="vllm/envs.py, compile_factors",
    unnecessary_when="vLLM lets plug-ins add to its compile-cache key.",
    expires=(
        Expiry("vllm.envs:compile_factors", mentions="current_platform"),
        Expiry("vllm.envs:compile_factors", mentions="plugins"),
    ),
)


def with_patch_set(original: Callable[[], dict[str, object]]) -> Callable[[], dict[str, object]]:
    """Add the fingerprint of the applied patches to the cache key's factors."""
    from ascend_patch.engine import overlay

    def compile_factors() -> dict[str, object]:
        factors = original()
        factors["ASCEND_PATCH"] = overlay.fingerprint()
        return factors

    return compile_factors
