"""vLLM's second model runner, without Triton.

Covered: dense decoders on one device, eager; prefill in chunks, cached prefixes, preemption, async scheduling, and
what the sampler does (see `_KERNELS`). What is missing for the rest:

- speculation: the kernels of ``spec_decode``, `_expand_idx_mapping_kernel`, and several logits per request where the
  functions here count on one: `combine_sampled_tokens`, `post_update`, `penalties`, `bad_words`, `gumbel_sample`;
- pipeline parallelism, pooling: the streams of `PPHandler` and `AsyncPoolingOutput`,
  `_post_update_num_computed_tokens_kernel`, requests without a row (index -1);
- data parallelism, mixture of experts: padded batches, behind which `compute_slot_mappings` would have to pad;
- graphs: capture in ``cudagraph_utils`` on NPU streams, padded requests, fixed addresses for what is allocated here;
- context parallelism: `_dcp_local_seq_lens_kernel`, `cp_local_slot`, ``pcp_manager``;
- Mamba and hybrid models, multimodal models, prompt embeddings: the kernels of ``model_states`` and ``mm``;
- thinking budgets, trace replay, sampling masks, watermarks, sharded sampling: a kernel or two each in ``sample``;
- tensor parallelism, LoRA and KV connectors: no kernel more, but never tried on V2.
"""

from __future__ import annotations

from typing import Any

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Retarget, Rewrite, Variant, Wrap

_V2 = "vllm.v1.worker.gpu"
_TO_NPU = {"cuda": "npu"}
_INPUTS = "ascend_patch.patches.worker._v2_inputs"
_LOGITS = "ascend_patch.patches.worker._v2_logits"
_SAMPLES = "ascend_patch.patches.worker._v2_samples"

