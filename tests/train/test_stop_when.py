"""train.stop_when is a function of the values of a metric, so that a run that continues ends at the same one."""

import pytest

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.train.stop_when import check_stop_when, why_to_stop


def config(rule, *names, **keys):
    return load_config("tiny", {"train.stop_when": rule, "metrics.names": names or ["fid5k_tiny"], **keys})


def rows(values, metric="fid5k_tiny"):
    return [{"metric": metric, "value": value, "kimg": 4.0 * i} for i, value in enumerate(values)]


def end_of(cfg, values, metric="fid5k_tiny"):
    """The index of the value at which a run ends; None if it goes on."""
    found = (i for i in range(len(values)) if why_to_stop(cfg, rows(values[: i + 1], metric)))
    return next(found, None)


def test_both_values_of_separability_can_be_named():
    check_stop_when(config("ls_w:3", "ls"))
    assert end_of(config("ls_w:1", "ls"), [3, 4], "ls_w") == 1
    with pytest.raises(ConfigError, match="ls_z, ls_w"):
        check_stop_when(config("ls:3", "ls"))


@pytest.mark.parametrize("values, end", [
    ([9, 8, 7, 6, 5, 4], None),
    ([9, 8, 8.5, 8.1, 8.3, 1], 4),
    ([9, 9, 9, 9], 3),
    ([9, 8, 8.5, 8.1, 7.9, 8, 8, 8, 8], 7),
    ([9, 10, None, None, 11, None, 12], 6),
    ([], None),
])  # fmt: skip
def test_a_run_ends_after_three_values_without_improvement(values, end):
    assert end_of(config("fid5k_tiny:3"), values) == end


def test_larger_is_better_for_some():
    assert end_of(config("is5k_tiny:2", "is5k_tiny"), [1, 2, 3, 2.5, 2.9, 4], "is5k_tiny") == 4


def test_the_reason_names_rule_value_and_place():
    text = why_to_stop(config("fid5k_tiny:2"), rows([9, 8, 8.5, 8.25]))
    assert "train.stop_when=fid5k_tiny:2" in text and "better than 8 at 4 kimg in 2 values" in text


def test_without_a_rule_a_run_goes_on():
    assert why_to_stop(load_config("tiny"), rows([1] * 100)) is None


def test_the_number_of_images_of_all_metrics_counts():
    cfg = config("fid5k_tiny:1", **{"metrics.num_images": 500})
    check_stop_when(cfg)
    assert end_of(cfg, [1, 2], "fid500_tiny") == 1


def test_both_values_of_precision_and_recall_can_be_named():
    check_stop_when(config("pr5k3_tiny_recall:4", "pr5k3_tiny"))
    with pytest.raises(ConfigError, match="pr5k3_tiny_precision"):
        check_stop_when(config("pr5k3_tiny:4", "pr5k3_tiny"))


@pytest.mark.parametrize("rule", ["fid5k_tiny", "fid5k_tiny:0", "fid5k_tiny:x", ":3", "fid5k_tiny:-1"])
def test_a_rule_has_a_metric_and_a_number(rule):
    with pytest.raises(ConfigError, match=r"train\.stop_when='"):
        config(rule)


def test_a_metric_that_is_not_computed_is_refused():
    with pytest.raises(ConfigError, match=r"train\.stop_when='fid5k_tny:3'.*did you mean 'fid5k_tiny'"):
        check_stop_when(config("fid5k_tny:3"))
    with pytest.raises(ConfigError, match=r"metrics\.names is empty"):
        check_stop_when(load_config("tiny", {"train.stop_when": "fid5k_tiny:3", "metrics.names": ()}))


def test_another_rule_may_continue_a_run():
    assert config("fid5k_tiny:3").digest() == config("fid5k_tiny:9").digest()


def test_a_run_without_metrics_on_its_way_is_refused():
    keys = {"metrics.ticks": None, "train.network_snapshot_ticks": None}
    with pytest.raises(ConfigError, match=r"metrics\.ticks=null.*train\.network_snapshot_ticks=null.*--metrics\.ticks"):
        check_stop_when(config("fid5k_tiny:2", **keys))
    for key in keys:
        check_stop_when(config("fid5k_tiny:2", **keys | {key: 3}))
