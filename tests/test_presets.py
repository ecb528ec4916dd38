"""The presets, and settings that do not fit each other."""

import pytest

from stylegan_ray.config import VARIANTS, ConfigError, load_config, preset_names
from stylegan_ray.options import train_options

FID = {"a": 4.40, "b": 4.39, "c": 4.38, "d": 4.34, "e": 3.31, "f": 2.84}


def test_every_configuration_of_the_paper_is_a_preset():
    names = {f"config-{letter}" for letter in "abcdef"} | {
        f"config-e-G{G}-D{D}" for G in ("orig", "skip", "resnet") for D in ("orig", "skip", "resnet")
    }
    ada = {"stylegan2", "paper256", "paper512", "paper1024", "cifar", "auto"}
    assert names | ada | {"tiny"} == set(preset_names())
    assert len(VARIANTS) == 9


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_equals_its_saved_configuration(name, tmp_path):
    cfg = load_config(name)
    assert cfg.run.preset == name
    saved = tmp_path / f"{name}.yaml"  # a file, although it has the name of a preset
    saved.write_text(cfg.to_yaml())
    assert load_config(str(saved)) == cfg


@pytest.mark.parametrize(("letter", "fid"), FID.items())
def test_headers_state_the_figures_of_the_paper(letter, fid):
    from importlib import resources

    text = (resources.files("stylegan_ray") / "presets" / f"config-{letter}.yaml").read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert f"FID {fid:.2f} after 25000 kimg" in header
    assert f"python jobs/train.py config-{letter}" in header
    assert "Original training time" in header


@pytest.mark.parametrize(
    ("name", "size", "minibatch", "lrate", "gamma", "ema_kimg"),
    [
        ("stylegan2", 1024, 32, 0.002, 10, 10),
        ("paper256", 256, 64, 0.0025, 1, 20),
        ("paper512", 512, 64, 0.0025, 0.5, 20),
        ("paper1024", 1024, 32, 0.002, 2, 10),
        ("cifar", 32, 64, 0.0025, 0.01, 500),
    ],
)
def test_presets_of_the_ada_paper_have_the_values_of_its_figure_24(name, size, minibatch, lrate, gamma, ema_kimg):
    cfg = load_config(name, {"data.resolution": size})
    schedule, widths = cfg.schedule, cfg.model.fmap_base / load_config("config-f").model.fmap_base
    assert (schedule.minibatch_size, schedule.G_lrate, schedule.D_lrate) == (minibatch, lrate, lrate)
    assert (cfg.loss.r1_gamma, schedule.G_smoothing_kimg, cfg.loss.pl_decay) == (gamma, ema_kimg, 0.01)
    assert widths == (0.5 if name == "paper256" else 1) and cfg.model.mapping_layers == (2 if name == "cifar" else 8)
    assert cfg.model.mbstd_group_size == schedule.minibatch_gpu and cfg.augment.mode == "noaug"


def test_a_variant_is_selected_by_name_and_can_be_changed():
    cfg = train_options(["config-e-Gorig-Dskip", "pictures.zip", "--loss.r1_gamma", "7"]).cfg
    assert (cfg.model.G_architecture, cfg.model.D_architecture, cfg.model.fmap_base) == ("orig", "skip", 8192)
    assert (cfg.loss.r1_gamma, cfg.run.preset) == (7, "config-e-Gorig-Dskip")
    assert load_config("config-e-Gorig-Dskip", {"model.G_architecture": "skip"}).model.G_architecture == "skip"


def test_help_lists_the_variants(capsys):
    with pytest.raises(SystemExit):
        train_options(["config-e-Gresnet-Dorig", "--help"])
    text = capsys.readouterr().out
    assert "config-e-Gorig-Dorig" in text and "config-a" in text


@pytest.mark.parametrize(
    ("preset", "changes", "says"),
    [
        ("config-a", {"model.label_mode": "separate"}, r"model.label_mode=separate.*stylegan1.*use joint"),
        ("config-b", {"model.use_pixel_norm": True}, r"model.use_pixel_norm=True.*model.family=revised.*False"),
        ("config-f", {"model.blur_filter": None}, "use model.family=stylegan1"),
        ("config-d", {"schedule.minibatch_size_dict": {16: 6}}, r"schedule.minibatch_size=6.*at resolution 16.*try 16"),
        ("config-d", {"cluster.num_workers": 9}, r"cluster.num_workers=9.*use fewer workers"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(preset, changes, says):
    with pytest.raises(ConfigError, match=says):
        load_config(preset, changes)
