"""Heads that draft for a small model: EAGLE, EAGLE-3, Medusa and DeepSeek's MTP, in PyTorch and transformers' layers.

A random head is never right, and one that is never right hides what is wrong with its cache. These are trained, for
seconds, on what the target itself says after the tests' prompts. How many of their drafts a target accepts is then
counted here, with every draft computed from the whole sequence: no cache, no padding, no batch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import families

LAYERS = 4
HEADS = 3
STEPS = 120
# Hidden states that EAGLE-3 sees: before these layers of the target.
SEEN_LAYERS = [1, 2, 3]


def write_target(kind: str, folder: str) -> None:
    """Save the model that heads of a kind draft for."""
    if kind in BESIDE:
        families.write(BESIDE[kind], folder)
        return
    import transformers

    torch.manual_seed(families.SEED)
    options = {**families.FAMILIES["llama"][2], "num_hidden_layers": LAYERS}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)).float()
    families.draw(model)
    model.save_pretrained(folder)


class Head(nn.Module):
    """Drafts token after token; each is a function of the tokens so far and of the target's hidden states."""

    files = "model.safetensors"
    behind_norm = False

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.embedding = target.model.embed_tokens.weight.detach()
        self.target_head = target.lm_head.weight.detach()
        self.rotary = target.model.rotary_emb
        self.size = target.config.hidden_size

    def seen(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        """What the head sees of the target's hidden states of one sequence: ``[tokens, …]``."""
        return hidden_states[-1][0]

    def combined(self, seen: Tensor) -> Tensor:
        """`seen` in the head's own size."""
        return seen

    def step(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over the target's vocabulary and hidden states, for each token and the hidden state before it."""
        raise NotImplementedError

    def loss(self, tokens: Tensor, seen: Tensor, best: Tensor) -> Tensor:
        logits, _ = self.step(tokens[1:], self.combined(seen[:-1]))
        return nn.functional.cross_entropy(self.of_drafts(logits), self.of_labels(best[1:]), ignore_index=-100)

    def of_drafts(self, logits: Tensor) -> Tensor:
        return logits

    def of_labels(self, labels: Tensor) -> Tensor:
        return labels

    def drafts(self, tokens: list[int], seen: Tensor, count: int) -> list[int]:
        """What follows `tokens`, of which the target has not seen the last: `seen` is one shorter."""
        inputs, hidden = torch.tensor(tokens[1:]), self.combined(seen)
        found: list[int] = []
        for _ in range(count):
            logits, outputs = self.step(inputs, hidden)
            found.append(int(logits[-1].argmax()))
            inputs = torch.cat([inputs, torch.tensor(found[-1:])])
            hidden = torch.cat([hidden, outputs[-1:]])
        return found

    def attend(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        """A layer of transformers over one sequence, each token seeing those before it."""
        count = inputs.shape[0]
        mask = torch.full((count, count), torch.finfo(inputs.dtype).min).triu(1)[None, None]
        angles = self.rotary(inputs[None], torch.arange(count)[None])
        result = layer(hidden_states=inputs[None], attention_mask=mask, position_embeddings=angles)
        outputs: Tensor = result[0] if isinstance(result, tuple) else result
        return outputs.reshape(count, -1)

    def checkpoint(self) -> dict[str, Tensor]:
        """Parameters under the names of published checkpoints."""
        raise NotImplementedError


class Eagle(Head):
    """EAGLE: one decoder layer without its first norm, over a token's embedding and the hidden state before it."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.fc = nn.Linear(2 * self.size, self.size, bias=False)
        self.layer = _first_layer(target)
        self.layer.input_layernorm = nn.Identity()

    def step(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.fc(torch.cat([self.embedding[tokens], hidden], dim=-1))
        outputs = self.attend(self.layer, joined)
        return outputs @ self.target_head.T, outputs

    def checkpoint(self) -> dict[str, Tensor]:
        return {name.replace("layer.", "layers.0.", 1): value for name, value in self.state_dict().items()}


class Eagle3(Head):
    """EAGLE-3: hidden states of three depths, an attention of double width, and a vocabulary of its own."""

    def __init__(self, target: Any) -> None:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        super().__init__(target)
        self.fc = nn.Linear(len(SEEN_LAYERS) * self.size, self.size, bias=False)
        self.midlayer = _first_layer(target)
        attention = self.midlayer.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, nn.Linear(2 * self.size, getattr(attention, name).out_features, bias=False))
        self.midlayer.hidden_norm = LlamaRMSNorm(self.size)
        self.norm = LlamaRMSNorm(self.size)
        # It cannot say every fourth token.
        self.said = torch.tensor([token for token in range(families.VOCABULARY) if token % 4])
        self.lm_head = nn.Linear(self.size, len(self.said), bias=False)

    def seen(self, hidden_states: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([hidden_states[index][0] for index in SEEN_LAYERS], dim=-1)

    def combined(self, seen: Tensor) -> Tensor:
        result: Tensor = self.fc(seen)
        return result

    def step(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.midlayer
        both = torch.cat([layer.input_layernorm(self.embedding[tokens]), layer.hidden_norm(hidden)], dim=-1)
        attended = hidden + self.attend(layer.self_attn, both)
        outputs = attended + layer.mlp(layer.post_attention_layernorm(attended))
        logits = torch.full((len(tokens), families.VOCABULARY), float("-inf"))
        return logits.index_copy(1, self.said, self.lm_head(self.norm(outputs))), outputs

    def of_drafts(self, logits: Tensor) -> Tensor:
        return logits[:, self.said]

    def of_labels(self, labels: Tensor) -> Tensor:
        return torch.where(labels % 4 == 0, -100, torch.searchsorted(self.said, labels))

    def checkpoint(self) -> dict[str, Tensor]:
        can_say = torch.zeros(families.VOCABULARY, dtype=torch.bool)
        can_say[self.said] = True
        return {**self.state_dict(), "d2t": self.said - torch.arange(len(self.said)), "t2d": can_say}


class Medusa(Head):
    """Medusa: a block and a head for each place behind the next token, all from one hidden state."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.blocks = nn.ModuleList(nn.Linear(self.size, self.size, bias=False) for _ in range(HEADS))
        self.lm_heads = nn.ModuleList(nn.Linear(self.size, families.VOCABULARY, bias=False) for _ in range(HEADS))

    def ahead(self, place: int, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_heads[place](hidden + nn.functional.silu(self.blocks[place](hidden)))
        return logits

    def loss(self, tokens: Tensor, seen: Tensor, best: Tensor) -> Tensor:
        places = range(HEADS)
        losses = [nn.functional.cross_entropy(self.ahead(i, seen[: -i - 1]), best[i + 1 :]) for i in places]
        return torch.stack(losses).sum()

    def drafts(self, tokens: list[int], seen: Tensor, count: int) -> list[int]:
        return [int(self.ahead(place, seen[-1]).argmax()) for place in range(count)]

    def checkpoint(self) -> dict[str, Tensor]:
        named = self.state_dict().items()
        return {name if "lm_heads" in name else name.replace(".weight", ".layers.0.weight"): v for name, v in named}


class MultiToken(Head):
    """DeepSeek's MTP: a whole layer of the model, latent attention and experts included, behind two norms."""

    files = "mtp.safetensors"

    def __init__(self, target: Any) -> None:
        from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

        super().__init__(target)
        self.index = target.config.num_hidden_layers
        self.enorm, self.hnorm, self.norm = (modeling.DeepseekV3RMSNorm(self.size) for _ in range(3))
        self.eh_proj = nn.Linear(2 * self.size, self.size, bias=False)
        torch.manual_seed(families.SEED)
        self.layer = modeling.DeepseekV3DecoderLayer(target.config, self.index)
        for name, parameter in self.layer.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.05)
            elif "norm" in name:
                nn.init.ones_(parameter)

    def step(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        embeds = self.embedding[tokens].clone()
        embeds[0] = 0  # by its position
        joined = self.eh_proj(torch.cat([self.enorm(embeds), self.hnorm(hidden)], dim=-1))
        outputs = self.attend(self.layer, joined)
        normed = self.norm(outputs)
        return normed @ self.target_head.T, normed if self.behind_norm else outputs

    def checkpoint(self) -> dict[str, Tensor]:
        saved = {}
        for name, value in self.state_dict().items():
            inside = f"shared_head.{name}" if name.startswith("norm.") else name.removeprefix("layer.")
            saved.update(_published(inside, value))
        saved["shared_head.head.weight"], saved["embed_tokens.weight"] = self.target_head, self.embedding
        return {f"model.layers.{self.index}.{name}": value for name, value in saved.items()}


def _published(name: str, value: Tensor) -> dict[str, Tensor]:
    """A layer's parameter as checkpoints have it: transformers 5 keeps all experts' weights in one."""
    if name.endswith("experts.gate_up_proj"):
        halves = {"gate_proj": value.chunk(2, dim=1)[0], "up_proj": value.chunk(2, dim=1)[1]}
    elif name.endswith("experts.down_proj"):
        halves = {"down_proj": value}
    else:
        return {name: value}
    prefix = name.rpartition(".")[0]
    return {f"{prefix}.{i}.{part}.weight": weight for part, all_of in halves.items() for i, weight in enumerate(all_of)}


KINDS: dict[str, type[Head]] = {"eagle": Eagle, "eagle3": Eagle3, "medusa": Medusa, "mtp": MultiToken}
# Heads that lie beside the target's own weights, and the family of the target.
BESIDE = {"mtp": "deepseek-v3", "mtp-latent": "deepseek-v3-latent"}
_MORE_OF_CONFIG: dict[str, dict[str, Any]] = {
    "eagle": {"num_hidden_layers": 1},
    "eagle3": {
        "num_hidden_layers": 1,
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": 3 * families.VOCABULARY // 4,
        "eagle_aux_hidden_state_layer_ids": SEEN_LAYERS,
    },
    "mtp": {"num_nextn_predict_layers": 1},
}


def _first_layer(target: Any) -> Any:
    """A new decoder layer of the target's own sizes."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    torch.manual_seed(families.SEED)
    return LlamaDecoderLayer(target.config, 0)


def write(
    kind: str, target: str, folder: str, prompts: list[list[int]], length: int, drafts: int, behind_norm: bool
) -> list[dict[str, Any]]:
    """Train a head for the model in `target`, save it into `folder`, and say what becomes of its drafts.

    Args:
        length: greedy tokens to generate behind each prompt.
        drafts: proposed at a time.
        behind_norm: whether MTP drafts its second token from hidden states behind its last norm (vLLM since 0.24).

    Returns:
        Of each prompt the ``token_ids``, and how many tokens are ``drafted`` and ``accepted``.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(False)
    torch.manual_seed(families.SEED)
    head = KINDS[kind.partition("-")[0]](model)
    head.behind_norm = behind_norm
    # A draft behind the last token is verified like any other.
    runs = [_run(model, head, prompt, length + drafts + 1) for prompt in prompts]
    _train(head, runs)
    if kind in BESIDE:
        shutil.copytree(target, folder)
    Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().clone().contiguous() for name, value in head.checkpoint().items()}
    save_file(tensors, Path(folder) / head.files)
    (Path(folder) / "config.json").write_text(json.dumps(_config(kind, model.config)))
    answers = []
    with torch.no_grad():
        for prompt, (tokens, seen, _) in zip(prompts, runs, strict=True):
            known = tokens.tolist()
            drafted, accepted = _speculate(head, known, seen, len(prompt), length, drafts)
            answer = known[len(prompt) : len(prompt) + length]
            answers.append({"token_ids": answer, "drafted": drafted, "accepted": accepted})
    return answers


def _config(kind: str, target: Any) -> dict[str, Any]:
    if kind == "medusa":
        sizes = {"hidden_size": target.hidden_size, "vocab_size": target.vocab_size}
        return {"model_type": "medusa", "architectures": ["MedusaModel"], "num_heads": HEADS, **sizes}
    return {**target.to_dict(), **_MORE_OF_CONFIG[kind.partition("-")[0]]}


def _run(model: Any, head: Head, prompt: list[int], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """A prompt with its greedy continuation, what the head sees of it, and the best token behind each position."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        result = model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
        return torch.tensor(tokens), head.seen(result.hidden_states), result.logits[0].argmax(dim=-1)


def _train(head: Head, runs: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.stack([head.loss(*run) for run in runs]).sum().backward()
        optimizer.step()


def _speculate(head: Head, tokens: list[int], seen: Tensor, start: int, length: int, count: int) -> tuple[int, int]:
    """How many tokens are drafted and accepted until `length` of them follow the first `start`."""
    drafted = accepted = 0
    known = start + 1  # the target says the first token on its own
    while known < start + length:
        drafts = head.drafts(tokens[:known], seen[: known - 1], count)
        right = 0
        while right < count and drafts[right] == tokens[known + right]:
            right += 1
        drafted, accepted, known = drafted + count, accepted + right, known + right + 1
    return drafted, accepted
