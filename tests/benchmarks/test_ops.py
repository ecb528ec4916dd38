from support.toy import toy_config

from benchmarks import ops


def test_times_every_operation_at_every_resolution():
    cfg = toy_config(**{"data.resolution": 16})
    figures, bars = ops.measure(ops.Options(repeats=2, least_resolution=8, threads=1, device="cpu"), cfg)
    names = {"bias_act", "blur", "upsample", "downsample", "conv", "conv_up", "conv_down", "modulated", "grouped"}
    assert set(figures["ops"]) == {f"{name}@{size}" for name in names for size in (8, 16)} and not bars
    for name, found in figures["ops"].items():
        assert all(len(found[f"{order}_{way}"]) == 2 for order in ops.ORDERS for way in ("plain", "fast"))
        assert set(figures["fast_over_plain"][name]) == set(ops.ORDERS)
    assert figures["ops"]["conv_up@16"]["shape"] == [2, 6, 8, 8] and figures["ops"]["conv@8"]["shape"] == [2, 6, 8, 8]
