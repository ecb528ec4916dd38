"""Values that are chosen by the resolution and the number of workers."""

import pytest

from stylegan_ray.config import ConfigError, RunConfig, load_config
from stylegan_ray.train import auto, memory
from stylegan_ray.train.auto import choices, explain, with_choices
from stylegan_ray.train.memory import peak

SMALL = {
    "model.fmap_base": 64, "model.mapping_layers": 2, "schedule.minibatch_size": 32,
    "schedule.minibatch_gpu_dict": {}, "cluster.num_workers": 2,
}  # fmt: skip


def chosen(resolution, workers=1, **given):
    cfg = load_config("auto", {"cluster.num_workers": workers, "cluster.memory_gb": 1000, **given})
    return with_choices(cfg, resolution).flat()


@pytest.fixture
def everything_fits(monkeypatch):
    """Spares a test the analysis of memory, which takes about a second, where it would find that there is enough."""
    monkeypatch.setattr(memory, "peak", lambda cfg, resolution, device: 0)


@pytest.mark.parametrize(
    ("side", "preset"), [(256, "paper256"), (512, "paper512"), (1024, "paper1024")], ids=["256", "512", "1024"]
)
def test_what_the_paper_used_at_a_resolution_is_chosen(side, preset):
    found, paper = chosen((side, side), **{"schedule.minibatch_gpu": 4}), load_config(preset).flat()
    for key in ("minibatch_size", "G_lrate", "D_lrate", "G_smoothing_kimg"):
        assert found[f"schedule.{key}"] == paper[f"schedule.{key}"], key
    assert found["model.fmap_base"] == paper["model.fmap_base"]


def test_gamma_follows_the_number_of_pixels_and_the_minibatch():
    assert chosen((256, 128), **{"schedule.minibatch_gpu": 4})["loss.r1_gamma"] == pytest.approx(
        0.0002 * 256 * 128 / 64
    )
    given = {"schedule.minibatch_size": 16, "schedule.minibatch_gpu": 4}
    assert chosen((256, 256), **given)["loss.r1_gamma"] == pytest.approx(0.0002 * 65536 / 16)


@pytest.mark.usefixtures("everything_fits")
@pytest.mark.parametrize("workers", [1, 3, "2:24", 64])
@pytest.mark.parametrize("side", [16, 64])
def test_every_worker_has_a_micro_batch(side, workers):
    found = chosen((side, side), workers)  # a configuration that does not go together raises
    size, gpu = found["schedule.minibatch_size"], found["schedule.minibatch_gpu"]
    assert size % gpu == 0 and size // gpu >= int(str(workers).split(":")[-1])
    assert found["loss.pl_decay"] == pytest.approx(1 - 0.99 ** (size / gpu))


def test_the_largest_micro_batch_that_fits_is_chosen(monkeypatch):
    found = {}

    def peak_once(cfg, resolution, device):
        """The analysis, which takes about a second, once for each size of a micro-batch."""
        part = cfg.schedule.minibatch_gpu
        if part not in found:
            found[part] = peak(cfg, resolution, device)
        return found[part]

    monkeypatch.setattr(memory, "peak", peak_once)
    cfg = load_config("config-f", SMALL | {"schedule.minibatch_gpu": "auto", "cluster.memory_gb": 100})
    assert cfg.train.auto == ("schedule.minibatch_gpu",)
    assert with_choices(cfg, (16, 16)).schedule.minibatch_gpu == 16, "as many as each of two workers has"
    needed = {
        part: peak_once(cfg.with_overrides({"schedule.minibatch_gpu": part}), (16, 16), "cpu") for part in (16, 8, 4)
    }
    assert needed[16] > needed[8] > needed[4]
    for part in (8, 4):
        limited = cfg.with_overrides({"cluster.memory_gb": (needed[part] + 1000) / 2**30})
        assert with_choices(limited, (16, 16)).schedule.minibatch_gpu == part


@pytest.mark.parametrize("has", [True, False])
def test_low_precision_is_chosen_where_the_processor_has_instructions(has, monkeypatch):
    monkeypatch.setattr(auto, "has_instructions", lambda dtype: has)
    (choice,) = choices(load_config("config-f", {"train.auto": ["model.num_lowp_res"]}), (64, 64))
    assert (choice.key, choice.value) == ("model.num_lowp_res", 4 if has else 0)
    assert ("has bfloat16" if has else "has no bfloat16") in choice.why


def test_what_fits_nowhere_is_said():
    keys = {"schedule.minibatch_size": 4, "schedule.minibatch_gpu": "auto", "cluster.memory_gb": 0.01}
    cfg = load_config("config-f", SMALL | keys)
    (choice,) = choices(cfg, (16, 16))
    assert choice.value == 1 and "more than the 10 MiB" in choice.why


def test_more_workers_than_images_of_a_minibatch_are_refused():
    keys = {"schedule.minibatch_size": 4, "schedule.minibatch_gpu": "auto", "cluster.num_workers": 8}
    with pytest.raises(ConfigError, match=r"cluster\.num_workers=8.*schedule\.minibatch_size=4; use at most 4 workers"):
        choices(load_config("config-f", SMALL | keys), (16, 16))


@pytest.mark.usefixtures("everything_fits")
def test_minibatches_that_are_given_decide_the_others():
    found = chosen((64, 64), **{"schedule.minibatch_gpu": 12})
    assert found["schedule.minibatch_gpu"] == 12 and found["schedule.minibatch_size"] == 72
    found = chosen((64, 64), 2, **{"schedule.minibatch_size": 20})
    assert found["schedule.minibatch_size"] == 20
    assert found["schedule.minibatch_gpu"] == 4, "10 and 5 are no multiples of mbstd_group_size"


@pytest.mark.usefixtures("everything_fits")
def test_a_key_that_is_given_is_not_chosen():
    cfg = load_config("auto", {"loss.r1_gamma": 10})
    assert "loss.r1_gamma" not in cfg.train.auto
    assert with_choices(cfg, (64, 64)).loss.r1_gamma == 10
    later = load_config("auto").with_overrides({"loss.r1_gamma": 10})
    assert later == cfg
    assert "loss.r1_gamma" not in [choice.key for choice in choices(cfg, (64, 64))]


def test_any_preset_can_have_keys_chosen_and_without_them_nothing_changes():
    cfg = load_config("config-f", {"train.auto": ["loss.r1_gamma"]})
    assert with_choices(cfg, (32, 32)).loss.r1_gamma == pytest.approx(0.0002 * 1024 / 32)
    assert with_choices(RunConfig(), (32, 32)) == RunConfig()


def test_tiny_has_a_micro_batch_a_worker_and_moves_the_mean_of_path_lengths_as_fast_as_by_each():
    cfg = load_config("tiny", {"loss.G": "logistic_ns_pathreg", "loss.D": "logistic_r1", "cluster.num_workers": 4})
    chosen = with_choices(cfg, (32, 32))
    assert chosen.schedule.minibatch_gpu == 4 and chosen.loss.pl_decay == pytest.approx(1 - 0.99**4)
    assert cfg.loss.pl_decay == 0.01, "the run's name does not change"
    assert "loss.pl_decay" not in load_config("tiny", {"loss.pl_decay": 0.02}).train.auto


def test_the_table_tells_values_and_reasons():
    text = explain(choices(load_config("auto", {"schedule.minibatch_gpu": 4}), (256, 256)))
    assert "loss.r1_gamma" in text and "0.2048" in text and "0.0002 * 256 * 256 pixels / minibatch 64" in text
