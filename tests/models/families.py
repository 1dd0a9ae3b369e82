"""Small models of fifteen families with random weights, for comparisons with transformers.

Each has two layers (four where layer kinds alternate) and a vocabulary of 512. Head sizes are those the
NPU's attention takes (64 and 128). Weights are drawn wider than in training, for two reasons: attention
scores then differ enough for a wrong mask or position to change the answer, and the two best logits lie
far enough apart for greedy tokens to be comparable between implementations.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 512
LONGEST = 1024
WINDOW = 48
SEED = 20260601

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.12,
}
_GATED: dict[str, Any] = {**_COMMON, "intermediate_size": 256, "num_key_value_heads": 2}

_EXPERTS: dict[str, Any] = {**_GATED, "head_dim": 64, "moe_intermediate_size": 96}
# DeepSeek's gating: the best groups, then the best experts in them, beside a shared expert; the first layer is dense.
_GROUPS: dict[str, Any] = {
    **_EXPERTS,
    "n_routed_experts": 16,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "routed_scaling_factor": 1.5,
}
_LATENT: dict[str, Any] = {
    **{key: value for key, value in _GROUPS.items() if key != "head_dim"},
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

# family -> (configuration class, model class, options)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**_GATED, "head_dim": 64}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**_GATED, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_GATED, "head_dim": 128}),
    "mistral-sliding-window": (
        "MistralConfig",
        "MistralForCausalLM",
        {**_GATED, "head_dim": 64, "sliding_window": WINDOW},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **_GATED,
            "head_dim": 64,
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 64,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**_GATED, "num_attention_heads": 2, "num_key_value_heads": 2}),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {
            **{key: value for key, value in _COMMON.items() if key != "initializer_range"},
            "num_attention_heads": 2,
            "ffn_dim": 256,
            "word_embed_proj_dim": 128,
            "init_std": 0.12,
            "dropout": 0.0,
        },
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {**_COMMON, "num_attention_heads": 2, "intermediate_size": 256, "rotary_pct": 0.25},
    ),
    # Mixtures of experts. Two experts of eight, weights scaled to a sum of 1.
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_GATED, "head_dim": 64, "num_local_experts": 8}),
    # Four of twelve, weights as they are, and a shared expert with a gate of its own; the first layer is dense.
    "qwen2-moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {
            **_EXPERTS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_experts": 12,
            "num_experts_per_tok": 4,
            "shared_expert_intermediate_size": 192,
            "mlp_only_layers": [0],
            "num_hidden_layers": 3,
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {**_EXPERTS, "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": True},
    ),
    "olmoe": (
        "OlmoeConfig",
        "OlmoeForCausalLM",
        {**_GATED, "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 10, "num_experts_per_tok": 3},
    ),
    # Sigmoid scores with a bias that chooses, scaled to a sum of 1.
    "glm4-moe": ("Glm4MoeConfig", "Glm4MoeForCausalLM", {**_GROUPS, "use_qk_norm": True, "num_mtp_layers": 0}),
    "deepseek-v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {**_LATENT, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    ),
    # Softmax scores as they are.
    "deepseek-v2": (
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**_LATENT, "topk_method": "group_limited_greedy", "norm_topk_prob": False},
    ),
}

# The real models' sizes per head, which the NPU's operator for latent attention insists on.
_HEADS_OF_DEEPSEEK: dict[str, Any] = {
    **_LATENT,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "num_hidden_layers": 2,
}
LATENT_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{family}-latent": (*FAMILIES[family][:2], {**FAMILIES[family][2], **_HEADS_OF_DEEPSEEK, **own})
    for family, own in {"deepseek-v2": {}, "deepseek-v3": {"q_lora_rank": 96}}.items()
}


def has_experts(family: str) -> bool:
    """Whether a family's layers are mixtures of experts."""
    return any("expert" in option for option in FAMILIES[family][2])


def write(family: str, folder: str) -> dict[str, Any]:
    """Save the family's model in float32 into `folder`; returns the number of parameters."""
    import torch
    import transformers

    config_class, model_class, options = {**FAMILIES, **LATENT_FAMILIES}[family]
    config = getattr(transformers, config_class)(**options)
    torch.manual_seed(SEED)
    model = getattr(transformers, model_class)(config).float()
    draw(model)
    model.save_pretrained(folder)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def draw(model: Any) -> None:
    """Make a new model's parameters more different from each other than they begin."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases start as zeros and norms as ones (or zeros): drawn as well, they show when they are left out.
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif "lm_head" in name or "embed_out" in name:
                parameter.mul_(2.0)
            elif "embed_tokens" in name and model.config.tie_word_embeddings:
                # Otherwise the last token's own embedding outweighs everything and is repeated for ever.
                parameter.mul_(0.25)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):  # a buffer of zeros would choose nothing
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.2)


def prompts(count: int = 4) -> list[list[int]]:
    """Prompts of different lengths: shorter than a window, longer than one and than two 128-token blocks."""
    lengths = [5, 131, 60, 270][:count]
    state = SEED
    result = []
    for length in lengths:
        tokens = []
        for _ in range(length):
            # A linear congruential generator: the same on every machine, with no library.
            state = (state * 1103515245 + 12345) % (1 << 31)
            tokens.append(2 + (state >> 8) % (VOCABULARY - 2))
        result.append(tokens)
    return result
