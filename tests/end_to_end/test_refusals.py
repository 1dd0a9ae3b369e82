"""What would end in a Triton kernel is refused while the engine is configured, with a line that says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.worker import Worker, WorkerError

MAMBA = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "vocab_size": 128,
    "hidden_size": 64,
    "state_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "conv_kernel": 4,
    "time_step_rank": 4,
}
HYBRID = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
}
EXPERTS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
}
DRAFTS = {"method": "draft_model", "num_speculative_tokens": 3}


@pytest.fixture
def drafting_off(tmp_path: Path) -> Iterator[Worker]:
    """A process without the patch for draft models."""
    process = Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_DISABLE="spec_decode.drafting")
    yield process
    assert process.close() == 0, process.log_tail()


@pytest.fixture
def experts_off(tmp_path: Path) -> Iterator[Worker]:
    """A process without the patch that chooses experts, and so without the one that computes them."""
    process = Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_DISABLE="moe.routing")
    yield process
    assert process.close() == 0, process.log_tail()


@pytest.mark.parametrize("config", [MAMBA, HYBRID], ids=["Mamba", "hybrid"])
def test_models_with_state_space_layers_are_refused(config: dict[str, object], worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WorkerError, match=r"ForCausalLM has Mamba or other state-space layers"):
        worker.call("load", name="states", model=str(tmp_path), skip_tokenizer_init=True, dtype="float32")


@pytest.mark.skipif(Version(installed_vllm()) < Version("0.15.0"), reason="vLLM has draft models since 0.15")
def test_a_draft_model_without_its_patch_is_refused(drafting_off: Worker, tiny_llama: str) -> None:
    drafting = {**DRAFTS, "model": tiny_llama}
    with pytest.raises(WorkerError, match=r"draft_model needs the patch spec_decode\.drafting, which is not in force"):
        drafting_off.call("load", name="d", model=tiny_llama, skip_tokenizer_init=True, speculative_config=drafting)


@pytest.mark.skipif(
    not Version("0.15.0") <= Version(installed_vllm()) < Version("0.16.0"), reason="only vLLM 0.15 has that kernel"
)
def test_the_draft_models_of_0_15_are_refused(worker: Worker, tiny_llama: str) -> None:
    drafting = {**DRAFTS, "model": tiny_llama}
    with pytest.raises(WorkerError, match=r"use vLLM 0\.16 or newer"):
        worker.call("load", name="d", model=tiny_llama, skip_tokenizer_init=True, speculative_config=drafting)


def test_experts_without_their_patch_are_refused(experts_off: Worker, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(EXPERTS))
    with pytest.raises(WorkerError, match=r"MixtralForCausalLM need the patch moe\.experts, which is not in force"):
        experts_off.call("load", name="e", model=str(tmp_path), skip_tokenizer_init=True, dtype="float32")


@pytest.mark.parametrize(
    ("backend", "form", "reason"),
    [
        ("deepep_low_latency", "auto", r"deepep_low_latency is a library for CUDA: use --all2all-backend"),
        ("allgather_reducescatter", "best", r"MOE_EXCHANGE=best is none of auto, gather, alltoall, fused"),
    ],
    ids=["cuda-library", "unknown-form"],
)
def test_other_ways_to_the_experts_are_refused(backend: str, form: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(EXPERTS))
    ranks = {"VLLM_DP_SIZE": "2", "VLLM_DP_RANK": "0", "VLLM_DP_MASTER_IP": "127.0.0.1", "VLLM_DP_MASTER_PORT": "1"}
    worker = Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_MOE_EXCHANGE=form, **ranks)
    options = {"enable_expert_parallel": True, "all2all_backend": backend}
    try:
        with pytest.raises(WorkerError, match=reason):
            worker.call("load", name="p", model=str(tmp_path), skip_tokenizer_init=True, dtype="float32", **options)
    finally:
        worker.close()
