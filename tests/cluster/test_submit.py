"""`ray job submit` as the front door: a small upload, a token, a log, a stop, and still the same run comes out."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import namespaces
from support.jobs import ROOT, Job, rows_without_times, small_model

ray = pytest.importorskip("ray")

from stylegan_ray.config import ConfigError, load_config  # noqa: E402
from stylegan_ray.run_folder import refuse_relative_paths  # noqa: E402

MOST_UPLOADED = 2 << 20
OPTIONS = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--train.checkpoint_ticks", "1"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git tells which files Ray would ignore")
def test_what_is_uploaded_is_small_and_whole(tmp_path):
    """Ray uploads the working directory without what .gitignore and .rayignore name."""

    def git(*words, **options):
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, **options)
        return done.stdout.splitlines()

    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    ignored = git(
        "-c",
        f"core.excludesFile={ROOT / '.rayignore'}",
        "check-ignore",
        "--no-index",
        "--stdin",
        input="\n".join(files),
    )
    names = {name for name in files if (ROOT / name).is_file()} - set(ignored)
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(ROOT / name, name)
    assert package.stat().st_size < MOST_UPLOADED
    assert {"jobs/train.py", "stylegan_ray/cli.py", "stylegan_ray/presets/config-f.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests/", ".git/"))]


@pytest.mark.parametrize(
    ("keys", "environment", "message"),
    [
        ({"run.storage": "runs"}, None, "run.storage='runs'"),
        ({"data.path": "pictures.zip", "run.storage": "/runs"}, None, "data.path='pictures.zip'"),
        ({}, "runs", r"\$STYLEGAN_RAY_STORAGE='runs'"),
    ],
)
def test_relative_paths_are_refused_in_a_job(monkeypatch, keys, environment, message):
    cfg = load_config("config-f", keys)
    if environment:
        monkeypatch.setenv("STYLEGAN_RAY_STORAGE", environment)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    refuse_relative_paths(cfg, None)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=message):
        refuse_relative_paths(cfg, None)


def python_without_package(folder: Path) -> Path:
    """A Python that has everything but this package, so that a job can only take it from its working directory."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (target,) = folder.glob("lib/python*/site-packages")
    # Paths named in a .pth file are searched, but .pth files inside them (an editable install is one) are not read.
    (target / "all.pth").write_text("\n".join([*site.getsitepackages(), ""]))
    python = folder / "bin" / "python"
    env = {**os.environ, "PYTHONPATH": ""}
    found = subprocess.run([python, "-c", "import stylegan_ray"], cwd=folder, env=env, capture_output=True)
    if not found.returncode:
        pytest.skip("this package is installed in a way that cannot be hidden from a job")
    return python


START = (
    "ray start --head --node-ip-address=127.0.0.1 --port=6399 --num-cpus=2 --dashboard-port=8265 "
    "--object-store-memory=150000000 --disable-usage-stats"
)


def head_setup(folder: Path, python: Path) -> str:
    """A head on loopback, with a token in its home."""
    return f"""
        mkdir {folder}/tmp && mount --bind {folder}/tmp /tmp/ray
        ray() {{ {python} -m ray.scripts.scripts "$@"; }}
        export -f ray
        ray get-auth-token --generate > /dev/null
        {START}
        export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265
    """


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    """The run on this machine alone."""
    storage = tmp_path_factory.mktemp("undisturbed")
    job = Job("train", "config-f", str(pictures), *OPTIONS, storage=storage, log=storage / "log")
    assert job.wait(400) == 0, job.text()
    return storage / "run"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    if not namespaces.are_allowed():
        pytest.skip(namespaces.WHY_NOT)
    folder = tmp_path_factory.mktemp("head")
    python = python_without_package(folder / "venv")
    env = namespaces.clean_environment(
        folder, PATH=f"{python.parent}:{os.environ['PATH']}", PYTHONPATH="", RAY_JOB_STOP_WAIT_TIME_S="60"
    )
    head = namespaces.Namespaces(folder, head_setup(folder, python), env)
    try:
        head.wait_until_ready()
        yield head
    finally:
        head.kill()


def submit(pictures: Path, *words: str, options: str = "") -> str:
    command = ["jobs/train.py", "config-f", str(pictures), *OPTIONS, *words]
    return f"ray job submit {options} --working-dir . -- python " + " ".join(f"'{word}'" for word in command)


