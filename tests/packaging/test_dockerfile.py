"""The Dockerfile: its instructions and shell, its files, and its steps of pip in a virtual environment."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {"ARG", "FROM", "SHELL", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
SIDE_EFFECTS = ("apt-get", "useradd")
"""Steps that would change this machine."""


def parse(text: str) -> list[tuple[str, str]]:
    """Instructions with their words, continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


STEPS = parse((ROOT / "Dockerfile").read_text())


def words_of(instruction: str) -> list[str]:
    return [words for name, words in STEPS if name == instruction]


def test_instructions_are_known_and_each_shell_step_is_shell():
    assert {name for name, _ in STEPS} <= INSTRUCTIONS and STEPS[0][0] == "ARG" and STEPS[1] == ("FROM", "${BASE}")
    for step in words_of("RUN"):
        assert subprocess.run(["bash", "-n", "-c", step], capture_output=True).returncode == 0, step
        assert "sudo" not in step and ("apt-get install" not in step or "rm -rf /var/lib/apt/lists" in step)
    for name in ("SHELL", "ENTRYPOINT", "CMD"):
        assert all(isinstance(word, str) for word in json.loads(words_of(name)[-1]))
    assert words_of("USER")[-1] != "root" and json.loads(words_of("ENTRYPOINT")[0]) == ["stylegan-ray"]


def test_every_variable_is_an_argument_or_set():
    known = {"PATH", *(words.partition("=")[0] for words in words_of("ARG"))}
    known |= {pair.partition("=")[0] for words in words_of("ENV") for pair in words.split()}
    for name, words in STEPS:
        used = set(re.findall(r"\$\{?([A-Za-z_]+)", words))
        assert used <= known, (name, words)


def test_what_is_copied_is_there_and_not_ignored():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for words in words_of("COPY"):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            kept = False
            for rule in rules:
                if fnmatch.fnmatch(source, rule.removeprefix("!")):
                    kept = rule.startswith("!")
            assert kept, f"{source} is not sent to the builder"


def test_the_base_has_a_python_that_the_package_takes():
    (base,) = (words for words in words_of("ARG") if words.startswith("BASE="))
    assert re.match(r"BASE=python:3\.1[123]-", base)


@pytest.mark.slow
def test_its_steps_of_pip_install_a_command_that_works(tmp_path):
    """What the package needs is taken from this environment, as if the base image had it, so no network is needed."""
    venv, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    env = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{os.environ['PATH']}", "TORCH_INDEX": "file:///nowhere",
        "EXTRAS": "tune", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_EXTRA_INDEX_URL": "",
    }  # fmt: skip
    for name, words in STEPS:
        if name == "COPY":
            *sources, _ = words.split()
            for source in sources:
                path = ROOT / source
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, work / source)
        elif name == "RUN" and not any(program in words for program in SIDE_EFFECTS):
            step = words.replace("/opt/venv", str(venv))
            done = subprocess.run(["bash", "-o", "pipefail", "-c", step], cwd=work, env=env, capture_output=True)
            assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
            if "venv" in words:
                (target,) = venv.glob("lib/python*/site-packages")
                for older in target.glob("setuptools*"):  # that of venv would hide the one of this environment
                    shutil.rmtree(older)
                # .pth files inside these paths, as that of an editable installation of this package, are not read.
                (target / "all.pth").write_text("\n".join([*site.getsitepackages(), ""]))
    done = subprocess.run(["stylegan-ray", "--help"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "doctor" in done.stdout, done.stderr
    assert str(venv) in shutil.which("stylegan-ray", path=env["PATH"]) and sys.prefix not in done.stderr
    where = "import stylegan_ray; print(stylegan_ray.__file__)"
    done = subprocess.run([venv / "bin" / "python", "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.startswith(str(venv)), done.stdout + done.stderr
