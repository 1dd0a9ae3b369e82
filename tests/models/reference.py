"""transformers on the CPU: the independent implementation that vLLM on the overlay is compared with."""

from __future__ import annotations

from contextlib import ExitStack
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from tests.models import packed, quantised


@lru_cache(maxsize=2)
def _model(folder: str, dtype: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if packed.is_one(folder):
        return packed.load(folder, dtype, attn_implementation="eager").eval()
    if quantised.is_one(folder):
        return quantised.load(folder, dtype, attn_implementation="eager").eval()
    config = AutoConfig.from_pretrained(folder, **dict(changes))
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    for module in model.modules():
        # transformers 5.5 uses this attribute where groups of experts are chosen, and sets it nowhere.
        if type(module).__name__ == "DeepseekV2Moe" and not hasattr(module, "num_experts"):
            module.num_experts = config.n_routed_experts
    return model.eval()


def _all_logits(model: Any, tokens: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens], device="cpu"), use_cache=False).logits[0].float()


def greedy(folder: str, dtype: str, prompts: list[list[int]], count: int, **changes: Any) -> list[dict[str, Any]]:
    """`count` greedy tokens for each prompt, by full recomputation: no cache, no padding, no batching.

    Each answer has `token_ids` and, per position, `best`: the two best as [token, logit].
    """
    model = _model(folder, dtype, tuple(sorted(changes.items())))
    answers = []
    for prompt in prompts:
        tokens = list(prompt)
        best = []
        for _ in range(count):
            values, indices = _all_logits(model, tokens)[-1].topk(2)
            best.append([[int(index), float(value)] for index, value in zip(indices, values, strict=True)])
            tokens.append(best[-1][0][0])
        answers.append({"token_ids": tokens[len(prompt) :], "best": best})
    return answers


def logits(
    folder: str, dtype: str, tokens: list[int], *, jitter: int | None = None, **changes: Any
) -> list[list[float]]:
    """Logits of every position, `[len(tokens)][vocabulary]`, in one forward pass.

    Args:
        jitter: the seed of what is added to the tokens' embeddings: up to one unit in the last place of the type.
    """
    import torch

    model = _model(folder, dtype, tuple(sorted(changes.items())))

    def jittered(module: Any, inputs: Any, output: Any) -> Any:
        assert jitter is not None
        noise = torch.rand(output.shape, generator=torch.Generator().manual_seed(jitter)) * 2 - 1
        return (output.float() * (1 + noise * torch.finfo(output.dtype).eps / 2)).to(output.dtype)

    embeddings = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(jittered) if jitter is not None else None
    try:
        rows: list[list[float]] = _all_logits(model, tokens).tolist()
    finally:
        if handle is not None:
            handle.remove()
    return rows


def logits_with_routers(
    folder: str, dtype: str, tokens: list[int], given: dict[str, list[list[float]]]
) -> dict[str, Any]:
    """The last token's `logits` when the routers say what is `given`, and what they would have said (`routers`).

    Each layer therefore sees what the layers before it make of the given choices.

    Args:
        given: for each router, by its name, `[len(tokens)][experts]`.
    """
    import torch

    model = _model(folder, dtype, ())
    linear = torch.nn.functional.linear
    said: dict[str, list[list[float]]] = {}

    def replaced(name: str, forward: Any) -> Any:
        def product(*operands: Any) -> Any:
            own = linear(*operands)
            said[name] = own.float().reshape(len(tokens), -1).tolist()
            return torch.tensor(given[name], dtype=own.dtype).reshape(own.shape)

        def call(*arguments: Any) -> Any:
            with patch.object(torch.nn.functional, "linear", product):
                return forward(*arguments)

        return call

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name in given:
                stack.enter_context(patch.object(module, "forward", replaced(name, module.forward)))
        last: list[float] = _all_logits(model, tokens)[-1].tolist()
    assert said.keys() == given.keys()
    return {"logits": last, "routers": said}


def hidden_states(folder: str, prompts: list[list[int]], **changes: Any) -> list[list[list[float]]]:
    """The last layer's hidden states of each prompt in float32, ``[tokens][hidden size]``, one prompt at a time."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, **changes)
    options = {"config": config, "dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModel.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        return [model(torch.tensor([prompt])).last_hidden_state[0].tolist() for prompt in prompts]


def rewards(folder: str, prompts: list[list[int]]) -> list[list[list[float]]]:
    """What a head of two linear layers makes of `hidden_states`, ``[tokens][numbers]``."""
    import torch
    from safetensors.torch import load_file

    head = {name: tensor for name, tensor in load_file(f"{folder}/model.safetensors").items() if "score" in name}

    def linear(layer: int, rows: torch.Tensor) -> torch.Tensor:
        return rows @ head[f"score.{layer}.weight"].T + head[f"score.{layer}.bias"]

    states = hidden_states(folder, prompts)
    return [linear(2, linear(0, torch.tensor(rows)).clamp_min(0)).tolist() for rows in states]


def sentences(folder: str, texts: list[str]) -> list[list[float]]:
    """The mean of each text's hidden states, with the folder's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    states = hidden_states(folder, [tokenizer(text).input_ids for text in texts])
    return [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in states]


def class_logits(folder: str, prompts: list[Any]) -> list[list[float]]:
    """The classifier's logits in float32 for each prompt: token ids, or two texts with the folder's tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    rows = []
    for prompt in prompts:
        if isinstance(prompt[0], str):
            inputs = AutoTokenizer.from_pretrained(folder)(*prompt, return_tensors="pt")
        else:
            inputs = {"input_ids": torch.tensor([prompt])}
        with torch.no_grad():
            rows.append(model(**inputs).logits[0].tolist())
    return rows
