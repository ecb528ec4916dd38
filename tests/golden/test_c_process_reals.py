"""Real images as D sees them: value range, mirror, blend between levels of detail, upscaling."""

import numpy as np
import pytest
import torch

from stylegan_ray.data.process_reals import process_reals

pytestmark = [pytest.mark.golden, pytest.mark.golden_files("c_schedule", "process_reals*.npz")]


def test_process_reals(golden):
    meta, arrays = golden
    assert meta["runs"]
    for run in meta["runs"]:
        assert run.get("drange_data", [0, 255]) == [0, 255]
        images = torch.from_numpy(arrays[f"in:{run['input']}"])
        uniform = arrays[f"in:{run['mirror_uniform']}"] if run["mirror_augment"] else None
        mirror = None if uniform is None else torch.from_numpy(uniform >= 0.5)
        drange_net = tuple(run.get("drange_net", (-1, 1)))
        wanted = arrays[f"out:{run['output']}"]
        for dtype in (torch.float32, torch.float64):
            got = process_reals(images, run["lod"], mirror, drange_net, dtype=dtype)
            assert got.dtype == dtype
            tolerance = 2e-5 * np.abs(wanted).max()
            np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=tolerance, err_msg=run["output"])
