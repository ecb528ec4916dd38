"""The gallery in docs: its commands are read by the real option parsers, and its pictures are what they write."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from stylegan_ray.images.options import GenerateOptions
from stylegan_ray.images.project_options import ProjectOptions
from stylegan_ray.options import parse_options, train_options

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python jobs/(\w+)\.py (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
PICTURES = re.findall(r'src="\.\./(\.assets/gallery/[^"]+)"', PAGE)


def files_of(job, words):
    """The pictures that a command writes, by name."""
    if job == "train":
        assert train_options(words, job).cfg.data.cond
        return set()
    if job == "project":
        options = parse_options(ProjectOptions, words, job)
        return {f"{Path(image).stem}.{options.video}" for image in options.images}
    assert job == "generate"
    options = parse_options(GenerateOptions, words, job)
    return {file for file in (options.grid, options.video) if file}


def test_every_picture_is_written_by_a_command_of_the_page():
    written = set().union(*(files_of(job, shlex.split(words)) for job, words in COMMANDS))
    assert {Path(picture).name for picture in PICTURES} == written and len(PICTURES) >= 9


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_are_small_and_can_be_opened(picture):
    assert (ROOT / picture).stat().st_size < 300_000
    with Image.open(ROOT / picture) as image:
        assert image.size[0] % 32 == 0
        assert getattr(image, "n_frames", 1) > 1 or not picture.endswith(".webp")
