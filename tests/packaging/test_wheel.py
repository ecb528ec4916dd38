"""A wheel, not an editable installation, contains all that its console script needs in another working directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.data_sets import numbered, write_folder
from support.jobs import isolated, small_model

ROOT = Path(__file__).parents[2]


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since a build leaves files behind
    shutil.copytree(ROOT / "stylegan_ray", source / "stylegan_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--target", folder / "site", wheel)
    return folder / "site"


@pytest.fixture
def run(site, tmp_path):
    """Runs the console script with no other copy of the package in sight; returns the finished process."""
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), *packages]),
        "STYLEGAN_RAY_CACHE": str(tmp_path / "cache"),
    }

    def run(*words: str | Path) -> subprocess.CompletedProcess:
        # -S: the site module would add what an editable installation of this environment points to.
        command = [sys.executable, "-S", str(site / "bin" / "stylegan-ray"), *map(str, words)]
        return subprocess.run(isolated(command), cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def test_all_data_files_are_installed(site):
    for pattern in ("presets/*.yaml", "metrics/*.safetensors"):
        files = list((ROOT / "stylegan_ray").glob(pattern))
        assert files
        for file in files:
            assert (site / file.relative_to(ROOT)).read_bytes() == file.read_bytes()


def test_neither_benchmarks_nor_tests_are_installed(site):
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"stylegan_ray", "bin"}


def test_train_plans_a_run_in_another_folder(run, tmp_path):
    write_folder(tmp_path / "images", numbered(3))
    words = "--data.resolution 16 --model.fmap_base 64 --model.fmap_max 8 --model.mapping_layers 2"
    done = run("train", "config-e-Gorig-Dskip", "images", *words.split(), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "preset: config-e-Gorig-Dskip" in done.stdout and "16x16" in done.stdout


@pytest.mark.cluster
def test_the_doctor_agrees_and_a_packaged_preset_trains_with_a_packaged_detector(run, tmp_path):
    done = run("doctor", "--storage", tmp_path / "runs")
    assert "Nothing prevents training" in done.stdout, done.stdout + done.stderr
    write_folder(tmp_path / "images", numbered(20))
    words = [*small_model(), "--data.resolution", "8", "--data.resize", "box", "--metrics.names", "fid20_tiny"]
    done = run("train", "tiny", "images", *words, "--run.storage", tmp_path / "runs", "--run.name", "run")
    assert done.returncode == 0 and "fid20_tiny" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "runs" / "run" / "network-final.safetensors").exists()


def test_benchmark_names_the_repository_in_one_line(run):
    done = run("benchmark", "step")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "repository" in done.stderr and "jobs/benchmark.py" in done.stderr
