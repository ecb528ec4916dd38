import pytest
import torch
from support.toy import toy_config

from benchmarks import roofline
from benchmarks.kernels import class_of, seconds_by_class


@pytest.mark.slow
def test_rates_and_shares_follow_from_counts_and_times(monkeypatch):
    peaks = {"matmul_gflops": 100.0, "convolution_gflops": 90.0, "copy_gb_s": 10.0}
    monkeypatch.setattr(roofline, "peak_rates", lambda device, repeats: peaks)
    cfg = toy_config(**{"data.resolution": 8, "model.num_lowp_res": 1})
    figures, _ = roofline.measure(roofline.Options(repeats=1, threads=1, device="cpu"), cfg)
    sec, at_peak = 0.0, 0.0
    for phase in figures["phases"].values():
        flops = phase["flops_per_image"] * 8
        assert phase["gflops"] == pytest.approx(flops / phase["sec"][0] / 1e9)
        assert phase["share_of_memory_peak"] == pytest.approx(phase["bytes_per_image"] * 8 / 1e10 / phase["sec"][0])
        assert phase["flops_per_image_direct"] > 0 and sum(phase["sec_by_kernel"].values()) > 0
        sec += phase["sec"][0] / phase["interval"]
        at_peak += flops / 1e11 / phase["interval"]
    assert figures["img_s"] == pytest.approx(8 / sec) and figures["img_s_at_compute_peak"] == pytest.approx(8 / at_peak)


def test_peaks_of_this_machine():
    peaks = roofline.peak_rates(torch.device("cpu"), 1)
    assert set(peaks) == {"matmul_gflops", "convolution_gflops", "copy_gb_s"} and min(peaks.values()) > 0.1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("cudnn::cnn::wgrad2d_grouped", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_nhwc", "convolution"),
        ("aten::addmm", "matrix product"),
        ("sm80_gemm_f32", "matrix product"),
        ("triton_poi_fused_add", "compiled"),
        ("aten::_fused_adam_", "optimizer"),
        ("aten::leaky_relu_backward", "pointwise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "pointwise"),
        ("aten::sum", "reduction"),
        ("aten::copy_", "copy"),
        ("Memcpy HtoD", "copy"),
        ("somebody", "other"),
    ],
)
def test_kernels_have_a_class(name, kind):
    assert class_of(name) == kind


def test_seconds_go_to_the_class_that_works():
    x = torch.randn(300, 300)
    found = seconds_by_class(lambda: [x @ x for _ in range(20)] and None, torch.device("cpu"))
    assert max(found, key=lambda kind: found[kind]) == "matrix product"
