"""G_ema as a program for other runtimes: ONNX and torch.export."""

import io

import numpy as np
import pytest
import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import onnx, torch_export
from stylegan_ray.interop.loading import load
from stylegan_ray.interop.native import Networks

TOLERANCE = 1e-3
"""Largest difference of an image in -1..1 from ours."""


def networks_of(made, labels, **overrides):
    cfg, _, _, G_ema = made((8, 6) if labels else 8, 3, labels, **overrides)
    for name, parameter in G_ema.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    return Networks(None, None, G_ema.eval(), config=cfg, lod=0.5 if cfg.model.family != "stylegan2" else 0.0)


def inputs(networks, num):
    seeds = [np.random.RandomState(seed).randn(1, networks.G_ema.z_dim) for seed in range(num)]
    labels = torch.eye(2).repeat(num, 1)[:num] if networks.G_ema.label_size else None
    return torch.tensor(np.concatenate(seeds), dtype=torch.float32), labels


def check_onnx(networks):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    written = onnx.write(networks)
    session = runtime.InferenceSession(written.content, options, providers=["CPUExecutionProvider"])
    z, labels = inputs(networks, 16)
    given = {"z": z.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    assert {i.name for i in session.get_inputs()} == set(given)
    assert [i.name for i in session.get_overridable_initializers()] == ["psi"]
    (images,) = session.run(["images"], given)
    assert images.dtype == np.float32
    G, lod = networks.G_ema, networks.lod
    with torch.no_grad():
        assert np.abs(images - G(z, labels, lod=lod).numpy()).max() < TOLERANCE
        for num in (1, 3):
            part = {name: value[:num] for name, value in given.items()}
            (images,) = session.run(None, part | {"psi": np.array(0.6, np.float32)})
            label = None if labels is None else labels[:num]
            assert np.abs(images - G(z[:num], label, psi=0.6, lod=lod).numpy()).max() < TOLERANCE
            (of_one,) = session.run(None, part | {"psi": np.array([0.6], np.float32)})
            np.testing.assert_array_equal(of_one, images)
    return session


def check_torch_export(networks):
    content = torch_export.write(networks).content
    program = torch.export.load(io.BytesIO(content)).module()
    z, labels = inputs(networks, 5)
    rest = () if labels is None else (labels,)
    G, lod = networks.G_ema, networks.lod
    with torch.no_grad():
        for psi in (1.0, 0.6):
            torch.testing.assert_close(program(z, torch.tensor(psi), *rest), G(z, labels, psi=psi, lod=lod))
        alone = program(z[:1], torch.tensor(1.0), *(part[:1] for part in rest))
        torch.testing.assert_close(alone, G(z[:1], None if labels is None else labels[:1], lod=lod))
    return content


def test_onnx_of_a_conditional_network(made):
    """Not square, grouped convolutions in training, noise on, a truncation that can be changed."""
    session = check_onnx(networks_of(made, 2, **{"model.fused_modconv": "grouped"}))
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("z", ["batch", 6]), ("labels", ["batch", 2])]
    assert session.get_outputs()[0].shape == ["batch", 3, 8, 6]


def test_torch_export_of_an_unconditional_network(made, tmp_path):
    content = check_torch_export(networks_of(made, 0, **{"model.fused_modconv": "grouped"}))
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.pt2: found a program of torch\.export"):
        load(str(tmp_path / "x.pt2"))


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_onnx, check_torch_export])
@pytest.mark.parametrize(
    ("labels", "overrides"),
    [
        (0, {}),
        (2, {"model.label_mode": "separate", "model.conv_clamp": 256}),
        (0, {"model.G_architecture": "resnet", "model.resample_kernel": None}),
        (2, {"model.family": "revised"}),
        (0, {"model.family": "stylegan1", "model.fused_scale": "on"}),
        (2, {"model.family": "stylegan1", "model.const_input_layer": False, "model.use_noise": False}),
    ],
)
def test_every_kind_of_network(made, check, labels, overrides):
    check(networks_of(made, labels, **overrides))


def test_low_precision_is_left_out_and_noted(made):
    networks = networks_of(made, 0, **{"model.num_lowp_res": 1})
    program, notes = torch_export.sampling_program(networks, "a program")
    full = networks_of(made, 0)
    z, _ = inputs(networks, 2)
    with torch.no_grad():
        torch.testing.assert_close(program(z, torch.tensor(1.0)), full.G_ema(z))
    assert any("num_lowp_res" in note for note in notes)


def test_a_source_without_g_ema_is_refused(made):
    cfg, G, D, _ = made(8, 3, 0)
    with pytest.raises(ConfigError, match="no G_ema"):
        torch_export.write(Networks(G, D, None, config=cfg))
