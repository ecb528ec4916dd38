"""A job that begins with the networks of another run."""

import pytest
from support.jobs import Job, rows_without_times, small_model, write_pictures

from stylegan_ray.config import load_config
from stylegan_ray.interop import save_network
from stylegan_ray.train.state import TrainState


@pytest.mark.cluster
def test_a_job_says_what_it_copied_from_another_run(tmp_path):
    words = small_model()
    keys = {
        key[2:]: int(value) for key, value in zip(words[::2], words[1::2], strict=True) if key.startswith("--model")
    }
    cfg = load_config("config-f", keys | {"model.mapping_layers": 3})
    state = TrainState.create(cfg, 8, 3, 0)
    source = tmp_path / "source.safetensors"
    source.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, 1000))

    pictures = write_pictures(tmp_path / "pictures")
    command = ["train", "config-f", str(pictures), *words, "--run.name", "run", "--resume-from", str(source)]
    refused = Job(*command, storage=tmp_path, log=tmp_path / "refused.log")
    assert refused.wait(600) == 2
    assert "model.mapping_layers=3 (here 2)" in refused.text(), refused.text()

    command += ["--train.resume_with_new_nets", "--train.resume_time", "3600", "--train.total_kimg", "1.016"]
    job = Job(*command, storage=tmp_path, log=tmp_path / "log")
    assert job.wait(900) == 0, job.text()
    assert "warning: it was made with model.mapping_layers=3 (here 2)" in job.text()
    assert "4 of 6    dense2.weight (not here), dense2.bias (not here): other keys of model" in job.text()
    assert "G: copied 32 of 32 tensors" in job.text()
    assert f"starting at 1 kimg with the networks of {source}" in job.text()
    assert [row["Progress/kimg"] for row in rows_without_times(tmp_path / "run")] == [1.016]
    assert "time 1h 00m" in job.text()