# Kernel -> what is launched in its place. The others belong to features that `missing_on_npu` refuses.
_KERNELS = {
    f"{_V2}.buffer_utils:_apply_write_kernel": f"{_INPUTS}:apply_write",
    f"{_V2}.block_table:_gather_block_tables_kernel": f"{_INPUTS}:gather_block_tables",
    f"{_V2}.input_batch:_prepare_prefill_inputs_kernel": f"{_INPUTS}:prepare_prefill_inputs",
    f"{_V2}.input_batch:_prepare_pos_seq_lens_kernel": f"{_INPUTS}:prepare_pos_seq_lens",
    f"{_V2}.input_batch:_combine_sampled_and_draft_tokens_kernel": f"{_INPUTS}:combine_sampled_tokens",
    f"{_V2}.input_batch:_get_num_sampled_and_rejected_kernel": f"{_INPUTS}:get_num_sampled_and_rejected",
    f"{_V2}.input_batch:_post_update_kernel": f"{_INPUTS}:post_update",
    f"{_V2}.sample.penalties:_bincount_kernel": f"{_LOGITS}:bincount",
    f"{_V2}.sample.penalties:_penalties_kernel": f"{_LOGITS}:penalties",
    f"{_V2}.sample.logit_bias:_bias_kernel": f"{_LOGITS}:bias",
    f"{_V2}.sample.bad_words:_bad_words_kernel": f"{_LOGITS}:bad_words",
    f"{_V2}.sample.gumbel:_temperature_kernel": f"{_LOGITS}:temperature",
    f"{_V2}.sample.min_p:_min_p_kernel": f"{_LOGITS}:min_p",
    f"{_V2}.structured_outputs:_apply_grammar_bitmask_kernel": f"{_LOGITS}:grammar_bitmask",
    f"{_V2}.metrics.logits:_num_nans_kernel": f"{_LOGITS}:num_nans",
    f"{_V2}.sample.gumbel:_gumbel_sample_kernel": f"{_SAMPLES}:gumbel_sample",
    f"{_V2}.sample.logprob:_topk_log_softmax_kernel": f"{_SAMPLES}:token_logprobs",
    f"{_V2}.sample.logprob:_ranks_kernel": f"{_SAMPLES}:ranks",
    f"{_V2}.sample.logprob:_fill_logprob_token_ids_kernel": f"{_SAMPLES}:fill_logprob_token_ids",
    f"{_V2}.sample.prompt_logprob:_prompt_logprobs_token_ids_kernel": f"{_SAMPLES}:prompt_logprobs_token_ids",
}
_STREAMS: tuple[Rewrite, ...] = (
    Retarget(f"{_V2}.model_runner:GPUModelRunner.__init__", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.model_runner:GPUModelRunner.main_stream", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.async_utils:AsyncOutput.__init__", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.async_utils:stream", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.structured_outputs:StructuredOutputsWorker.__init__", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.structured_outputs:StructuredOutputsWorker.apply_grammar_bitmask", names=_TO_NPU, sites=1),
    Retarget(f"{_V2}.spec_decode.utils:DraftTokensHandler.__init__", names=_TO_NPU, sites=1),
)
_BUFFERS: tuple[Rewrite, ...] = (
    Replace("vllm.utils.platform_utils:is_uva_available", by=":no_unified_addresses"),
    Replace(f"{_V2}.buffer_utils:NonUvaBuffer.__init__", by=f"{_INPUTS}:pinned_and_device_buffer"),
    Replace(f"{_V2}.buffer_utils:FusedStagedWriter.apply", by=":write_one_by_one"),
    Replace(f"{_V2}.block_table:BlockTables._make_ptr_tensor", by=":tensors_themselves"),
    Replace(f"{_V2}.block_table:BlockTables.compute_slot_mappings", by=f"{_INPUTS}:compute_slot_mappings"),
)
_ALWAYS: tuple[Rewrite, ...] = (
    Replace("vllm.config.vllm:VllmConfig._validate_v2_model_runner", by=":validate"),
    Add("vllm.config.vllm:NPU_RUNS_MODEL_RUNNER_V2", by=":NPU_RUNS_MODEL_RUNNER_V2"),
    Add(
        "vllm.triton_utils.importing:TritonPlaceholder.next_power_of_2",
        by="ascend_patch.patches._triton:next_power_of_2",
    ),
    *_STREAMS,
    *_BUFFERS,
    Wrap(f"{_V2}.sample.sampler:Sampler._sample_random", by=f"{_SAMPLES}:greedy_without_noise"),
    *(Replace(kernel, by=ours) for kernel, ours in _KERNELS.items()),
)
# The worker asks for Triton as well.
_WORKER: tuple[Rewrite, ...] = (
    Add("vllm.v1.worker.gpu_worker:NPU_RUNS_MODEL_RUNNER_V2", by=":NPU_RUNS_MODEL_RUNNER_V2"),
    Retarget("vllm.v1.worker.gpu_worker:Worker.__init__", names={"HAS_TRITON": "NPU_RUNS_MODEL_RUNNER_V2"}, sites=1),
)

PATCH = Patch(
    id="worker.model_runner_v2",
    why="Model runner V2 is made of Triton kernels: this runs it, where VLLM_USE_V2_MODEL_RUNNER=1 asks for it, on"
    " PyTorch operators and our kernels, for dense decoders in eager mode on one device; it refuses at start what needs"
    " more: speculation, LoRA, MoE, multimodal, pooling and hybrid models, graphs, KV connectors, parallelism.",
    on=False,  # V1 is what is tested throughout, and what vLLM chooses where there is no Triton
    requires=("worker.init_device", "worker.kernel_warmup"),
    variants=(
        Variant(versions=">=0.32.0,<0.33", rewrites=_ALWAYS),
        Variant(versions=">=0.33.0,<0.34", rewrites=(*_ALWAYS, *_WORKER)),
    ),
    upstream="vllm/v1/worker/gpu, vllm/triton_utils/dispatcher.py",
    unnecessary_when="There is a Triton for NPUs that compiles these kernels, or V2 has them in plain PyTorch.",
    expires=(Expiry("vllm.config.vllm:VllmConfig.use_v2_model_runner", without="HAS_TRITON"),),
)

NPU_RUNS_MODEL_RUNNER_V2 = True  # what the platform looks for


def validate(self: Any) -> None:
    """Accept what runs here: `VllmConfig` with model runner V2 chosen, Triton or not.

    Raises:
        ValueError: a feature that V2 has on CUDA only, or not at all.
    """
    unsupported = [*self._get_v2_model_runner_unsupported_features(), *missing_on_npu(self)]
    if unsupported:
        raise ValueError(
            f"Model Runner V2 on an NPU does not support {', '.join(unsupported)}: leave that out, or unset"
            " VLLM_USE_V2_MODEL_RUNNER to run V1 ('ascend-patch show worker.model_runner_v2' says more)."
        )


def missing_on_npu(config: Any) -> list[str]:
    """What this configuration asks of V2 that reaches a Triton kernel without a counterpart, or was never tried."""
    parallel, model = config.parallel_config, config.model_config
    asked = {
        "speculative decoding": config.speculative_config is not None,
        "LoRA": config.lora_config is not None,
        "tensor parallelism": parallel.tensor_parallel_size > 1,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism": parallel.data_parallel_size > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "dual batch overlap": parallel.use_ubatching,
        "batch-sharded sampling": bool(parallel.enable_batch_sharded_sampling),
        "graph capture (set --enforce-eager)": config.compilation_config.cudagraph_mode.name != "NONE",
        "KV connectors": config.kv_transfer_config is not None or config.ec_transfer_config is not None,
        "KV-sharing fast prefill": bool(config.cache_config.kv_sharing_fast_prefill),
        "watermarking": getattr(config, "watermark_config", None) is not None,
        "HiSparse": config.attention_config.hisparse_config is not None,
        "thinking budgets (leave --reasoning-parser and --reasoning-config out)": _has_reasoning(config),
    }
    if model is not None:
        asked |= {
            "multimodal models": model.is_multimodal_model,
            "mixture-of-experts models": model.is_moe,
            "pooling models": model.runner_type != "generate",
            "encoder-decoder models": model.is_encoder_decoder,
            "hybrid, Mamba and attention-free models": model.is_hybrid or model.is_attention_free,
            "rotary positions of several dimensions": model.uses_mrope,
            "prompt embeddings": model.enable_prompt_embeds,
            "sampling masks": model.return_sampling_mask,
            "trace replay": model.enable_trace_replay,
            "Gumbel noise in float64": model.use_fp64_gumbel,
        }
    return [feature for feature, wanted in asked.items() if wanted]


def _has_reasoning(config: Any) -> bool:
    reasoning = config.reasoning_config
    return reasoning is not None and bool(reasoning.reasoning_parser or reasoning.reasoning_start_str)


def no_unified_addresses() -> bool:
    """Host memory has no address that an NPU's operators could read: buffers exist twice, and are copied."""
    return False


def tensors_themselves(self: Any, x: Any) -> tuple[Any, ...]:
    """In place of a tensor of their addresses, which only a kernel could follow."""
    return tuple(x)


def write_one_by_one(self: Any, tensors: Any, output_ptrs: Any, output_strides: Any) -> None:
    """Apply the staged writes of each KV cache group's block table by themselves."""
    for tensor in tensors:
        tensor.apply_write()
