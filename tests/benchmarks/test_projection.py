"""Benchmark `projection`: what it measures on a small network."""

import json

import torch
from support.toy import toy_config

from stylegan_ray import cli
from stylegan_ray.interop import save_network
from stylegan_ray.networks import build_discriminator, build_generator


def test_each_seed_of_each_network_is_measured(tmp_path, capsys):
    cfg = toy_config()
    torch.manual_seed(0)
    G, G_ema = (build_generator(cfg.model, 8, 3, 0) for _ in range(2))
    path = tmp_path / "net.safetensors"
    path.write_bytes(save_network(G, build_discriminator(cfg.model, 8, 3, 0), G_ema, cfg, 0))
    words = ["projection", "--networks", str(path), "--seeds", "2", "--steps", "3", "--distance", "pyramid"]
    assert cli.run(cli.benchmark, [*words, "--json", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    rows = result["figures"]["networks"][str(path)]
    for key in ("psnr_db", "w_distance", "w_distance_of_mean", "sec", "curves"):
        assert len(rows[key]) == 2
    assert [step for step, _ in rows["curves"][0]] == [0, 1, 2]
    assert result["bars"][0]["bar"] == 25 and "PSNR" in capsys.readouterr().out
    assert cli.run(cli.benchmark, ["projection"]) == 2
    assert "--networks" in capsys.readouterr().err
