"""Finds the golden files: by group, in $STYLEGAN_RAY_GOLDEN or beside this file."""

import os
from pathlib import Path

import pytest
from support import ways
from support.golden_checks import read

ROOT = Path(os.environ.get("STYLEGAN_RAY_GOLDEN", Path(__file__).parent))


def pytest_collection_modifyitems(config, items):
    """`-m golden` runs each test one way, `-m ways` in the eager ways, `-m "ways and slow"` in the compiled ones."""
    asked = config.option.markexpr
    dropped = [item for item in items if item.get_closest_marker("golden") and not is_wanted(item, asked)]
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def is_wanted(item, asked):
    """Whether a mark expression means a golden test: pytest itself knows no marks that exclude others."""
    if "slow" not in asked and item.get_closest_marker("slow"):
        return False
    return asked != "golden" or ways.is_chosen(item)


def pytest_generate_tests(metafunc):
    """Parametrizes `golden_file` with the files that the test's `golden_files(group, pattern)` mark names."""
    mark = metafunc.definition.get_closest_marker("golden_files")
    if mark is None:
        return
    group, pattern = mark.args
    files = sorted((ROOT / group).glob(pattern))
    # A group without files is a failure, so it still makes one test, which fails in the fixture.
    metafunc.parametrize("golden_path", files or [ROOT / group / pattern], ids=lambda path: path.stem)


@pytest.fixture
def golden(golden_path):
    """(meta, arrays) of one golden file; the group being empty fails the test."""
    if not golden_path.is_file():
        pytest.fail(f"no golden files match {golden_path}")
    return read(golden_path)


@pytest.fixture
def golden_folder():
    """The folder that holds the groups."""
    return ROOT


@pytest.fixture
def way(request):
    """The test computes in the way that it names; `way(network)` prepares a network for it (support/ways.py)."""
    with request.param() as prepare:
        yield prepare
