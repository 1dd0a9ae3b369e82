"""Functions that run inside a worker process and look at an engine's memory; see `engine_functions`."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.engine_functions import ENGINES


def free_memory() -> int:
    """Bytes that the device has left."""
    import torch

    return int(torch.npu.mem_get_info()[0])


def sleep(name: str, level: int) -> None:
    """Put an engine to sleep."""
    ENGINES[name].sleep(level=level)


def wake_up(name: str, tags: list[str] | None = None) -> None:
    """Wake an engine up, or what of it has these tags."""
    ENGINES[name].wake_up(tags)


def reload_weights(name: str, folder: str | None = None) -> None:
    """Read the weights from a checkpoint again (the last one, or another), as RL trainers do after a deep sleep."""
    ENGINES[name].collective_rpc("reload_weights", kwargs={"weights_path": folder} if folder else None)
    assert ENGINES[name].reset_prefix_cache() is not False


def send_weights(name: str, folder: str, without: str = "") -> None:
    """Reload from tensors as a trainer sends them: one after the other, here in the opposite order of their names.

    Args:
        without: the end of the names of tensors that are left out, if any.
    """

    def run(worker: Any) -> None:
        from pathlib import Path

        from safetensors.torch import load_file

        (file,) = Path(folder).glob("*.safetensors")
        named = sorted(load_file(file).items(), reverse=True)
        sent = [(name, value) for name, value in named if not (without and name.endswith(without))]
        worker.reload_weights(weights_iterator=sent)

    ENGINES[name].collective_rpc(run)
    assert ENGINES[name].reset_prefix_cache() is not False


def spoil_weights(name: str) -> None:
    """Put nonsense where a deep sleep would leave some: into all that layers hold but buffers, which vLLM keeps."""

    def run(worker: Any) -> None:
        import torch

        for layer in worker.model_runner.model.modules():
            for value in (*layer._parameters.values(), *vars(layer).values()):
                if torch.is_tensor(value):
                    nonsense = float("nan") if value.is_floating_point() else 77
                    # Tiles take whole copies alone.
                    value.data.copy_(torch.full(value.shape, nonsense, dtype=value.dtype))

    ENGINES[name].collective_rpc(run)


def write_flipped_weights(folder: str, to: str) -> None:
    """A copy of a model, each of whose layers' matrices has its rows in the opposite order."""
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    (file,) = Path(to).glob("*.safetensors")
    weights = {
        name: value.flip(0).contiguous() if "layers" in name and value.ndim == 2 else value
        for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def weight_addresses(name: str) -> Any:
    """Where the parameters are, and what the patches keep beside them: what a captured graph goes on reading."""

    def run(worker: Any) -> Any:
        import torch

        found = {}
        for path, layer in worker.model_runner.model.named_modules():
            beside = {**vars(layer), **layer._buffers}
            kept = {name: value for name, value in beside.items() if name.startswith("npu_")}
            for name, value in {**layer._parameters, **kept}.items():
                if torch.is_tensor(value):
                    found[f"{path}.{name}"] = value.data_ptr()
        return found

    return ENGINES[name].collective_rpc(run)[0]


def cache_steps(name: str) -> list[list[float]]:
    """Scales, offsets and what was computed from them, of keys and values of every layer that keeps int8."""

    def run(worker: Any) -> Any:
        impls = [getattr(layer, "impl", None) for layer in worker.model_runner.model.modules()]
        return [
            tensor.double().flatten().tolist()
            for impl in impls
            for steps in getattr(impl, "steps", ())
            for tensor in steps.tensors().values()
        ]

    found: list[list[float]] = ENGINES[name].collective_rpc(run)[0]
    return found


def weight_formats(name: str) -> dict[str, int]:
    """The format of each matrix on the device: 2 is ND, 29 FRACTAL_NZ."""

    def run(worker: Any) -> Any:
        import torch_npu

        named = worker.model_runner.model.named_parameters()
        return {key: torch_npu.get_npu_format(value.data) for key, value in named if value.dim() > 1}

    formats: dict[str, int] = ENGINES[name].collective_rpc(run)[0]
    return formats


def private_formats_allowed() -> bool:
    """torch-npu's option, as it stands."""
    import torch_npu

    return bool(torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") == b"enable")


def memory_in_use() -> dict[str, int]:
    """Bytes of tensors on the device, bytes that the device has lent, and the process's resident set."""
    import gc
    from pathlib import Path

    import torch

    gc.collect()
    torch.npu.empty_cache()
    free, total = torch.npu.mem_get_info()
    status = Path("/proc/self/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) << 10
    return {"tensors": int(torch.npu.memory_allocated()), "device": total - free, "resident": resident}


def write_other_weights(folder: str, to: str) -> None:
    """A copy of a model that prefers what the other one likes least."""
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    (file,) = Path(to).glob("*.safetensors")
    weights = load_file(file)
    weights["lm_head.weight"] = -weights["lm_head.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def replace_weights(name: str, folder: str) -> None:
    """Give an engine other weights while it runs, as RL trainers do, and forget what it cached with the old ones."""

    def run(worker: Any) -> None:
        from pathlib import Path

        from safetensors.torch import load_file

        (file,) = Path(folder).glob("*.safetensors")
        worker.model_runner.model.load_weights(load_file(file).items())

    ENGINES[name].collective_rpc(run)
    assert ENGINES[name].reset_prefix_cache() is not False
