"""What TensorBoard shows."""

import torch
from support.reports import events, object_store, row, scalars

from stylegan_ray.config import load_config
from stylegan_ray.report import tensorboard
from stylegan_ray.report.tensorboard import TensorBoard
from stylegan_ray.run_folder import cut
from stylegan_ray.storage import Storage


def started(run):
    cut(run, 0, 0)
    sink = TensorBoard(load_config("tiny"))
    sink.begin(run, 0)
    return sink


def test_images_are_at_most_2048_pixels_wide(tmp_path):
    run = Storage.at(tmp_path)
    sink = started(run)
    sink.images("fakes000004.250", torch.zeros(3, 4, 5000, dtype=torch.uint8), 4250)
    sink.close()
    (image,) = [value for event in events(run) for value in event.summary.value if value.HasField("image")]
    assert (image.tag, image.image.width) == ("fakes", 1666)


def test_the_configuration_is_shown(tmp_path):
    run = Storage.at(tmp_path)
    started(run).close()
    assert any("minibatch_gpu" in str(value.tensor) for event in events(run) for value in event.summary.value)


def test_files_in_an_object_store_end_at_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "MAX_EVENT_BYTES", 1)
    run = object_store(tmp_path.name)
    sink = started(run)
    for tick in range(3):
        sink.tick(row(tick))
    sink.close()
    assert len(run.names("tensorboard")) == 4, "each tick is larger than that"
    assert scalars(run, "Loss/D/loss") == [128, 4128, 8128]


def test_files_that_are_uploaded_and_ended_take_no_local_space(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "MAX_EVENT_BYTES", 1)
    run = object_store(tmp_path.name)
    sink = started(run)
    for tick in range(3):
        sink.tick(row(tick))
        sink.sync()
    (growing,) = sink.spool.folder.iterdir()
    assert growing.name == sink.events.name and growing.name in run.names("tensorboard")
    sink.close()
    assert scalars(run, "Loss/D/loss") == [128, 4128, 8128]
