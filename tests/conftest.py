"""What all tests share: one thread, reproducible randomness, hypothesis profiles, the reference data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

from tiers import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401 (hooks)

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("deterministic", derandomize=True, database=None, deadline=None, max_examples=30)
settings.register_profile("thorough", database=None, deadline=None, max_examples=500, print_blob=True)
# For deliberate mistakes: that a test fails is all that is asked.
settings.register_profile(
    "first-failure",
    settings.get_profile("deterministic"),
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
settings.load_profile("deterministic")  # `--hypothesis-profile=thorough` on the command line still wins


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Several workers share the cores, and sums are then taken in the same order on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global torch seed, so that fresh modules are the same each time."""
    torch.manual_seed(0)


@pytest.fixture(params=(0, 1, 2), ids=lambda seed: f"seed{seed}")
def seed(request: pytest.FixtureRequest) -> int:
    """Three small seeds; a test that asks for it runs once with each."""
    return request.param


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """A CPU generator started from `seed`."""
    return torch.Generator().manual_seed(seed)


def shared_data() -> Path:
    """The folder of reference data (JACOBOUND_SHARED_DATA, or beside the repository); skips when absent."""
    named = os.environ.get("JACOBOUND_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no reference data here; set JACOBOUND_SHARED_DATA to its folder")
    return folder


@pytest.fixture(name="shared_data", scope="session")
def shared_data_fixture() -> Path:
    """`shared_data()` as a fixture."""
    return shared_data()
