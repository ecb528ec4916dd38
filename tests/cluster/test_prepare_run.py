"""What the driver refuses before a worker starts."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from support.data_sets import numbered, write_folder

pytest.importorskip("ray")

from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.run import prepare, write_start
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.interop import save_network
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.train import memory
from stylegan_ray.train.dry_run import describe
from stylegan_ray.train.source import Source

SMALL = {"z_dim": 4, "w_dim": 4, "mapping_fmaps": 4, "mapping_layers": 2, "fmap_max": 4}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    data = write_folder(tmp_path / "images", numbered(4))
    keys = {f"model.{key}": value for key, value in SMALL.items()}
    keys |= {"data.path": str(data), "run.storage": str(tmp_path / "runs"), "run.name": "run"}
    return lambda preset, **changes: load_config(preset, keys | changes)


@pytest.fixture
def networks(configured, tmp_path):
    """A network file of configuration F."""
    cfg = configured("config-f")
    G, D = build_generator(cfg.model, 16, 3, 0), build_discriminator(cfg.model, 16, 3, 0)
    path = tmp_path / "networks.safetensors"
    path.write_bytes(save_network(G, D, deepcopy(G), cfg, 1000))
    return str(path)


def test_an_impossible_first_resolution_is_refused(configured):
    assert prepare(configured("config-b")).dataset.resolution == (16, 16)
    with pytest.raises(ConfigError, match=r"schedule.lod_initial_resolution=32 .*use 4 or 8 or 16"):
        prepare(configured("config-b", **{"schedule.lod_initial_resolution": 32}))
    with pytest.raises(ConfigError, match=r"model\.family=stylegan2 do not grow"):
        prepare(configured("config-f", **{"schedule.lod_initial_resolution": 8}))


def test_networks_of_another_shape_are_refused(configured, networks):
    prepare(configured("config-f"), networks)
    wider = {"model.fmap_max": 5}
    with pytest.raises(ConfigError, match=r"model\.fmap_max=4 \(here 5\)"):
        prepare(configured("config-f", **wider), networks)
    prepare(configured("config-f", **wider, **{"train.resume_with_new_nets": True}), networks)
    with pytest.raises(ConfigError, match="nowhere"):
        prepare(configured("config-f"), networks.replace("networks", "nowhere"))


@pytest.fixture
def everything_fits(monkeypatch):
    """Spares a test the analysis of memory, by which `auto` chooses; every micro-batch fits."""
    monkeypatch.setattr(memory, "peak", lambda cfg, resolution, device: 0)


def started(run):
    """The run as it is after its first checkpoint."""
    write_start(run, Share(1, 1.0, 0, 1))
    run.storage.write("checkpoints/ckpt-000000001000/COMPLETE", b"")
    run.storage.write("checkpoints/ckpt-000000001000/state.json", b"{}")
    return run


def test_a_run_knows_the_networks_that_it_started_from(configured, networks, tmp_path):
    cfg, other = configured("config-f"), networks.replace(".safetensors", "-moved.safetensors")
    run = started(prepare(cfg, networks))
    assert json.loads(run.storage.read("run.json"))["source"]["sha256"] == run.source.sha256
    assert prepare(cfg, networks).source == prepare(cfg).source == run.source
    Path(networks).rename(other)
    assert prepare(cfg, other).source == run.source, "the same networks in another place"
    assert prepare(cfg, networks).source == run.source, "the same word; its file is not needed any more"
    G, D = build_generator(cfg.model, 16, 3, 0), build_discriminator(cfg.model, 16, 3, 0)
    Path(networks).write_bytes(save_network(G, D, deepcopy(G), cfg, 1000))
    with pytest.raises(ConfigError) as error:
        prepare(cfg, networks)
    assert f"--resume-from {networks}" in str(error.value) and run.source.sha256[:12] in str(error.value)
    assert "--run.name" in str(error.value) and "put the former file back" in str(error.value)
    assert Source.of(networks).sha256[:12] in str(error.value), "of the file as it is now"


def test_a_run_of_new_networks_does_not_start_from_others(configured, networks):
    cfg = configured("config-f")
    started(prepare(cfg))
    changed = cfg.with_overrides({"schedule.G_smoothing_kimg": 5})  # --resume-from changes defaults, too
    for again in (cfg, changed):
        with pytest.raises(ConfigError, match="was started with new networks"):
            prepare(again, networks)
    with pytest.raises(ConfigError, match="give the old values"):
        prepare(changed)


def test_a_run_with_a_source_that_is_left_out_names_it(configured, networks):
    cfg = configured("config-f")
    started(prepare(cfg, networks))
    with pytest.raises(ConfigError, match=f"give --resume-from {networks} as before, or the old values"):
        prepare(cfg.with_overrides({"schedule.G_smoothing_kimg": 5}))


def test_layers_of_new_networks_are_not_frozen(configured, networks):
    cfg = configured("config-f", **{"train.freeze_D": 2})
    with pytest.raises(ConfigError, match=r"train\.freeze_D=2.*--resume-from"):
        prepare(cfg)
    prepare(cfg, networks)


def test_values_without_effect_are_told(configured):
    keys = {"augment.p": 0.5, "augment.target": 0.5, "train.resume_kimg": 3, "data.subset": 1000}
    words = prepare(configured("config-f", **keys)).first_words
    assert words.splitlines() == [
        "note: augment.p has no effect with augment.mode=noaug",
        "note: augment.target has no effect with augment.mode=noaug",
        "note: train.resume_kimg has no effect without --resume-from",
        "note: data.subset=1000 is more than the 4 images that there are",
    ]
    assert (
        "augments nothing; give --augment.p" in prepare(configured("config-f", **{"augment.mode": "fixed"})).first_words
    )
    assert prepare(configured("config-f", **{"augment.mode": "ada", "augment.p": 0.5})).first_words == ""


@pytest.mark.usefixtures("everything_fits")
def test_chosen_values_stay_as_they_were_when_the_run_started(configured):
    run = started(prepare(configured("auto", **{"cluster.num_workers": "1:4"})))
    assert run.cfg.train.auto == () and run.cfg.schedule.minibatch_gpu == 16
    more = configured("auto", **{"cluster.num_workers": 32})
    assert prepare(more.with_overrides({"run.name": "new"})).cfg.schedule.minibatch_gpu == 4
    with pytest.raises(ConfigError, match=r"cluster\.num_workers=32"):
        prepare(more)
    assert prepare(configured("auto", **{"cluster.num_workers": 4})).cfg.loss == run.cfg.loss


@pytest.mark.usefixtures("everything_fits")
def test_a_dry_run_of_a_started_run_shows_the_run_that_continues(configured):
    run = started(prepare(configured("auto", **{"cluster.num_workers": "1:4"})))
    fewer = configured("auto", **{"cluster.num_workers": 2})
    text = describe(fewer)
    assert f"Run {run.address} has started" in text
    assert yaml.safe_load(text.partition("\n\n")[0])["schedule"]["minibatch_gpu"] == 16
    assert prepare(fewer).cfg.schedule.minibatch_gpu == 16
    new = describe(fewer.with_overrides({"run.name": "new"}))
    assert yaml.safe_load(new.partition("\n\n")[0])["schedule"]["minibatch_gpu"] == 32


def test_a_dry_run_is_refused_where_the_run_does_not_continue(configured):
    cfg = configured("config-f")
    started(prepare(cfg))
    changed = cfg.with_overrides({"loss.r1_gamma": 3})
    for command in (prepare, describe):
        with pytest.raises(ConfigError, match=r"loss\.r1_gamma: 10\.0 then, 3\.0 now"):
            command(changed)


def test_a_dry_run_with_another_source_is_refused_as_the_run_is(configured, networks):
    cfg = configured("config-f")
    started(prepare(cfg))
    with pytest.raises(ConfigError, match="was started with new networks"):
        prepare(cfg, networks)
    with pytest.raises(ConfigError, match="was started with new networks"):
        describe(cfg, None, networks)


def test_a_dry_run_of_a_started_transfer_is_not_refused(configured, networks):
    cfg = configured("config-f", **{"train.freeze_D": 2, "train.resume_kimg": 0})
    started(prepare(cfg, networks))
    for source in (None, networks):
        assert prepare(cfg, source).first_words == "" and "note:" not in describe(cfg, None, source)
