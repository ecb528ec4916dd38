import numpy as np
import pytest
from support.toy import toy_config

from benchmarks import augment, augment_sheet


@pytest.mark.slow
def test_steps_and_warps_are_timed_with_and_without_augmentation_and_have_their_bars():
    options = augment.Options(resolutions=(8, 64), repeats=1, threads=1, device="cpu")
    figures, bars = augment.measure(options, toy_config(**{"data.resolution": 8, "schedule.minibatch_size": 2}))
    assert set(figures["by_resolution"]) == {"8", "64"} and len(bars) == 3
    found = figures["by_resolution"]["64"]
    assert set(found["sec_per_warp"]) == {"first_plain", "first_fast", "second_plain", "second_fast"}
    plain, augmented = (found["sec_per_iteration"][name][0] for name in ("noaug", "augmented"))
    assert found["cost"] == augmented / plain - 1 and bars[0]["value"] == found["cost"]


def test_the_sheet_shows_images_as_they_are_and_augmented(tmp_path):
    from PIL import Image

    file = tmp_path / "sheet.png"
    assert augment_sheet.main([str(file), "--data.resolution", "32", "--augment.pipe", "bgcfnc"]) == 0
    sheet = np.asarray(Image.open(file)).reshape(5, 32, 12, 32, 3)
    first, *others = sheet
    assert all((row != first).mean() > 0.1 for row in others)
    assert (sheet[1] != first).mean() < (sheet[3] != first).mean()
