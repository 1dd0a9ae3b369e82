"""What all tests share: nothing here imports torch or vLLM."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import results

CHECKOUT = Path(__file__).resolve().parent.parent
# Before anything imports torch: small tensors are slower on several threads, and the machine is shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(CHECKOUT / "scripts"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FOLDER", type=Path, help="where to keep what each feature's tests said")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--results")
    if folder is not None and not hasattr(config, "workerinput"):  # the process that sees all reports
        config.pluginmanager.register(results.Results(folder, config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    results.label(items)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder of the repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def demo_model_folder() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder; `make test` puts it there."""
    import demo_model

    if not demo_model.is_ready():
        pytest.fail("the demo model is missing: run `make setup`", pytrace=False)
    return demo_model.model_dir()


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> Iterator[None]:
    """No download, no usage report from any process that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.setenv("VLLM_DO_NOT_TRACK", "1")
        yield
