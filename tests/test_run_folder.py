"""Finding runs and asking them to stop."""

import pytest

from stylegan_ray import cli
from stylegan_ray.config import ConfigError
from stylegan_ray.run_folder import find_run, storage_address


@pytest.fixture
def storage(tmp_path, monkeypatch):
    for name in ("tiny-openmoji-0a1b2c3d", "config-f-ffhq-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "not-a-run").mkdir()
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    return tmp_path


def test_stop_by_name_and_by_folder(storage, capsys):
    for run, word in (("tiny-openmoji-0a1b2c3d", "name"), (str(storage / "config-f-ffhq-00000000"), "folder")):
        assert cli.run(cli.stop, [run]) == 0, word
        assert "continues it" in capsys.readouterr().out
    assert (storage / "tiny-openmoji-0a1b2c3d" / "STOP").exists()
    assert (storage / "config-f-ffhq-00000000" / "STOP").exists()


def test_stop_names_the_nearest_run(storage, capsys):
    assert cli.run(cli.stop, ["tiny-openmoji-0a1b2c"]) == 2
    assert "did you mean 'tiny-openmoji-0a1b2c3d'" in capsys.readouterr().err
    assert cli.run(cli.stop, ["zzz"]) == 2
    said = capsys.readouterr().err
    assert "runs there: config-f-ffhq-00000000, tiny-openmoji-0a1b2c3d" in said and "not-a-run" not in said


def test_a_folder_that_is_no_run_is_refused(storage):
    with pytest.raises(ConfigError):
        find_run(str(storage / "not-a-run"))


def test_a_run_in_another_storage(storage, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("other")
    assert cli.run(cli.stop, ["tiny-openmoji-0a1b2c3d", "--storage", str(other)]) == 2
    assert find_run("tiny-openmoji-0a1b2c3d").endswith("/tiny-openmoji-0a1b2c3d")


def test_storage_address(monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", "s3://bucket/runs")
    assert storage_address() == "s3://bucket/runs"
    assert storage_address("gs://other") == "gs://other"
    monkeypatch.setenv("HOME", "/home/ann")
    assert storage_address("~/runs") == "/home/ann/runs"
    monkeypatch.delenv("STYLEGAN_RAY_STORAGE")
    assert storage_address() == "/home/ann/stylegan_ray/runs"
