"""Many images in Ray tasks: the same bytes for any number of tasks, and after SIGKILL."""

import os
import sys
from dataclasses import replace

import pytest
from support.jobs import Job
from support.toy import toy_config, toy_state

ray = pytest.importorskip("ray")

from stylegan_ray.cluster.task_pool import TaskPool  # noqa: E402
from stylegan_ray.images.many import MANIFEST, PartWriter, Recipe, parts_of  # noqa: E402
from stylegan_ray.interop import save_network  # noqa: E402
from stylegan_ray.lease import PREFIX  # noqa: E402
from stylegan_ray.run_folder import snapshot_name  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
RECIPE = Recipe("sha", 0.7, None, None, "random", "png", batch=4, shard=8, device="cpu")


def contents(folder):
    """Files by name; one that is being written is left out, since it may vanish, and so is the lease of a command."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix != ".part" and not path.name.startswith(PREFIX)]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("kind", ["png", "tar"])
def test_tasks_write_what_this_process_writes(tmp_path, kind):
    recipe, G = replace(RECIPE, format=kind), toy_state(toy_config()).G_ema
    here = PartWriter(G, (-1, 1), 0.0, recipe, str(tmp_path / "here"))
    parts = list(parts_of(recipe, 22))
    for part in parts:
        here(part)
    done = TaskPool(replace(here, address=str(tmp_path / "tasks")), 2).as_they_come(parts)
    assert sum(num for _, num in done) == 22
    assert contents(tmp_path / "tasks") == contents(tmp_path / "here")


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["png", "tar"])
def test_a_killed_command_goes_on(tmp_path, kind):
    cfg = toy_config()
    network, state = tmp_path / snapshot_name(1000), toy_state(cfg)
    network.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, 1000))

    def command(n, outdir):
        words = (str(network), "--n", str(n), "--outdir", str(tmp_path / outdir), "--format", kind, "--shard", "64")
        return Job("generate", *words, storage=tmp_path, log=tmp_path / "log")

    killed, num = command(1500, "killed"), 1500 if kind == "png" else 24
    killed.wait_for(lambda: (tmp_path / "killed").exists() and len(os.listdir(tmp_path / "killed")) > num / 10)
    killed.kill()
    before = contents(tmp_path / "killed")
    assert len(before) < num, "it was done before it was killed"
    again = command(1500, "killed")
    assert again.wait() == 0, again.text()
    assert "1500 made" not in again.text()
    assert command(1500, "whole").wait() == 0
    after = contents(tmp_path / "killed")
    assert after == contents(tmp_path / "whole") and len(after) == num + 1
    assert all(after[name] == content for name, content in before.items())
    assert MANIFEST in after and set(os.listdir(tmp_path / "killed")) == set(after)
