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


def load_hearing(name: str, model: str, **options: Any) -> dict[str, Any]:
    """`engine_functions.load` for a model that hears."""
    from tests.end_to_end.engine_functions import load
    from tests.models import hearing

    hearing.read_with_plain_words()
    return load(name, model, **options)


def load_seeing(name: str, model: str, **options: Any) -> dict[str, Any]:
    """`engine_functions.load` for a model that sees."""
    from tests.end_to_end.engine_functions import load
    from tests.models import sight

    sight.read_with_pil()
    return load(name, model, **options)


def look(name: str, prompts: list[dict[str, Any]], params: Any) -> list[dict[str, Any]]:
    """Answers to prompts with images or sounds, all in one batch; see `tests.models.sight.Prompt`."""
    from vllm import SamplingParams

    from tests.end_to_end.engine_functions import ENGINES, describe
    from tests.models import hearing, sight

    inputs = []
    for prompt in prompts:
        if "sound" in prompt:
            inputs.append(hearing.asked(prompt))
            continue
        images = {"multi_modal_data": {"image": sight.pictures(prompt)}} if prompt["images"] else {}
        inputs.append({"prompt": prompt["text"], **images})
    results = ENGINES[name].generate(inputs, SamplingParams(**params), use_tqdm=False)
    return [describe(result) for result in results]


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
