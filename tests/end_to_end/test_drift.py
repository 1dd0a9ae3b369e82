"""vLLM drifted: copies of the installed one in which upstream changed something that a patch rewrites.

Each ends in a named state with a message that says what changed: never in a crash, a silent no-op or wrong tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ascend_patch.activation import contracts_folder
from ascend_patch.cli.app import app
from ascend_patch.engine.contract_building import check_usage
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.sources import SourceTree, memory_tree
from ascend_patch.engine.syntax import find_definition
from ascend_patch.engine.vocabulary import Target
from ascend_patch.patches.ops import activation, rms_norm, rotary_embedding
from tests.end_to_end import upstream
from tests.end_to_end.upstream import VERSION, Copy, needed, patches
from tests.end_to_end.worker import CHECKOUT, Worker, overlay_environment
from tests.models.families import prompts

pytestmark = pytest.mark.engine_process

START_METHOD = "vllm.utils.system_utils:_maybe_force_spawn"
PENALTIES = "vllm.model_executor.layers.utils:apply_penalties"
WARMUP = "vllm.model_executor.warmup.kernel_warmup"
SLOT_MAPPING = "vllm.v1.worker.block_table:BlockTable.compute_slot_mapping"
MEMORY_POOL = "vllm.v1.worker.gpu_worker:Worker._maybe_get_memory_pool_context"
INIT_DEVICE = "vllm.v1.worker.gpu_worker:Worker.init_device"
STREAM = "vllm.v1.worker.gpu_model_runner:AsyncGPUModelRunnerOutput.__init__"
RANKS = "vllm.v1.sample.sampler:Sampler.gather_logprobs"
TOP_K = "vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p"
REJECTION = "vllm.v1.sample.rejection_sampler"
V2 = "vllm.v1.worker.gpu"
V2_PATCH = "worker.model_runner_v2"
WITH_V2 = {"VLLM_ASCEND_PATCH_ENABLE": V2_PATCH}
NORM = "vllm.model_executor.layers.layernorm:RMSNorm"
CACHE_KEY = "vllm.envs:compile_factors"


def proposer() -> tuple[str, str]:
    """What prepares the inputs of a draft model, and the function that launches it, in this version's names."""
    contracts = ContractStore(contracts_folder()).get(VERSION)
    assert contracts is not None
    for target, contract in contracts.targets.items():
        for site in contract.uses:
            if target.startswith("vllm.v1.spec_decode.utils:") and site.endswith(".prepare_inputs_padded"):
                return target.partition(":")[2], site
    raise AssertionError(f"no launch of the proposer is known in {VERSION}")


DRAFTING_KERNEL, PROPOSER = proposer()


@dataclass(frozen=True)
class Case:
    """An upstream change, the patch that must notice it, and words of the message.

    Attributes:
        patch: '' when nothing may be noticed.
        code: run in the process after the import of vLLM; what it binds to ``result`` must be true.
        version: what the copy says about its version, when not what it is.
        taken_for: the version that patches are chosen by, when it is another one.
        gate: whether to start importing the engine; only a refusal makes that quick.
    """

    name: str
    change: Callable[[Copy], None]
    patch: str = ""
    words: str = ""
    modules: tuple[str, ...] = ()
    code: str = ""
    version: str = ""
    taken_for: str = ""
    gate: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def moved_and_imported_back(copy: Copy) -> None:
    copy.edit(TOP_K, upstream.renamed)
    here, there = TOP_K.partition(":")[0], "vllm.v1.sample.ops.filters"
    copy.write(there, f"from {here} import apply_top_k_top_p_by_another_name as apply_top_k_top_p\n")
    copy.append(here, f"from {there} import apply_top_k_top_p\n")


