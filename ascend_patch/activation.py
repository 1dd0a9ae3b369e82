"""Joins the engine to vLLM: when to patch, on which device, and when to refuse.

Nothing here stops a process that does not start a vLLM engine. What is wrong is kept until a
start gate is imported, and raised there.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ascend_patch
from ascend_patch import _boot, environment
from ascend_patch.engine.errors import OverlayError, RequiredPatchError
from ascend_patch.engine.finder import HookFinder
from ascend_patch.engine.installed import distribution_version

if TYPE_CHECKING:
    from ascend_patch.engine.plan import Plan
    from ascend_patch.engine.registry import Registry

log = logging.getLogger("ascend_patch")

# Every way into an engine builds its arguments first; inspecting a model or a config does not.
START_GATES = ("vllm.engine.arg_utils",)
RIVAL = "vllm-ascend"


class _Activation:
    """This process's state."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.finder: HookFinder | None = None
        self.decided = False
        self.asked_for = True
        self.reason = "vllm has not been imported"
        self.blocker: Exception | None = None
        self.recorder: Any = None


_state = _Activation()


# -- called by the boot finder ---------------------------------------------------------------------


def take_over(boot: object) -> HookFinder:
    """Put our finder where the boot finder was. Called again it returns the same finder."""
    with _state.lock:
        if _state.finder is None:
            finder = HookFinder()
            finder.before(_boot.PACKAGE, lambda _: activate())
            finder.before(_boot.BACKEND, _before_backend)
            finder.after(_boot.BACKEND, _after_backend)
            for gate in START_GATES:
                finder.before(gate, _refuse_if_blocked)
            _replace_in_meta_path(boot, finder)
            _state.finder = finder
        return _state.finder


def _replace_in_meta_path(old: object, new: HookFinder) -> None:
    """In place, so that an import that is walking the list right now goes on with the finder behind us."""
    path: list[Any] = sys.meta_path
    if old in path:
        path[path.index(old)] = new
    else:
        path.insert(0, new)


def catch_up() -> None:
    """The overlay came after the package: patch what is there, rewrite aliases, name the early importers."""
    if _boot.PACKAGE in sys.modules:
        # vLLM loads every installed plugin. One that nobody asked for must not talk on a machine with GPUs.
        _state.asked_for = ascend_patch.requested
        activate()
        if any(gate in sys.modules for gate in START_GATES):
            _refuse_if_blocked(None)


def plugin() -> None:
    """The ``vllm.general_plugins`` entry point: the second way in, for processes that the first did not reach."""
    if ascend_patch.active:
        _boot.install()
        catch_up()


# -- the public functions --------------------------------------------------------------------------


def overlay() -> Any:
    """The `Overlay` of this process, or None while it is inactive."""
    from ascend_patch.engine import overlay as engine

    return engine.current()


def status() -> list[Any]:
    """A `PatchStatus` for every patch in this process; empty while the overlay is inactive."""
    current = overlay()
    return [] if current is None else current.status()


def undo(*ids: str) -> Any:
    """Take patches back in this process, all without arguments; see `Overlay.undo`."""
    current = overlay()
    if current is None:
        raise OverlayError(f"the overlay is not active in this process: {why_inactive()}")
    return current.undo(*ids)


def why_inactive() -> str:
    """Why there is no overlay in this process, '' when there is one."""
    return str(_state.blocker) if _state.blocker is not None else _state.reason


# -- deciding --------------------------------------------------------------------------------------


def activate() -> None:
    """Decide what to do in this process and do it; once, and never raising (see `START_GATES`)."""
    with _state.lock:
        if _state.decided:
            return
        _state.decided = True
    try:
        _activate()
    except Exception as error:
        # Kept for the gate: this process may only be looking at the package.
        _state.blocker = error


def _activate() -> None:
    from ascend_patch import settings as settings_
    from ascend_patch.engine import recording

    settings = settings_.load()
    device = decide_device(settings.device)
    if device.device is None:
        _state.reason = device.reason
        _, first = recording.current_run()
        if first:
            log.log(logging.WARNING if _state.asked_for else logging.INFO, "inactive: %s", device.reason)
        return
    rival = distribution_version(RIVAL)
    if rival is not None:
        raise RequiredPatchError(
            f"{RIVAL} {rival} is installed and changes the same functions: run 'pip uninstall {RIVAL}', "
            f"or set VLLM_ASCEND_AUTOPATCH=0 to use it without this overlay"
        )
    _overlay(settings, device)
    _state.reason = ""


