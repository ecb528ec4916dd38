"""Law 5: everything outside stylegan_ray/cluster is imported, trains and reads network files without Ray."""

import os
import subprocess
import sys

PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

class NoRay(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoRay())
import stylegan_ray

modules = [module.name for module in pkgutil.walk_packages(stylegan_ray.__path__, "stylegan_ray.")]
core = [name for name in modules if name.split(".")[1] not in ("cluster", "__main__")]
for name in core:
    importlib.import_module(name)
assert len(core) > 50, core

import math
import torch
from stylegan_ray.interop import load_network, save_network
from stylegan_ray.rng import SeededDraws
from stylegan_ray.train.step import train_iteration
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

cfg = toy_config()
state = toy_state(cfg)
stats = train_iteration(state, cfg, next(toy_minibatches(cfg)), SeededDraws(0, 0, ToySet()))
assert state.cur_nimg == cfg.schedule.minibatch_size and math.isfinite(stats["Loss/D/loss"])

with open("network.safetensors", "wb") as file:
    file.write(save_network(state.G, state.D, state.G_ema, cfg, state.cur_nimg))
G_ema = load_network("network.safetensors")["G_ema"]
assert torch.equal(G_ema.w_avg, state.G_ema.w_avg)
assert not any(name.partition(".")[0] == "ray" for name in sys.modules)
"""


def test_the_core_works_where_ray_is_not_installed(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
