"""What is checked when a running engine's quantized layers get new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ascend_patch.patches.quantization._parameters import is_ready
from ascend_patch.patches.worker._weight_format import lies_in_tiles

_OPTIONAL = (
    *("bias", "g_idx", "kv_cache_offset"),
    *(f"{part}_{name}" for part in ("w13", "w2") for name in ("g_idx", "weight_shape")),
)
"""Parameters that a checkpoint may lack; their methods know what that means."""
_CORRECTION = "e_score_correction_bias"


def not_if_quantized(original: Callable[..., None]) -> Callable[..., None]:
    """Up to 0.15 vLLM loads a checkpoint's tensors over parameters, whatever form they have by then."""

    def reload_weights(self: Any, *arguments: Any, **options: Any) -> None:
        for layer in self.get_model().modules():
            if is_ready(layer._parameters):
                what = "of quantized layers"
            elif lies_in_tiles(layer._parameters):
                what = "in FRACTAL_NZ (worker.weight_format)"
            else:
                continue
            raise ValueError(
                f"This vLLM cannot reload the weights {what}, and nothing was changed: start the engine again, or use"
                " vLLM 0.16 or newer."
            )
        original(self, *arguments, **options)

    return reload_weights


def whole_layers(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Before a layer's tensors become what the operators take: all of them came, in types that mean the same.

    Raises:
        ValueError: they did not.
    """

    def _layerwise_process(layer: Any, info: Any) -> None:
        if info.kernel_tensors is not None and is_ready(info.kernel_tensors[0]):
            _check(layer, info)
        original(layer, info)

    return _layerwise_process


def from_the_start(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """A reload that failed in the middle leaves tensors behind that vLLM would count for the next one.

    Raises:
        ValueError: vLLM up to 0.19 takes a parameter of experts, which is loaded as their gate's, for one that did not
            come.
    """

    def initialize_layerwise_reload(model: Any) -> None:
        from vllm.model_executor.model_loader.reload import layerwise, meta

        if _CORRECTION not in meta.SKIP_TENSORS and any(_CORRECTION in layer._parameters for layer in _experts(model)):
            raise ValueError(
                f"This vLLM cannot reload experts that are chosen with a correction bias ({_CORRECTION}): it would put"
                " undefined numbers there. Nothing was changed: start the engine again, or use vLLM 0.20 or newer."
            )
        for layer in model.modules():
            info = layerwise.get_layerwise_info(layer)
            if info.load_numel_total is not None and info.kernel_tensors is not None:
                layerwise._place_kernel_tensors(layer, info)
                info.reset()
        original(model)

    return initialize_layerwise_reload


def _experts(model: Any) -> Iterator[Any]:
    return (layer for layer in model.modules() if "w13_weight" in layer._parameters)


def then_caches(original: Callable[..., None]) -> Callable[..., None]:
    """After all other layers: the steps of int8 caches, which lie beside the attention that reads them.

    vLLM up to 0.19 has no way to load what belongs to attention layers again; newer ones make new tensors of it.

    Raises:
        ValueError: a cache's steps did not come, but weights beside it did; or they cannot be used.
    """

    def finalize_layerwise_reload(model: Any, *arguments: Any, **options: Any) -> None:
        from vllm.model_executor.model_loader.reload import layerwise

        from ascend_patch.patches.quantization._int8_cache import Int8CacheMethod

        caches = []
        for parent in model.modules():
            for layer in parent.children():
                method = getattr(layer, "quant_method", None)
                info = layerwise.get_layerwise_info(layer)
                if not isinstance(method, Int8CacheMethod) or info.load_numel_total is None:
                    continue
                caches.append(layer)
                others = (layerwise.get_layerwise_info(other) for other in parent.modules() if other is not layer)
                # vLLM forgets what it knew of a layer that is ready.
                renewed = any(other.load_numel_total is None or other.loaded_weights for other in others)
                brought = _brought(layer, info)
                layerwise._place_kernel_tensors(layer, info)
                info.loaded_weights, info.load_numel = [], 0
                if brought or renewed:
                    method.receive(layer, brought)
        original(model, *arguments, **options)
        for layer in caches:
            try:
                layer.quant_method.process_weights_after_loading(layer)
            except ValueError as error:
                raise _refused(str(error)) from None

    return finalize_layerwise_reload


def _brought(layer: Any, info: Any) -> dict[str, torch.Tensor]:
    """What was loaded for a layer's own parameters, on the host."""
    from vllm.model_executor.model_loader.reload import layerwise

    found: dict[str, torch.Tensor] = {}
    for name, call in info.loaded_weights:
        place = getattr(layer, name)
        found.setdefault(name, torch.full(place.shape, torch.nan, dtype=place.dtype, device="cpu"))
        call.arguments["param"] = found[name]
        layerwise._get_original_loader(place)(*call.args, **call.kwargs)
    return found


def _check(layer: Any, info: Any) -> None:
    parameters, _ = info.restore_metadata
    name = getattr(layer, "prefix", None) or getattr(layer, "layer_name", None) or type(layer).__name__
    for part, call in info.loaded_weights:
        given = [value.dtype for key, value in call.arguments.items() if key != "param" and torch.is_tensor(value)]
        wanted = parameters[part].dtype if part in parameters else None
        if wanted is not None and not wanted.is_floating_point and any(dtype.is_floating_point for dtype in given):
            raise _refused(f"{name}.{part} is {wanted} and was sent as {given[0]}")
    missing = parameters.keys() - {part for part, _ in info.loaded_weights} - set(_OPTIONAL)
    if missing:
        raise _refused(f"{name} got no {', '.join(sorted(missing))}")


def _refused(what: str) -> ValueError:
    return ValueError(
        f"Weights were not reloaded: {what}. This engine takes the quantized tensors of a checkpoint like its own, all"
        " of a layer. It has parts of both now and cannot answer: reload a whole one, or start it again."
    )