def _overlay(settings: Any, device: environment.DeviceDecision) -> None:
    from ascend_patch.engine import overlay as engine
    from ascend_patch.engine import recording

    patches, plan = _decided(settings)
    run, first = recording.current_run()
    overlay = engine.Overlay(
        engine.Package(_boot.PACKAGE, start_gates=START_GATES), plan, patches, finder=_state.finder, warn=first
    )
    engine.set_current(overlay)
    _state.recorder = recording.Recorder(overlay, role=role, facts=lambda: {"device": device.device, "run": run})
    overlay.on_change = _state.recorder.changed
    overlay.install()


def _decided(settings: Any) -> tuple[Registry, Plan]:
    """The patches there are and what happens to each: as an earlier process found, or found now and kept.

    Raises:
        SettingsError: unknown or contradictory settings; such are never kept.
    """
    from ascend_patch import cache, engine
    from ascend_patch.engine import kept
    from ascend_patch.engine.sources import SourceTree

    tree = SourceTree.open(package=_boot.PACKAGE)
    assumption = (settings.assume_version, settings.origins.get("assume_version", ""))
    own = (str(contracts_folder().parent), engine.__path__[0])
    question = kept.Question(tree.package, tree.origin, tree.stated_version or "", settings.selection, assumption, own)
    plans = cache.root() / "plans"
    answer = kept.recall(plans, question)
    if answer is None:
        from ascend_patch.engine import registry
        from ascend_patch.engine.contracts import ContractStore
        from ascend_patch.engine.planning import make_plan, with_usage
        from ascend_patch.engine.standing import assumed

        patches = registry.load()
        settings.validate(patches)
        store = ContractStore(contracts_folder())
        plan = make_plan(patches, tree, store, settings.selection, assumed(*assumption))
        plan = with_usage(plan, patches, tree, store)
        answer = kept.Answer(patches, plan)
        kept.keep(plans, question, answer, tree)
    return answer.registry, answer.plan


def contracts_folder() -> Path:
    """Where the contract files are."""
    from ascend_patch import patches

    return Path(patches.__path__[0]) / "contracts"


def decide_device(wish: str) -> environment.DeviceDecision:
    """Which device to use, or None with the reason; see `environment.decide_device`.

    Args:
        wish: ``auto``, ``npu`` or ``host``.

    Raises:
        RequiredPatchError: the wish cannot be fulfilled.
    """
    decision = environment.decide_device(wish)
    if decision.device == "npu" and not environment.has_npu_device():
        raise RequiredPatchError(
            "ASCEND_PATCH_DEVICE=npu, but there is no Ascend NPU here (no /dev/davinci*): "
            "check the driver, or set ASCEND_PATCH_DEVICE=host"
        )
    if decision.device is not None and distribution_version("torch-npu") is None:
        remedy = "install the torch-npu that matches your torch"
        if wish == "auto":
            return environment.DeviceDecision(None, f"torch-npu is not installed: {remedy}")
        raise RequiredPatchError(f"ASCEND_PATCH_DEVICE={wish} needs torch-npu, which is not installed: {remedy}")
    return decision


def _refuse_if_blocked(_: ModuleType | None) -> None:
    if _state.blocker is not None:
        if isinstance(_state.blocker, OverlayError):
            raise type(_state.blocker)(str(_state.blocker)) from None
        raise RequiredPatchError(f"the overlay could not be prepared: {_state.blocker}") from _state.blocker


# -- torch_npu on the host CANN --------------------------------------------------------------------


def _before_backend(_: ModuleType) -> None:
    _on_host(lambda hostcann: hostcann.load())


def _after_backend(_: ModuleType) -> None:
    _on_host(lambda hostcann: hostcann.attach())


def _on_host(action: Callable[[Any], None]) -> None:
    """Call hostcann when it is the device; otherwise leave torch_npu to the CANN that is installed, or not."""
    from ascend_patch import settings

    try:
        wanted = settings.load().device == "host"
    except settings.SettingsError:
        return  # raised at the start gate; here nobody may have asked for vLLM
    if wanted:
        from ascend_patch import hostcann

        action(hostcann)


# -- roles -----------------------------------------------------------------------------------------


def role() -> str:
    """What this process is in a vLLM instance, from its arguments and its multiprocessing name."""
    if "vllm.model_executor.models.registry" in sys.orig_argv:
        return "model inspection"
    process = sys.modules.get("multiprocessing.process")
    name: str = process.current_process().name if process is not None else "MainProcess"
    for prefix, title in (("EngineCore", "EngineCore"), ("VllmWorker", "Worker"), ("Worker", "Worker")):
        if name.startswith(prefix):
            return title + name[len(prefix) :]
    return "main" if name == "MainProcess" else name
