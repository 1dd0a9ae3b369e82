"""Functions that run inside a worker process, for models that see or hear."""

from __future__ import annotations

from typing import Any


def make_seeing(name: str, folder: str) -> None:
    """Save a small model that sees; see `tests.models.seeing`."""
    from tests.models import seeing

    seeing.write(name, folder)


def make_hearing(folder: str) -> None:
    """Save a small model that hears; see `tests.models.hearing`."""
    from tests.models import hearing

    hearing.write(folder)


def make_hearing_for_a_server(folder: str) -> None:
    """The same with Whisper's own kind of tokenizer."""
    from tests.models import hearing

    hearing.write_for_a_server(folder)


def load_hearing(name: str, model: str, **options: Any) -> dict[str, Any]:
    """`engine_functions.load` for a model that hears."""
    from tests.end_to_end.engine_functions import load
    from tests.models import hearing

    hearing.read_with_plain_words()
    return load(name, model, **options)


def make_listening(folder: str) -> None:
    """Save a small model with sounds in its prompts; see `tests.models.listening`."""
    from tests.models import listening

    listening.write(folder)


def load_listening(name: str, model: str, **options: Any) -> dict[str, Any]:
    """`engine_functions.load` for such a model."""
    from tests.end_to_end.engine_functions import load
    from tests.models import listening

    listening.read_with_plain_words()
    return load(name, model, **options)


def load_seeing(name: str, model: str, **options: Any) -> dict[str, Any]:
    """`engine_functions.load` for a model that sees."""
    from tests.end_to_end.engine_functions import load
    from tests.models import sight

    sight.read_with_pil()
    return load(name, model, **options)


def look(name: str, prompts: list[dict[str, Any]], params: Any) -> list[dict[str, Any]]:
    """Answers to prompts with images, videos or sounds, all in one batch; see `tests.models.sight.Prompt`."""
    from vllm import SamplingParams

    from tests.end_to_end.engine_functions import ENGINES, describe

    results = ENGINES[name].generate([asked(prompt) for prompt in prompts], SamplingParams(**params), use_tqdm=False)
    return [describe(result) for result in results]


def asked(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as vLLM takes it."""
    from tests.models import hearing, listening, sight

    if "sound" in prompt or "recording" in prompt:
        return hearing.asked(prompt)
    if "sounds" in prompt:
        shown = {"audio": listening.sounds(prompt)}
    else:
        moving = [(frames, {**known, "do_sample_frames": False}) for frames, known in sight.videos(prompt)]
        shown = {"image": sight.pictures(prompt), "video": moving}
    data = {kind: items for kind, items in shown.items() if items}
    return {"prompt": prompt["text"], **({"multi_modal_data": data} if data else {})}


def language_of(name: str, recording: int) -> str:
    """Which of the languages that vLLM knows Whisper gives the best score, for the recording of a seed."""
    from vllm.model_executor.models.whisper import WhisperForConditionalGeneration

    from tests.end_to_end.engine_functions import ENGINES

    allowed = WhisperForConditionalGeneration.get_language_token_ids(ENGINES[name].get_tokenizer())
    params = {"temperature": 0, "max_tokens": 1, "allowed_token_ids": allowed, "skip_special_tokens": False}
    (answer,) = look(name, [{"text": "<|startoftranscript|>", "recording": recording}], params)
    text: str = answer["text"]
    return text.strip("<|>")


def traced_look(name: str, prompts: list[dict[str, Any]], params: Any) -> dict[str, Any]:
    """`look`, and what hostcann saw meanwhile: calls per operator, copies and host synchronisations."""
    from ascend_patch.hostcann import trace

    with trace.recording() as counts:
        look(name, prompts, params)
        seen = counts()
    return {
        kind: {op: count["calls"] for op, count in seen[kind].items()} for kind in ("aclnn", "aten", "copy", "sync")
    }


def reference_look(**arguments: Any) -> list[dict[str, Any]]:
    """See `tests.models.sight.greedy`."""
    from tests.models import sight

    return sight.greedy(**arguments)


def reference_next_logits(**arguments: Any) -> list[float]:
    """See `tests.models.sight.next_logits`."""
    from tests.models import sight

    return sight.next_logits(**arguments)