@pytest.mark.cluster
def test_a_wrong_token_opens_nothing(head):
    status, said = head.run("wrong", "RAY_AUTH_TOKEN=wrong ray job list")
    assert status != 0 and "Invalid authentication token" in said


@pytest.mark.cluster
def test_a_job_that_fails_says_why_and_has_a_status(head, pictures):
    status, said = head.run("fails", submit(pictures, "--run.storage", "runs"))
    assert status != 0 and "error: run.storage='runs' is relative" in said, said


@pytest.mark.cluster
def test_where_nodes_have_the_package_a_job_needs_no_repository(head, pictures):
    """The command is in the job's PATH, as on nodes where the package is installed."""
    source, installed = head.folder / "source", head.folder / "installed"
    shutil.copytree(ROOT / "stylegan_ray", source / "stylegan_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    python = head.folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--quiet", "--target", str(installed), str(source)], check=True)
    env = {
        "PYTHONPATH": str(installed),
        "PATH": f"{installed / 'bin'}:{os.environ['PATH']}",
        "STYLEGAN_RAY_STORAGE": str(head.folder / "storage"),
    }
    submit = f"cd / && ray job submit --runtime-env-json '{json.dumps({'env_vars': env})}' --"
    status, said = head.run("job-doctor", f"{submit} stylegan-ray doctor")
    assert status == 0 and "Nothing prevents training on this cluster" in said, said
    words = " ".join(f"'{word}'" for word in [*OPTIONS[: OPTIONS.index("--run.name")], "--run.name", "installed"])
    status, said = head.run("installed", f"{submit} stylegan-ray train config-f {pictures} {words}")
    assert status == 0 and (head.folder / "storage" / "installed" / "network-final.safetensors").exists(), said


@pytest.mark.cluster
def test_submitted_stopped_submitted_again_ends_as_if_undisturbed(undisturbed, head, pictures):
    run = head.folder / "storage" / "run"
    env = json.dumps({"env_vars": {"STYLEGAN_RAY_STORAGE": str(run.parent)}})
    first = head.start("first", submit(pictures, options=f"--submission-id first --runtime-env-json '{env}'"))
    head.wait_for(lambda: (run / "checkpoints" / "ckpt-000000000080" / "COMPLETE").exists(), while_running="first")
    status, said = head.run("stop", "ray job stop first")
    assert status == 0 and "was stopped" in said, said
    head.wait_for(lambda: head.status("first") is not None)
    assert "tick 0" in first.read_text() and "2 workers on CPU" in first.read_text(), "the log is streamed"
    assert not (run / "network-final.safetensors").exists(), "the stop came too late to mean anything"
    stood = sorted(os.listdir(run / "checkpoints"))[-1]

    status, said = head.run("second", submit(pictures))
    assert status == 0 and f"from {stood}" in said, said
    expected = load_file(undisturbed / "network-final.safetensors")
    for name, value in load_file(run / "network-final.safetensors").items():
        assert value.equal(expected[name]), name
    assert rows_without_times(run) == rows_without_times(undisturbed)


@pytest.mark.cluster
def test_after_the_loss_of_the_head_the_same_command_continues(undisturbed, head, pictures):
    """A head that is killed takes jobs, workers and all that it knew with it, but not the run."""
    run = head.folder / "storage" / "lost"
    env = json.dumps({"env_vars": {"STYLEGAN_RAY_STORAGE": str(run.parent)}})
    command = submit(pictures, "--run.name", "lost", options=f"--runtime-env-json '{env}'")
    head.start("lost", command)
    head.wait_for(lambda: (run / "checkpoints" / "ckpt-000000000080" / "COMPLETE").exists(), while_running="lost")
    assert head.run("kill", "ray stop --force")[0] == 0
    head.wait_for(lambda: head.status("lost") is not None)
    # No word on its status: Ray 2.60 gives 0 where the log breaks off and the last it knows is that the job runs.
    assert not (run / "network-final.safetensors").exists(), "the kill came too late to mean anything"
    # Ray gives its parts 30 s to start, which a busy machine may exceed.
    again = f"for attempt in 1 2 3; do {START} && exit 0; ray stop --force; done; exit 1"
    status, said = head.run("start", again)
    assert status == 0, said
    status, said = head.run("again", command)
    assert status == 0 and "from ckpt-" in said, said
    expected = load_file(undisturbed / "network-final.safetensors")
    for name, value in load_file(run / "network-final.safetensors").items():
        assert value.equal(expected[name]), name
    assert rows_without_times(run) == rows_without_times(undisturbed)