CASES = [
    Case(
        "a function renamed",
        lambda copy: copy.edit(START_METHOD, upstream.renamed),
        "platform.start_method",
        f"{START_METHOD}: vllm.utils.system_utils has no _maybe_force_spawn",
        modules=("vllm.utils.system_utils",),
        code="import vllm.utils.system_utils as utils\n"
        "result = not hasattr(utils, '_maybe_force_spawn') and utils._maybe_force_spawn_by_another_name.__module__ == "
        "'vllm.utils.system_utils'",
    ),
    Case(
        "a signature changed",
        lambda copy: copy.edit(PENALTIES, upstream.more_parameters),
        "sampling.penalties",
        f"{PENALTIES}: parameter 'changed_upstream' added since",
    ),
    Case(
        "a module moved",
        lambda copy: copy.move(WARMUP, "vllm.model_executor.warmup.all_kernels"),
        "worker.kernel_warmup",
        f"{WARMUP}:kernel_warmup: module {WARMUP} does not exist",
        gate=True,
    ),
    Case(
        "a function moved and imported back",
        moved_and_imported_back,
        "sampling.top_k_top_p",
        f"{TOP_K}: moved to vllm.v1.sample.ops.filters:apply_top_k_top_p",
    ),
    Case(
        "a body changed",
        lambda copy: copy.edit(SLOT_MAPPING, upstream.other_body),
        "worker.slot_mapping",
        f"{SLOT_MAPPING}: body changed since",
        gate=True,
    ),
    Case(
        "a body changed around what is renamed",
        lambda copy: copy.edit(INIT_DEVICE, upstream.other_body),
    ),
    Case(
        "a body changed inside a wrapper",
        lambda copy: copy.edit(CACHE_KEY, upstream.other_body),
        modules=("vllm.envs",),
        code="import vllm.envs\nresult = 'ASCEND_PATCH' in vllm.envs.compile_factors()",
    ),
    Case(
        "nothing left to rename",
        lambda copy: copy.edit(STREAM, upstream.respelled("torch.cuda", "torch.accelerator")),
        "worker.streams",
        f"{STREAM}: 0 sites to retarget instead of ",
        gate=True,
    ),
    Case(
        "a required target gone",
        lambda copy: copy.edit(MEMORY_POOL, upstream.gone),
        "worker.memory_pool",
        f"{MEMORY_POOL}: Worker has no attribute _maybe_get_memory_pool_context",
        gate=True,
    ),
    Case(
        "a class attribute removed",
        lambda copy: copy.edit(RANKS, upstream.gone),
        "sampling.token_ranks",
        f"{RANKS}: Sampler has no attribute gather_logprobs",
    ),
    Case(
        "an attribute that upstream has now",
        lambda copy: copy.edit(NORM, upstream.more_methods("def forward_oot(self, x): ...")),
        "ops.rms_norm",
        f"{NORM}.forward_oot: upstream now has it",
    ),
]
LAUNCHES = [
    Case(
        "a launch with one argument more",
        lambda copy: copy.edit(
            f"{V2}.sample.penalties:bincount",
            upstream.launched_otherwise("_bincount_kernel", upstream.one_more_argument),
        ),
        V2_PATCH,
        f"{V2}.sample.penalties:_bincount_kernel: {V2}.sample.penalties:bincount: launched with 10 positional arguments"
        " instead of 9 since",
        environment=WITH_V2,
    ),
    Case(
        "a keyword of a launch renamed",
        lambda copy: copy.edit(
            f"{V2}.input_batch:post_update",
            upstream.launched_otherwise("_post_update_kernel", upstream.keyword_renamed("num_warps", "num_stages")),
        ),
        V2_PATCH,
        f"{V2}.input_batch:_post_update_kernel: {V2}.input_batch:post_update: keyword 'num_stages' added, keyword"
        " 'num_warps' removed since",
        environment=WITH_V2,
    ),
    Case(
        "a launch moved to another function",
        lambda copy: copy.edit(f"{V2}.sample.min_p:apply_min_p", upstream.split),
        V2_PATCH,
        f"{V2}.sample.min_p:_min_p_kernel: launched in {V2}.sample.min_p:apply_min_p_inside and no longer in"
        f" {V2}.sample.min_p:apply_min_p since",
        environment=WITH_V2,
    ),
    Case(
        "a kernel that a replaced function launches",
        lambda copy: copy.edit(f"{REJECTION}:rejection_random_sample_kernel", upstream.other_body),
        "spec_decode.rejection_sampler",
        f"{REJECTION}:rejection_sample: kernel rejection_random_sample_kernel that it launches changed since",
    ),
    Case(
        "a launch from another module",
        lambda copy: copy.edit(PROPOSER, upstream.launched_otherwise(DRAFTING_KERNEL, upstream.one_more_argument)),
        "spec_decode.drafting",
        f"vllm.v1.spec_decode.utils:{DRAFTING_KERNEL}: {PROPOSER}: ",
    ),
]
# Another one than the sources say, where the patches have the same variants for both.
ASSUMED = "0.33.0" if VERSION == "0.32.0" else VERSION
VERSIONS = [
    Case("a build without tags", lambda _: None, version="0.1.dev1+g5e40263c3.empty", taken_for=VERSION),
    Case(
        "a build without tags in which a required body changed",
        lambda copy: copy.edit(SLOT_MAPPING, upstream.other_body),
        "worker.slot_mapping",
        f"{SLOT_MAPPING}: body changed since",
        version="0.1.dev1+g5e40263c3.empty",
        taken_for=VERSION,
        gate=True,
    ),
    Case("a newer release", lambda _: None, version="0.34.0", taken_for=VERSION),
    Case("a local build", lambda _: None, version=f"{VERSION}+empty"),
    Case("a development build", lambda _: None, version=f"{VERSION}.post1.dev12+gabc"),
    Case(
        "what the user says",
        lambda _: None,
        version="0.1.dev1",
        taken_for=ASSUMED,
        environment={"VLLM_ASCEND_PATCH_ASSUME_VERSION": ASSUMED},
    ),
]


