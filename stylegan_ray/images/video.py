"""Videos: MP4 with PyAV, animated WebP or GIF with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.data.encode import to_pil
from stylegan_ray.storage import file_to_write, whole_file

PILLOW_OPTIONS = {
    ".webp": {"quality": 90, "method": 4, "minimize_size": True},
    ".gif": {"disposal": 1},
}


def check_video_path(path: Path) -> None:
    """Raises ConfigError unless the file name ends in a format that can be written here."""
    if path.suffix not in (".mp4", *PILLOW_OPTIONS):
        raise ConfigError(f"--video {path}: its ending must be .mp4, {', '.join(PILLOW_OPTIONS)}")
    if path.suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise ConfigError(
                f"--video {path} needs PyAV: pip install 'stylegan-ray[video]', or write {path.with_suffix('.webp')}"
            ) from None


def write_video(path: Path, frames: Iterator[Tensor], fps: int) -> None:
    """Writes uint8 frames [C,H,W] as a video at a path that a user names; WebP and GIF loop."""
    check_video_path(path)
    with whole_file(file_to_write(path)) as partial:
        if path.suffix == ".mp4":
            _write_mp4(partial, frames, fps)
            return
        images = (to_pil(frame.cpu().numpy()) for frame in frames)
        options = {"save_all": True, "append_images": images, "duration": round(1000 / fps), "loop": 0}
        next(images).save(partial, path.suffix.lstrip(".").upper(), **options, **PILLOW_OPTIONS[path.suffix])


def _write_mp4(path: str, frames: Iterator[Tensor], fps: int) -> None:
    """H.264, visually lossless; odd sides grow by one pixel, since yuv420p needs even ones."""
    import av

    with av.open(path, "w", format="mp4") as container:
        stream = None
        for frame in frames:
            pixels = frame.cpu().numpy().transpose(1, 2, 0)  # [H,W,C]
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
            pixels = np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], mode="edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16"})
                stream.height, stream.width, stream.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
