"""Detectors: networks that turn pictures into features. Where their weights come from, and what to do without them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylegan_ray.config import nearest
from stylegan_ray.data.index import cache_folder
from stylegan_ray.metrics.inception_v3 import InceptionV3
from stylegan_ray.metrics.tiny_detector import FILE, load_tiny_detector, shipped_weights
from stylegan_ray.metrics.vgg16 import VGG16, perceptual_from
from stylegan_ray.storage import Storage, join_address, split_address

PICTURES_AT_ONCE = 32  # fixed, so that the rounding of a feature does not depend on who asks


class DetectorUnavailable(Exception):  # noqa: N818 (it names a state of affairs)
    """A detector's weights are missing or wrong; the message says which command makes it available."""


@dataclass(frozen=True)
class Detector:
    """A network ready for use. Called with pictures [N,1 or 3,H,W] in 0..255, bytes or floats."""

    name: str
    """What stands in every row, so that no number is taken for another detector's."""
    sha256: str
    """Checksum of its weights."""
    resize: str
    """How pictures are scaled to its input."""
    module: nn.Module

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [N,F] and class logits [N,K], or None where it has none."""
        parts = [self.module(part.expand(-1, 3, -1, -1)) for part in images.split(PICTURES_AT_ONCE)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), None if logits[0] is None else torch.cat(logits)

    def to(self, device: torch.device | str) -> Detector:
        """The same detector on another device."""
        return Detector(self.name, self.sha256, self.resize, self.module.to(device))


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, by the name under which it is kept."""

    name: str
    url: str
    sha256: str = ""
    """How its checksum begins; empty where the publisher names none."""

    def check(self, content: bytes) -> None:
        """Raises DetectorUnavailable when the content is another file's."""
        _check_sum(self.name, content, self.sha256)


@dataclass(frozen=True)
class Recipe:
    """How a detector is made."""

    name: str
    files: tuple[WeightFile, ...]
    resize: str
    build: Callable[[Sequence[bytes]], nn.Module]
    script_call: tuple[str, ...] = ()
    """Keywords that NVIDIA's TorchScript file of this network wants for features."""


def _inception(files: Sequence[bytes]) -> nn.Module:
    return _filled(InceptionV3(), _state(files[0]))


def _vgg16(files: Sequence[bytes]) -> nn.Module:
    # torchvision's file has a last layer of classes, which nobody needs here.
    return _filled(VGG16(), {k: v for k, v in _state(files[0]).items() if not k.startswith("classifier.6.")})


def _lpips(files: Sequence[bytes]) -> nn.Module:
    return perceptual_from(_state(files[0]), _state(files[1]))


_INCEPTION_FILE = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
)
_VGG16_FILE = WeightFile("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")
_LPIPS_FILE = WeightFile(
    "weights-vgg16-lpips.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("inception", (_INCEPTION_FILE,), "tf1-bilinear-299", _inception, ("return_features",)),
        Recipe("vgg16", (_VGG16_FILE,), "tf1-bilinear-224", _vgg16, ("return_features",)),
        Recipe("lpips", (_VGG16_FILE, _LPIPS_FILE), "none", _lpips, ("return_lpips",)),
    )
}
"""Detectors whose weights must be fetched once. The tiny one ships; others come as a TorchScript file."""

TINY, DINOV2, CELEBA = "tiny", "dinov2", "celeba"
KNOWN = (TINY, *RECIPES, DINOV2, CELEBA)
URLS = ("http://", "https://", "file://")
"""How addresses begin that are fetched whenever they are read."""


@dataclass(frozen=True)
class Weights:
    """A detector before it is built: the contents of its files. One process reads them, others are sent them."""

    name: str
    contents: tuple[bytes, ...]
    path: str
    """Where they are from."""

    def build(self) -> Detector:
        """The detector; raises DetectorUnavailable when the contents are not its weights."""
        with torch.random.fork_rng(devices=[]):  # new layers draw weights, which nobody shall notice
            if self.name == TINY:
                module = load_tiny_detector(self.contents[0])
                return Detector("tiny-openmoji", self.sha256, "box-or-bilinear-64", module)
            return _scripted(self) if split_address(self.path)[1].endswith(".pt") else _from_recipe(self)

    @property
    def sha256(self) -> str:
        return _sha256(b"".join(self.contents))


def detector_folder() -> str:
    """Where weights are kept: $STYLEGAN_RAY_DETECTORS (a folder, s3:// or gs:// address) or a cache of the user."""
    return os.environ.get("STYLEGAN_RAY_DETECTORS") or str(cache_folder() / "detectors")


def load_detector(name: str, address: str | None = None, trust_script: bool = False) -> Detector:
    """The detector of a name, built of what `read_weights` reads; raises DetectorUnavailable."""
    return read_weights(name, address, trust_script).build()


def read_weights(name: str, address: str | None = None, trust_script: bool = False) -> Weights:
    """The weights of the detector of a name, verified; raises DetectorUnavailable.

    `address` is a folder of weights or one file, perhaps with #sha256=... behind it, on a disk, in object storage or
    at a URL; null: `detector_folder()`. Nothing is fetched unless the address is a URL. Files of weights are read
    without executing anything. A TorchScript file runs its own graph, so it must come with the checksum of a file that
    you trust, or with `trust_script`.
    """
    if name == TINY:
        return Weights(TINY, (shipped_weights(),), FILE)
    path, _, expected = (address or detector_folder()).partition("#sha256=")
    if split_address(path)[1].endswith(".pt"):
        return Weights(name, (_script(name, path, expected, trust_script),), path)
    if name not in RECIPES:
        raise DetectorUnavailable(_without_recipe(name))
    return Weights(name, _files(RECIPES[name], path, expected), path)


