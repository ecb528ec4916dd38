"""Names of metrics."""

import pytest

from stylegan_ray.config import ConfigError
from stylegan_ray.metrics.names import EXAMPLES, parse_metric, parse_metrics, with_num_images


@pytest.mark.parametrize(
    ("name", "kind", "num_gen", "num_real", "detector"),
    [
        ("fid50k", "fid", 50000, 50000, "inception"),
        ("fid50k_full", "fid", 50000, None, "inception"),
        ("fid5k_tiny", "fid", 5000, 5000, "tiny"),
        ("fid500_full_tiny", "fid", 500, None, "tiny"),
        ("fid2.5k", "fid", 2500, 2500, "inception"),
        ("kid10k", "kid", 10000, 10000, "inception"),
        ("is50k", "is", 50000, 0, "inception"),
        ("pr50k3", "pr", 50000, 50000, "vgg16"),
        ("pr50k3_full_tiny", "pr", 50000, None, "tiny"),
        ("pr500", "pr", 500, 500, "vgg16"),
        ("ppl_zfull", "ppl", 50000, 0, "lpips"),
        ("ppl1k_wend_tiny", "ppl", 1000, 0, "tiny"),
        ("ls", "ls", 200000, 0, "celeba"),
        ("fid50k_dinov2", "fid", 50000, 50000, "dinov2"),
        ("fid5k_efflite0", "fid", 5000, 5000, "efflite0"),
        ("kid5k_full_efflite0", "kid", 5000, None, "efflite0"),
        ("mind5k", "mind", 5000, 5000, "inception"),
        ("mind500_tiny", "mind", 500, 500, "tiny"),
    ],
)
def test_names_are_parsed(name, kind, num_gen, num_real, detector):
    spec = parse_metric(name)
    assert (spec.name, spec.kind, spec.num_gen, spec.num_real, spec.detector) == (
        name,
        kind,
        num_gen,
        num_real,
        detector,
    )


@pytest.mark.parametrize(
    ("name", "nhood"), [("pr50k3", 3), ("pr5k5_full", 5), ("pr500_4", 4), ("pr5k", 3), ("pr0.5k10_tiny", 10)]
)
def test_neighborhoods(name, nhood):
    assert parse_metric(name).nhood_size == nhood


def test_every_example_is_understood():
    assert [spec.name for spec in parse_metrics(EXAMPLES)] == list(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fidd50k", "fid50k"), ("ppl_wen", "ppl_wend"), ("fid5k_tiyn", "fid5k_tiny"), ("pr50k3_ful", "pr50k3_full")],
)
def test_a_typo_is_answered_with_the_nearest_name(name, hint):
    with pytest.raises(ConfigError, match=f"unknown metric '{name}'; did you mean '{hint}'"):
        parse_metric(name)


@pytest.mark.parametrize(
    "name",
    [
        "fid0",
        "fid1_tiny",
        "",
        "fid",
        "fid50k_tiny_full",
        "ls5x",
        "is50k_full",
        "pr3_tiny",
        "pr5k5000_tiny",
        "mind5k_full",
    ],
)
def test_nonsense_is_refused(name):
    with pytest.raises(ConfigError):
        parse_metric(name)


@pytest.mark.parametrize("num_images", [500, 2000, 12345, 1234567])
@pytest.mark.parametrize("name", EXAMPLES)
def test_another_count_changes_nothing_else(name, num_images):
    before, after = parse_metric(name), parse_metric(with_num_images(name, num_images))
    assert after.num_gen == num_images
    kept = ("kind", "detector", "needs_reals", "nhood_size", "path")
    assert [getattr(after, key) for key in kept] == [getattr(before, key) for key in kept]


def test_counts_are_written_plainly():
    assert [with_num_images(name, 500) for name in ("fid50k_full", "pr50k3_tiny", "ppl_wend", "ls")] == [
        "fid500_full", "pr0.5k3_tiny", "ppl0.5k_wend", "ls500",
    ]  # fmt: skip
