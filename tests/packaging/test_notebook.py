"""The notebook for one free GPU: its form, and all its cells in order, by a small stand-in for IPython."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.jobs import isolated

from stylegan_ray.options import train_options

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "free_gpu.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
SHELL = re.compile(r"^( *)([!%])(.*)$", re.MULTILINE)


def sources() -> list[str]:
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def as_python(source: str) -> str:
    """A cell in which lines of shell are calls of `shell`, as IPython reads them: words in braces are Python."""
    return SHELL.sub(lambda match: f"{match[1]}shell({match[3]!r}, globals())", source)


def fill(line: str, names: dict) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), line)


def shell(line: str, names: dict) -> None:
    """Runs a line in the process namespace of its own, so that nothing of it stays; it must succeed."""
    command = fill(line, names).strip()
    assert command.startswith("stylegan-ray "), "nothing is installed here"
    words = [sys.executable, "-c", "from stylegan_ray.cli import main; main()", *shlex.split(command)[1:]]
    done = subprocess.run(isolated(words), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_it_is_a_notebook_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    for source in sources():
        compile(as_python(source), "cell", "exec")
    assert [source for source in sources() if source.startswith("QUICK = False")]


@pytest.mark.parametrize("package", ["", "stylegan-ray", "https://example.com/repository"])
def test_the_package_is_not_looked_for_in_a_registry(monkeypatch, package):
    """Where the name may be that of somebody else's package."""
    (cell,) = [source for source in sources() if "%pip" in source]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    installed: list[str] = []
    names = {"shell": lambda line, there: installed.append(fill(line, there))}
    with pytest.raises(ValueError, match=r"PACKAGE=.*git\+https://\.\.\., nor the path of a wheel; name one"):
        exec(as_python(cell), names | {"PACKAGE": package})
    for good in ("git+https://example.com/repository", "/content/stylegan_ray-0.1.0-py3-none-any.whl"):
        exec(as_python(cell), names | {"PACKAGE": good})
        assert good in installed.pop()
    assert not installed


@pytest.mark.parametrize("quick", [False, True])
def test_its_training_is_a_command_that_the_command_line_takes(quick):
    parameters, (cell,) = sources()[0], [source for source in sources() if "!stylegan-ray train" in source]
    names: dict = {}
    exec(parameters, names)
    names["QUICK"] = quick
    lines = []
    exec(as_python(cell), names | {"shell": lambda line, there: lines.append(fill(line, there))})
    options = train_options(shlex.split(lines[0])[2:])
    assert options.cfg.run.preset == "auto" and options.cfg.data.path == "openmoji"
    assert options.cfg.train.total_kimg == (0.128 if quick else 1000)


@pytest.mark.cluster
def test_all_cells_work_and_work_again(tmp_path, monkeypatch):
    """The second time the run is finished, as on a machine that was taken away after the training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path / "elsewhere"))  # restored after the test
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    for _ in range(2):
        names: dict = {"shell": shell}
        for source in sources():
            exec(as_python(source.replace("QUICK = False", "QUICK = True")), names)
    run = Path(names["RUN"])
    assert run.parent == tmp_path / "stylegan_ray_runs" and (run / "network-final.safetensors").exists()
    assert (run / "report.html").exists()
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4 * 8, 4 * 8)