def prefetch(
    names: Sequence[str], address: str | None = None, progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Fetches what the detectors of these names need into a folder, unless it is there; returns the paths.

    `progress` is told (file, bytes so far, bytes in all). Raises DetectorUnavailable when a download fails.
    """
    folder = Storage.at(address or detector_folder())
    files = dict.fromkeys(file for name in names if name != TINY for file in _files_of(name))
    for file in files:
        if not folder.exists(file.name):
            content = _downloaded(file, progress)
            file.check(content)
            folder.write(file.name, content)
    return [folder.path(file.name) for file in files]


def _files_of(name: str) -> Sequence[WeightFile]:
    if name not in RECIPES:
        raise DetectorUnavailable(_without_recipe(name))
    return RECIPES[name].files


def _without_recipe(name: str) -> str:
    gives = {DINOV2: "features [N,F]", CELEBA: "logits [N,A] of attributes"}.get(name)
    if gives is None:
        return f"unknown detector {name!r}{nearest(name, KNOWN)} Detectors: {', '.join(KNOWN)}"
    return (
        f"detector {name!r} has no weights of its own here: export one as TorchScript (pictures [N,3,H,W] in 0..255 "
        f"to {gives}) and pass --metrics.detector FILE.pt#sha256=<its checksum>"
    )


def _files(recipe: Recipe, path: str, expected: str) -> tuple[bytes, ...]:
    single = split_address(path)[1].endswith((".pth", ".safetensors"))
    if single and len(recipe.files) > 1:
        raise DetectorUnavailable(
            f"detector {recipe.name!r} is made of {' and '.join(f.name for f in recipe.files)}, but "
            f"metrics.detector={path} is one file; put them into a folder with: {_prefetch_command(recipe.name, None)}"
        )
    contents = []
    for file in recipe.files:
        where = path if single else join_address(path, file.name)
        content = _read(where)
        if content is None:
            raise DetectorUnavailable(
                f"detector {recipe.name!r} needs {where}, which does not exist; fetch it with: "
                f"{_prefetch_command(recipe.name, None if single or path == detector_folder() else path)}"
            )
        _check_sum(path, content, expected) if single else file.check(content)
        contents.append(content)
    return tuple(contents)


def _from_recipe(weights: Weights) -> Detector:
    recipe = RECIPES[weights.name]
    try:
        module = recipe.build(weights.contents)
    except (RuntimeError, KeyError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise DetectorUnavailable(
            f"detector {recipe.name!r}: {weights.path} does not hold its weights: {error}"
        ) from error
    return Detector(recipe.name, weights.sha256, recipe.resize, module.eval().requires_grad_(False))


def _script(name: str, path: str, expected: str, trust_script: bool) -> bytes:
    content = _read(path)
    if content is None:
        raise DetectorUnavailable(f"detector {name!r}: metrics.detector={path} does not exist; give the path of a file")
    if not expected and not trust_script:
        raise DetectorUnavailable(
            f"detector {name!r}: {path} is a program that this process would run. If you trust it, say so with its "
            f"checksum: --metrics.detector {path}#sha256={_sha256(content)}"
        )
    _check_sum(path, content, expected)
    return content


def _scripted(weights: Weights) -> Detector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script = torch.jit.load(io.BytesIO(weights.contents[0]), map_location="cpu")
        except RuntimeError as error:
            raise DetectorUnavailable(
                f"detector {weights.name!r}: {weights.path} is not a TorchScript file: {error}"
            ) from error
    keywords = RECIPES[weights.name].script_call if weights.name in RECIPES else ()
    return Detector(f"{weights.name}-script", weights.sha256, "by the script", Scripted(script, keywords))


class Scripted(nn.Module):
    """A TorchScript network as a detector."""

    def __init__(self, script: nn.Module, keywords: Sequence[str]) -> None:
        super().__init__()
        self.script = script.eval()
        names = {argument.name for argument in script.forward.schema.arguments}  # type: ignore[attr-defined]
        self.keywords = {keyword: True for keyword in keywords if keyword in names}
        self.scores = {"no_output_bias": True} if "no_output_bias" in names else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.script(images, **self.keywords)
        if isinstance(features, tuple):
            return features[0], features[1]
        # NVIDIA's Inception gives class probabilities when it is not asked for features.
        return features, None if self.scores is None else self.script(images, **self.scores)


def _state(content: bytes) -> dict[str, Tensor]:
    # weights_only: tensors and containers, no code.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _filled(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module


def _read(path: str) -> bytes | None:
    """The content of a file, None where there is none; raises DetectorUnavailable when it cannot be had."""
    folder, name = split_address(path)
    if path.startswith(URLS):
        return _downloaded(WeightFile(name, path), None)
    try:
        return Storage.at(folder).read(name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DetectorUnavailable(f"metrics.detector: {path} cannot be read: {error}") from error


def _downloaded(file: WeightFile, progress: Callable[[str, int, int], None] | None) -> bytes:
    content = bytearray()
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0)
            while part := response.read(1 << 20):
                content += part
                if progress:
                    progress(file.name, len(content), total)
    except OSError as error:
        raise DetectorUnavailable(
            f"{file.url} cannot be fetched ({error}); on a machine with access, download it and put it into "
            f"{detector_folder()} as {file.name}"
        ) from error
    return bytes(content)


def _prefetch_command(name: str, folder: str | None) -> str:
    return f"python jobs/evaluate.py prefetch {name}" + (f" --metrics.detector {folder}" if folder else "")


def _check_sum(path: str, content: bytes, expected: str) -> None:
    if not _sha256(content).startswith(expected.lower()):
        raise DetectorUnavailable(
            f"{path} has sha256 {_sha256(content)}, but {expected}... is expected; it is damaged or another file: "
            f"delete it and fetch it again"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
