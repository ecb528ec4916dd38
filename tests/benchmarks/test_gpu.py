import pytest

from benchmarks import gpu
from stylegan_ray.config import load_config


@pytest.mark.parametrize("name", gpu.ALL)
def test_cases_are_configurations(name):
    cfg = load_config("config-f", gpu.keys_of(name))
    size = int(name.rsplit("-", 1)[1])
    assert cfg.data.resolution == size and (cfg.train.G_reg_interval, cfg.train.D_reg_interval) == (4, 16)
    if name.startswith("published"):
        assert cfg.schedule.minibatch_size == cfg.schedule.minibatch_gpu == {256: 16, 512: 8, 1024: 4}[size]
        assert cfg.model.fmap_base == (8192 if size == 256 else 16384)
        assert (cfg.model.mapping_layers, cfg.model.num_lowp_res) == (2, 4)
    else:
        assert cfg.schedule.minibatch_size == 32 and cfg.model == toy_free(cfg)


def toy_free(cfg):
    """The model of config-f as it is."""
    return load_config("config-f").model


@pytest.mark.slow
def test_a_dry_run_goes_through_every_case():
    options = gpu.Options(
        cases=("published-256", "config-f-1024"),
        variants=("fast", "bf16"),
        repeats=1,
        threads=1,
        device="cpu",
        dry=True,
    )
    figures, bars = gpu.measure(options, load_config("config-f"))
    assert set(figures["cases"]) == {"published-256", "config-f-1024"} and not bars
    for case in figures["cases"].values():
        assert case["step"]["image_shape"] == [3, 16, 16] and case["best"]["variant"] in ("fast", "bf16")
        assert case["roofline"]["peaks"]["copy_gb_s"] > 0 and case["best"]["compiled_over_eager"] is None


def test_bars_are_on_the_best_variant_and_on_what_compiling_brings():
    steps = {"sec_per_kimg_fast": 9.0, "sec_per_kimg_bf16": 6.0, "sec_per_kimg_compiled_bf16": 4.0, "not_compiled": []}
    best = gpu.best(steps, ("fast", "bf16", "compiled_bf16"))
    assert best == {"variant": "compiled_bf16", "sec_per_kimg": 4.0, "compiled_over_eager": 1.5}
    pace, gain = gpu.bars({"published-256": {"best": best}})
    assert (pace["value"], pace["bar"], pace["holds"]) == (4.0, 4.5, True) and gain["holds"]
    assert len(gpu.bars({"config-f-256": {"best": best}})) == 1
    assert (
        gpu.best(steps | {"not_compiled": ["compiled_bf16"]}, ("fast", "compiled_bf16"))["compiled_over_eager"] is None
    )
