"""Evaluation of a growing generator of non-square images."""

import numpy as np
import torch

from stylegan_ray.config import load_config
from stylegan_ray.metrics.blocks import BLOCK, BlockWorker, Plan, Task
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.networks import build_generator


def test_features_and_paths_of_non_square_images_at_a_lod(data, color_detector):
    keys = {"z_dim": 4, "w_dim": 4, "mapping_fmaps": 4, "mapping_layers": 2, "fmap_max": 4}
    cfg = load_config("config-b", {f"model.{key}": value for key, value in keys.items()})
    torch.manual_seed(0)
    G = build_generator(cfg.model, (24, 16), 3, 0).eval()
    found = []
    for lod in (0.0, 1.5):
        plan = Plan(tuple(parse_metrics(("fid500_tiny", "ppl_wend_tiny"))), lod=lod, noise="const")
        worker = BlockWorker(plan, G, data, {"tiny": color_detector})
        found.append(worker.run(Task("fake", "", 0))["features/tiny"])
        distances = worker.run(Task("path", "ppl_wend_tiny", 0))["distances"]
        assert np.isfinite(distances).all() and distances.shape == (BLOCK,)
    assert found[0].shape == (BLOCK, 6) and not np.allclose(found[0], found[1]), "the lod has no effect"
