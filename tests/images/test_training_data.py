"""Names of classes, from a run, one of its checkpoints, or a published folder."""

import json

import pytest

from stylegan_ray.images.training_data import class_names_of, data_of


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize("network", ["network-final.safetensors", "checkpoints/ckpt-000000001000"])
def test_classes_of_a_run(tmp_path, network):
    write(tmp_path / "run.json", json.dumps({"data": {"class_names": ["cat", "d\x1b[1mog\n", "owl"], "path": "x.zip"}}))
    assert class_names_of(str(tmp_path / network), 3) == ["cat", "d\\x1b[1mog", "owl"]
    assert class_names_of(str(tmp_path / network), 2) == ["cat", "d\\x1b[1mog"], (
        "data.max_label_size keeps the first ones"
    )
    assert class_names_of(str(tmp_path / network), 4) == class_names_of(str(tmp_path / network), 0) == []


def test_classes_of_a_published_folder(tmp_path):
    write(tmp_path / "config.json", json.dumps({"class_names": ["cat", "dog"], "resolution": [8, 8]}))
    assert class_names_of(str(tmp_path / "model.safetensors"), 2) == ["cat", "dog"]
    assert data_of(str(tmp_path)) == {"class_names": ["cat", "dog"]}


@pytest.mark.parametrize("content", ["[]", "{", '{"data": []}', '{"data": {"class_names": "abc"}}', '{"data": {}}'])
def test_without_names_there_are_none(tmp_path, content):
    write(tmp_path / "run.json", content)
    assert class_names_of(str(tmp_path / "network-final.safetensors"), 2) == []
    assert class_names_of(str(tmp_path / "absent" / "n.safetensors"), 2) == []