@dataclass
class Outcome:
    folder: Path
    facts: dict[str, Any]
    log: str


def available(case: Case) -> bool:
    """Whether the case's patch can be applied to this version."""
    return not case.patch or case.patch in (upstream.offered() if case.environment else needed())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Outcome]]:
    """Every case in a process of its own, and what became of it."""
    root = tmp_path_factory.mktemp("drift")
    chosen = {case.name: case for case in CASES + LAUNCHES + VERSIONS if available(case)}
    folders = {name: root / str(case) for name, case in chosen.items()}
    for name, case in chosen.items():
        copy = Copy(folders[name])
        case.change(copy)
        if case.version:
            copy.is_version(case.version)
    requests = [
        {
            "folder": str(folders[name]),
            "environment": {"XDG_RUNTIME_DIR": str(folders[name]), **case.environment},
            "modules": case.modules,
            "code": case.code,
            "gate": case.gate,
        }
        for name, case in chosen.items()
    ]
    done = subprocess.run([sys.executable, "-m", "tests.end_to_end.drift_main"], cwd=CHECKOUT, timeout=400,
                          env=overlay_environment(TORCH_DEVICE_BACKEND_AUTOLOAD="0"),
                          input=json.dumps(requests), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for name, folder in folders.items():
        outcome = folder / "outcome.json"
        log = (folder / "log.txt").read_text()
        found[name] = Outcome(folder, json.loads(outcome.read_text()) if outcome.is_file() else {}, log)
    yield found
    for folder in folders.values():
        upstream.remove(folder)


def status_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], int]:
    """The process's entry in `ascend-patch status --json`, and the command's exit code."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    shown = CliRunner().invoke(app, ["status", "--json"], prog_name="ascend-patch")
    (run,) = json.loads(shown.stdout)["runs"]
    (process,) = run["processes"]
    return process, shown.exit_code


@pytest.mark.parametrize("case", CASES + LAUNCHES + VERSIONS, ids=str)
def test_upstream_changed_something(
    case: Case, outcomes: Mapping[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.name not in outcomes:
        pytest.skip(f"vLLM {VERSION} works without {case.patch}")
    outcome = outcomes[case.name]
    assert outcome.facts, outcome.log
    assert outcome.facts["file"].startswith(str(outcome.folder))
    assert "Traceback" not in outcome.log
    required = bool(case.patch) and patches()[case.patch].required
    process, code = status_of(outcome.folder, monkeypatch)
    assert code == (1 if required else 0)
    for states in (outcome.facts["patches"], _pairs(process["patches"])):
        drifted = {id: reason for id, (state, reason) in states.items() if state == "drifted"}
        assert set(drifted) == ({case.patch} if case.patch else set())
        assert case.words in drifted.get(case.patch, "")
        assert "failed" not in {state for state, _ in states.values()}
    sentence = f"patch {case.patch} drifted on vllm {case.version or VERSION}: {case.words}"
    if required:
        assert outcome.facts["refusal"].startswith("RequiredPatchError: "), outcome.facts["refusal"]
        assert f"required {sentence}" in outcome.facts["refusal"]
        assert f"see 'ascend-patch diff {case.patch}'" in outcome.facts["refusal"]
    else:
        assert outcome.facts["refusal"] == ""
        assert (sentence in outcome.log) is bool(case.patch), outcome.log
        others = needed() - {case.patch} if not case.version else set()
        states = outcome.facts["patches"]
        wrong = {id: states[id] for id in others if states[id][0] not in ("pending", "applied")}
        assert not {id for id in wrong if case.patch not in wrong[id][1]}, "only what belongs to it falls with it"
    if case.code:
        assert outcome.facts["result"] is True
    taken_for = process["taken_for"] or {"version": ""}
    assert taken_for["version"] == case.taken_for
    if case.taken_for:
        assert taken_for["reason"] in outcome.log + outcome.facts["refusal"]


def _pairs(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    return {id: (entry["state"], entry.get("reason", "")) for id, entry in entries.items()}


OPERATORS = {
    "vllm.model_executor.layers.layernorm:RMSNorm": rms_norm.rms_norm,
    "vllm.model_executor.layers.layernorm:GemmaRMSNorm": rms_norm.gemma_rms_norm,
    "vllm.model_executor.layers.activation:SiluAndMul": activation.silu_and_mul,
    "vllm.model_executor.layers.activation:NewGELU": activation.gelu_tanh,
    "vllm.model_executor.layers.activation:FastGELU": activation.gelu_tanh,
    "vllm.model_executor.layers.activation:QuickGELU": activation.quick_gelu,
    "vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding": rotary_embedding.rotary_embedding,
}
"""The layers whose `forward_oot` is ours."""


@pytest.mark.parametrize("layer", OPERATORS)
def test_a_subclass_that_upstream_adds_computes_what_it_says(layer: str) -> None:
    """It inherits our `forward_oot`: that must not stand in for a computation of its own."""
    place = Target.parse(layer)
    sources = SourceTree.open(upstream.installed(), package="vllm", version=VERSION)
    methods = ("forward_native", "forward_static") if place.qualname == "RotaryEmbedding" else ("forward_native",)
    for method in methods:
        upstreams = find_definition(sources, Target(place.module, f"{place.qualname}.{method}"))
        assert upstreams is not None and not upstreams.inherited, "our function looks for it under this name"
        scope: dict[str, Any] = {}
        exec(f"""
