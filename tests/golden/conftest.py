"""Finds the golden files: by group, in $STYLEGAN_RAY_GOLDEN or beside this file."""

import os
from pathlib import Path

import pytest
from support.golden_checks import read

ROOT = Path(os.environ.get("STYLEGAN_RAY_GOLDEN", Path(__file__).parent))


def pytest_collection_modifyitems(config, items):
    """Ways of computing run with `-m ways`, those that compile with `-m "ways and slow"`; else only the chosen way."""
    left_out = [mark for mark in ("ways", "slow") if mark not in config.option.markexpr]
    forced = [item for item in items if item.get_closest_marker("ways")]
    dropped = [item for item in forced if any(item.get_closest_marker(mark) for mark in left_out)]
    if dropped:
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)


def pytest_generate_tests(metafunc):
    """Parametrises `golden_file` with the files that the test's `golden_files(group, pattern)` mark names."""
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
