"""Every sign by which a patch expires: not there in the installed vLLM, and reported once upstream changes so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ascend_patch.engine.expiry import signs
from ascend_patch.engine.sources import SourceTree, memory_tree
from ascend_patch.engine.syntax import find_definition
from ascend_patch.engine.vocabulary import Expiry, Patch, Target
from tests.end_to_end.upstream import VERSION, installed, needed, patches, plan_of

SIGNS = [(patch, sign) for patch in patches() if patch.id in needed() for sign in patch.expires]


def name_of(value: Patch | Expiry) -> str:
    if isinstance(value, Patch):
        return value.id
    return "-".join(part for part in (value.target.rpartition(".")[2], value.without, value.mentions) if part)


def tree() -> SourceTree:
    return SourceTree.open(installed(), package="vllm", version=VERSION)


def path_of(module: str) -> Path:
    """A module's file below the folder of packages, whether or not it is there."""
    stem = Path(*module.split("."))
    return stem / "__init__.py" if (installed().parent / stem).is_dir() else stem.with_suffix(".py")


def with_module(module: str, text: str) -> SourceTree:
    """A vLLM of nothing but this module, as it would be."""
    members = {path_of(module).as_posix(): text.encode()}
    return memory_tree("vllm", members, origin="upstream", kind="folder", version=VERSION)


def changed(sign: Expiry) -> SourceTree:
    """Upstream, with the least change that makes the sign true."""
    place = Target.parse(sign.target)
    file = installed().parent / path_of(place.module)
    syntax = ast.parse(file.read_text("utf-8")) if file.is_file() else ast.parse("")
    *outer, last = place.qualname.split(".")
    body = syntax.body
    for name in outer:
        scope = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
        if scope is None:
            (scope,) = ast.parse(f"class {name}: ...").body
            body.append(scope)
        body = scope.body
    if sign.without or sign.mentions:
        (index,) = [index for index, node in enumerate(body) if last in _names(node)]
        text = ast.unparse(body[index])
        if sign.without:
            body[index : index + 1] = ast.parse(text.replace(sign.without, _instead(sign.without))).body
        else:
            _mention(body[index], sign.mentions)
    else:
        body += ast.parse(f"def {last}(self, *args): ...").body
    return with_module(place.module, ast.unparse(ast.fix_missing_locations(syntax)))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [getattr(node, "name", "")]


def _instead(text: str) -> str:
    return "'other'" if text.startswith("'") else "other.name"


def _mention(node: ast.stmt, text: str) -> None:
    used = ast.parse(f"before = ({text},)").body
    if isinstance(node, ast.Assign):
        node.value = ast.Tuple([used[0].value, node.value], ast.Load())  # type: ignore[attr-defined]
    else:
        node.body += used  # type: ignore[attr-defined]


def test_every_patch_says_how_it_expires() -> None:
    for patch in patches():
        assert patch.unnecessary_when, f"{patch.id} does not say when it can go"
        assert bool(patch.expires) is not bool(patch.no_sign), f"{patch.id} has neither signs nor a reason"


def test_nothing_has_expired_in_the_installed_version() -> None:
    for decision in plan_of(tree()).accepted:
        assert signs(decision.patch, tree(), decision.variant, decision.findings) == []


@pytest.mark.parametrize(("patch", "sign"), SIGNS, ids=name_of)
def test_a_sign_is_reported_when_upstream_changes_so(patch: Patch, sign: Expiry) -> None:
    here = find_definition(tree(), Target.parse(sign.target))
    if here is None and (sign.without or sign.mentions):
        pytest.skip(f"vLLM {VERSION} has no {sign.target}")
    found = signs(patch, changed(sign), None, ())
    assert any(sentence.startswith(sentence_of(sign)) for sentence in found), found


def sentence_of(sign: Expiry) -> str:
    if sign.without:
        return f"{sign.target} no longer mentions {sign.without!r} ("
    return f"{sign.target} mentions {sign.mentions!r} (" if sign.mentions else f"upstream has {sign.target} ("


REALISTIC = {
    "worker.init_device": ("vllm.v1.worker.gpu_worker", [("'cuda'", "current_platform.device_type"),
                           ("f'cuda:", "f'{current_platform.device_type}:")]),
    "platform.npu": ("vllm.platforms", [("'cpu': cpu_platform_plugin", "'cpu': cpu_platform_plugin, 'npu': npu")]),
    "worker.streams": ("vllm.v1.worker.gpu_model_runner", [("torch.cuda.", "torch.accelerator.")]),
    "ops.activation": ("vllm.model_executor.layers.activation", [("F.silu(x[..., :d]) * x[..., d:]", "F.swiglu(x)")]),
    "platform.environment": ("vllm.platforms.interface", [("env.startswith('VLLM_') and env not in",
                             "env.startswith(vllm_prefixes()) and env not in")]),
    "lora.punica": ("vllm.lora.punica_wrapper.punica_npu", [("", "class PunicaWrapperNPU: ...")]),
}  # fmt: skip
"""Patches, and a module as an upstream that no longer needs them might write it: texts as `ast.unparse` gives them."""


@pytest.mark.parametrize("id", sorted(REALISTIC.keys() & needed()))
def test_what_upstream_might_really_write(id: str) -> None:
    module, edits = REALISTIC[id]
    file = installed().parent / path_of(module)
    text = ast.unparse(ast.parse(file.read_text("utf-8"))) if file.is_file() else ""
    assert signs(patches()[id], with_module(module, text), None, ()) == []
    for old, new in edits:
        if old not in text:
            pytest.skip(f"vLLM {VERSION} writes it otherwise")
        text = text.replace(old, new)
    assert signs(patches()[id], with_module(module, text), None, ()) != []