class {place.qualname}:
    def forward_native(self, *args): return "upstream's"
    def forward_static(self, *args): return "upstream's"
class Added({place.qualname}):
    def {method}(self, *args): return "its own"
class Derived(Added): ...
""", scope)  # fmt: skip
        arguments = ("positions", "query", "key") if place.qualname == "RotaryEmbedding" else ("x",)
        for name in ("Added", "Derived"):
            expected = scope[name]().forward_native(*arguments)
            assert OPERATORS[layer](scope[name](), *arguments) == expected


def test_verify_names_a_subclass_that_escapes_a_patch() -> None:
    if "worker.slot_mapping" not in needed():
        pytest.skip(f"vLLM {VERSION} works without worker.slot_mapping")
    sources = SourceTree.open(upstream.installed(), package="vllm", version=VERSION)
    module = SLOT_MAPPING.partition(":")[0]
    members = {sources.relative(file): file.data for file in map(sources.find, sources.modules()) if file is not None}
    members["vllm/v1/worker/sliding.py"] = (
        f"from {module} import BlockTable\n\n"
        "class SlidingTable(BlockTable):\n    def compute_slot_mapping(self, *args): ...\n"
    ).encode()
    changed = memory_tree("vllm", members, origin="upstream", kind="folder", version=VERSION)
    found = {item.target: item.text for item in check_usage(changed, patches(), ContractStore(contracts_folder()))}
    words = f"vllm.v1.worker.sliding:SlidingTable overrides it since {VERSION}: the patch does not reach them"
    assert found == {SLOT_MAPPING: words}


GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True, "detokenize": False}
NATIVE = "def forward_oot(self, *args, **kwargs):\n    return self.forward_native(*args, **kwargs)"
IN_A_FORWARD_PASS = {
    "ops.rms_norm": lambda copy: copy.edit(NORM, upstream.more_methods(NATIVE)),
    "ops.activation": lambda copy: copy.edit(
        "vllm.model_executor.layers.activation:SiluAndMul", upstream.more_methods(NATIVE)
    ),
    "ops.rotary_embedding": lambda copy: copy.edit(
        "vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding", upstream.more_methods(NATIVE)
    ),
    "sampling.penalties": lambda copy: copy.edit(PENALTIES, upstream.more_parameters),
    "sampling.token_ranks": lambda copy: copy.edit(RANKS, upstream.other_body),
}
"""Optional patches, and how upstream drifts from them."""


def test_a_model_answers_the_same_when_optional_patches_drifted(
    worker: Worker, tiny_llama: str, tmp_path: Path
) -> None:
    expected = worker.call("reference_greedy", folder=tiny_llama, dtype="float32", prompts=prompts(), count=4)
    copy = Copy(tmp_path / "copy")
    drifted = needed() & set(IN_A_FORWARD_PASS)
    assert len(drifted) >= 4
    for id in drifted:
        IN_A_FORWARD_PASS[id](copy)
    process = Worker(tmp_path / "worker.log", PYTHONPATH=str(copy.folder))
    try:
        process.call("load", name="tiny", model=tiny_llama, dtype="float32", skip_tokenizer_init=True)
        answers = process.call("generate", name="tiny", prompts=prompts(), params=GREEDY | {"logprobs": 1})
        states = process.call("status")
        assert process.call("loaded_packages")["vllm"].startswith(str(copy.folder))
    finally:
        code = process.close()
    assert [answer["token_ids"] for answer in answers] == [answer["token_ids"] for answer in expected]
    assert code == 0, process.log_tail()
    assert {id for id, state in states.items() if state == "drifted"} == drifted
    for id in drifted:
        assert f"patch {id} drifted on vllm {VERSION}: " in process.log()
