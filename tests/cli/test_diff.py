"""`diff`: what stands upstream and what will stand there, from sources alone."""

from __future__ import annotations

import ast
import textwrap
from types import CodeType

import pytest

from ascend_patch.cli.compare import retargeted
from ascend_patch.engine.retargeting import retarget
from ascend_patch.engine.sources import SourceFile
from ascend_patch.engine.syntax import Definition
from ascend_patch.engine.vocabulary import Retarget

from .conftest import Toy

RENAME = Retarget("m:f", names={"cuda": "npu"}, strings={"cuda": "npu", "cuda:": "npu:"}, never_after=("backends",))


def changed_lines(text: str) -> tuple[list[str], list[str]]:
    lines = [line for line in text.splitlines() if not line.startswith(("---", "+++"))]
    return (
        [line[1:].strip() for line in lines if line.startswith("-")],
        [line[1:].strip() for line in lines if line.startswith("+")],
    )


def test_retarget_marks_the_renamed_names(toy: Toy) -> None:
    result = toy("diff", "device.where")
    assert result.code == 0
    assert changed_lines(result.out) == (
        ['return os.cuda.device(f"cuda:{index}")'],
        ['return os.npu.device(f"npu:{index}")'],
    )
    assert "--- gadget/core.py:6" in result.out


def test_replace_shows_our_function(toy: Toy) -> None:
    removed, added = changed_lines(toy("diff", "math.add").out)
    assert removed == ["return a + b"]
    assert added == ['"""Add on the device."""', "return a.add(b)"]


def test_wrap_keeps_the_original_below_the_wrapper(toy: Toy) -> None:
    result = toy("diff", "math.run", "-U", "99")
    removed, added = changed_lines(result.out)
    assert removed == [] and "def counting(original):" in added
    assert " def run(job):" in result.out.splitlines() and "the original is kept" in result.out


def test_register_and_add_show_the_entry(toy: Toy) -> None:
    assert changed_lines(toy("diff", "device.registry").out) == ([], ["DEVICES['npu'] = 'gadget.npu'"])
    removed, added = changed_lines(toy("diff", "life.stop").out)
    assert removed == [] and added == ["def close(self):", 'return "closed"']


def test_json_has_both_texts(toy: Toy) -> None:
    shown = toy("diff", "math.add", "--json").json
    assert set(shown) == {"id", "version", "variant", "rewrites"}
    (rewrite,) = shown["rewrites"]
    assert set(rewrite) == {"kind", "target", "upstream", "upstream_at", "ours", "ours_at", "note", "diff"}
    assert rewrite["upstream"] == "def add(a, b):\n    return a + b"
    assert rewrite["ours_at"] == "gadget_patches.math.add:add"


def test_another_tree_can_be_given(toy: Toy) -> None:
    other = toy.root / "gadget-1.6.0" / "gadget"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    (other / "core.py").write_text("def add(a, b):\n    return sum((a, b))\n")
    result = toy("diff", "math.add", "--vllm", str(other.parent))
    assert "return sum((a, b))" in changed_lines(result.out)[0]


def test_a_version_that_no_patch_names_is_compared_like_it_is_patched(toy: Toy) -> None:
    toy.install("3.0.0")
    toy.edit("gadget/core.py", "return a + b", "return b + a")
    result = toy("diff", "math.add")  # what the engine's message about the drift names
    assert result.code == 0 and "return b + a" in changed_lines(result.out)[0]
    assert (
        "gadget 3.0.0 is outside the versions these patches name; its sources meet the contracts of 1.5.0" in result.err
    )
    assert toy("diff", "math.add", "--json").json["variant"] == ">=1.0,<2"
    environ = {"VLLM_ASCEND_PATCH_ASSUME_VERSION": "0.7.0"}
    assert toy("diff", "math.add", "--json", environ=environ).json["variant"] == ">=0.5,<1.0"


def test_a_missing_target_is_said(toy: Toy) -> None:
    toy.edit("gadget/core.py", "def add(a, b):", "def plus(a, b):")
    result = toy("diff", "math.add")
    assert result.code == 0 and "the target does not exist in this version" in result.out


def test_refusals(toy: Toy) -> None:
    assert "math.old has no variant for gadget 1.5.0: it covers >=0.1,<0.2" in toy("diff", "math.old").refused()
    assert "does not exist" in toy("diff", "math.add", "--vllm", str(toy.root / "nowhere")).refused()
    toy.write("broken.tar.gz", "this is no archive")
    assert "neither a readable" in toy("diff", "math.add", "--vllm", str(toy.site / "broken.tar.gz")).refused()
    assert "math.add" in toy("diff", "math.ad").refused()


def test_a_terminal_gets_a_coloured_diff(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in toy("diff", "math.add").out
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b[" not in toy("diff", "math.add").out


def definition(source: str) -> Definition:
    file = SourceFile("m", "m.py", source.encode())
    return Definition("function", tuple(file.syntax.body), file)


def leaves(code: CodeType) -> list[tuple[tuple[str, ...], tuple[object, ...]]]:
    """Names and plain constants of a code object and those nested in it."""
    plain = tuple(item for item in code.co_consts if not isinstance(item, CodeType))
    nested = [item for item in code.co_consts if isinstance(item, CodeType)]
    return [(code.co_names, plain), *(entry for inner in nested for entry in leaves(inner))]


BODIES = {
    "attributes and calls": "return torch.cuda.Stream(cuda.index).cuda",
    "f-string": "return f'cuda:{i}' + f\"{i}cuda:\" + f'x cuda:{i}'",
    "plain strings": "return ['cuda', \"cuda:\", 'cuda is not exchanged inside text', b'cuda']",
    "a kept use": "return torch.backends.cuda.flags",
    "a local of that name": "torch = 1\ncuda = 2\nreturn cuda + torch",
    "nested functions": "def g(x):\n    return torch.cuda.f(x, 'cuda')\nreturn [torch.cuda.g(y) for y in i]",
    "annotations": "a: torch.cuda.Stream = torch.cuda.Stream()\nreturn a",
    "stores": "torch.cuda.flag = 'cuda'\ndel torch.cuda",
    "non-ASCII before it": "return 'ü' + torch.cuda.name + 'cuda'",
    "multi-line": "return (\n    torch\n    .cuda\n    .name(\n        'cuda:'\n    )\n)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_text_shown_compiles_to_what_the_engine_installs(body: str) -> None:
    """Two independent ways to the same end: editing the text, and rewriting the code object."""
    source = "from __future__ import annotations\ndef f(i, x=None):\n" + textwrap.indent(body, "    ") + "\n"
    module = ast.parse(source)
    file = SourceFile("m", "m.py", source.encode())
    shown = retargeted(Definition("function", (module.body[1],), file), RENAME)

    def code_of(text: str) -> CodeType:
        flags = 0x1000000  # annotations, as in the module
        compiled = compile(text, "m.py", "exec", flags=flags, dont_inherit=True)
        return next(item for item in compiled.co_consts if isinstance(item, CodeType))

    upstream = source.partition("\n")[2]
    assert leaves(code_of(shown)) == leaves(retarget(code_of(upstream), RENAME).code)


def test_a_method_with_a_flush_left_string_keeps_its_shape() -> None:
    source = 'class C:\n    def f(self):\n        return """\nflush\n""", torch.cuda\n'
    module = ast.parse(source)
    method = module.body[0].body[0]  # type: ignore[attr-defined]
    file = SourceFile("m", "m.py", source.encode())
    shown = retargeted(Definition("method", (method,), file), RENAME)
    assert shown == 'def f(self):\n    return """\nflush\n""", torch.npu'
