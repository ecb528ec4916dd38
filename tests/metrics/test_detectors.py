"""Where detectors come from."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stylegan_ray.metrics import detectors
from stylegan_ray.metrics.detectors import (
    DetectorUnavailable,
    Recipe,
    WeightFile,
    load_detector,
    prefetch,
    read_weights,
)
from stylegan_ray.metrics.tiny_detector import FILE
from stylegan_ray.metrics.vgg16 import WIDTHS, vgg_layers


class Toy(nn.Module):
    """Channel means, times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor):
        return images.float().mean(dim=(2, 3)) * self.weight, None


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def weights():
    """The bytes of a file of weights."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.tensor([1.0, 2.0, 3.0])}, buffer)
    return buffer.getvalue()


@pytest.fixture
def recipe(monkeypatch, tmp_path, weights):
    """A detector `toy` of one small file, which is ready to be fetched."""
    source = tmp_path / "source.pth"
    source.write_bytes(weights)
    file = WeightFile("toy.pth", source.as_uri(), sha256(weights)[:8])
    made = Recipe("toy", (file,), "none", lambda files: detectors._filled(Toy(), detectors._state(files[0])))
    monkeypatch.setitem(detectors.RECIPES, "toy", made)
    return source


SCRIPTS = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
IMAGES = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_tiny_detector_needs_nothing():
    detector = load_detector("tiny")
    content = (Path(detectors.__file__).parent / FILE).read_bytes()
    assert (detector.name, detector.sha256) == ("tiny-openmoji", sha256(content))
    features, logits = detector(IMAGES)
    assert features.shape == (40, 96) and logits.shape == (40, 12)


def test_missing_weights_name_the_command_that_fetches_them(recipe, cache_folder, monkeypatch, tmp_path):
    with pytest.raises(DetectorUnavailable, match=r"toy.pth, which does not exist.*prefetch toy$"):
        load_detector("toy")
    with pytest.raises(DetectorUnavailable, match=r"prefetch toy --metrics.detector /some/where$"):
        load_detector("toy", "/some/where")
    with pytest.raises(DetectorUnavailable, match=r"/some/where/weights.pth, which does not exist"):
        load_detector("toy", "/some/where/weights.pth")


def test_fetched_weights_are_found(recipe, cache_folder):
    (path,) = prefetch(["toy", "tiny"])
    assert path == str(cache_folder / "detectors" / "toy.pth")
    features, logits = load_detector("toy")(IMAGES)
    torch.testing.assert_close(features, IMAGES.float().mean(dim=(2, 3)) * torch.tensor([1.0, 2.0, 3.0]))
    assert logits is None


def test_weights_are_fetched_once(recipe, tmp_path):
    calls = []
    prefetch(["toy"], str(tmp_path / "shared"), progress=lambda *now: calls.append(now))
    assert calls[-1][0] == "toy.pth" and calls[-1][1] == recipe.stat().st_size
    recipe.unlink()
    prefetch(["toy"], str(tmp_path / "shared"))
    assert load_detector("toy", str(tmp_path / "shared")).name == "toy"


def test_the_folder_can_be_shared_by_environment(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_DETECTORS", str(tmp_path / "shared"))
    prefetch(["toy"])
    assert (tmp_path / "shared" / "toy.pth").is_file() and load_detector("toy").resize == "none"


def test_a_failed_download_says_what_to_do(recipe):
    recipe.unlink()
    with pytest.raises(DetectorUnavailable, match=r"cannot be fetched .* download it and put it into .* as toy.pth"):
        prefetch(["toy"])


def test_wrong_content_is_neither_kept_nor_used(recipe, cache_folder, weights):
    recipe.write_bytes(weights + b"x")
    with pytest.raises(DetectorUnavailable, match=f"toy.pth has sha256 .* but {sha256(weights)[:8]}... is expected"):
        prefetch(["toy"])
    folder = cache_folder / "detectors"
    assert not (folder / "toy.pth").exists()
    folder.mkdir(parents=True)
    (folder / "toy.pth").write_bytes(weights + b"x")
    with pytest.raises(DetectorUnavailable, match="is damaged or another file"):
        load_detector("toy")


def test_one_file_may_be_named_with_its_checksum(recipe, weights):
    assert load_detector("toy", f"{recipe}#sha256={sha256(weights)}").sha256 == sha256(weights)
    with pytest.raises(DetectorUnavailable, match=r"but 0123... is expected"):
        load_detector("toy", f"{recipe}#sha256=0123")


def test_weights_may_be_at_a_url(recipe, weights, tmp_path):
    (tmp_path / "toy.pth").write_bytes(weights)
    for address in (recipe.as_uri(), f"{recipe.as_uri()}#sha256={sha256(weights)}", tmp_path.as_uri()):
        assert load_detector("toy", address).sha256 == sha256(weights)
    with pytest.raises(DetectorUnavailable, match="cannot be fetched"):
        load_detector("toy", (tmp_path / "nowhere").as_uri())
    with pytest.raises(DetectorUnavailable, match=r"but 0123\.\.\. is expected"):
        load_detector("toy", f"{recipe.as_uri()}#sha256=0123")


def test_weights_can_be_sent_to_another_process(recipe, weights, cache_folder):
    prefetch(["toy"])
    sent = pickle.loads(pickle.dumps(read_weights("toy")))
    before = torch.random.get_rng_state()
    assert torch.equal(sent.build()(IMAGES)[0], load_detector("toy")(IMAGES)[0])
    assert torch.equal(torch.random.get_rng_state(), before), "building a detector draws random numbers"


def test_a_file_of_weights_executes_nothing(recipe, tmp_path):
    trace = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    recipe.write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    with pytest.raises(DetectorUnavailable, match="does not hold its weights"):
        load_detector("toy", str(recipe))
    assert not trace.exists()


def test_weights_of_another_network_are_refused(recipe):
    torch.save({"other": torch.ones(3)}, recipe)
    with pytest.raises(DetectorUnavailable, match=r"(?s)does not hold its weights.*other"):
        load_detector("toy", str(recipe))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300, 3, True])
def test_weights_that_are_no_finite_floats_are_refused(recipe, value):
    torch.save({"weight": torch.tensor([value] * 3, dtype=torch.float64 if isinstance(value, float) else None)}, recipe)
    with pytest.raises(DetectorUnavailable, match=r"does not hold its weights: tensor weight holds"):
        load_detector("toy", str(recipe))


def test_counts_of_batches_are_whole_numbers(recipe, monkeypatch):
    norm = nn.BatchNorm2d(3)
    made = Recipe("toy", (), "none", lambda files: detectors._filled(norm, detectors._state(recipe.read_bytes())))
    monkeypatch.setitem(detectors.RECIPES, "toy", made)
    torch.save(nn.BatchNorm2d(3).state_dict(), recipe)
    assert load_detector("toy", str(recipe)).module is norm


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lin2.model.1.weight", torch.full((1, 256, 1, 1), torch.nan), "holds NaN"),
        ("lin2.model.1.weight", torch.full((1, 256, 1, 1), 1e300, dtype=torch.float64), "holds NaN or infinite"),
        ("lin2.model.1.weight", torch.ones(1, 256, 1, 1, dtype=torch.int64), "holds torch.int64"),
        ("lin2.model.1.weight", torch.ones(1), "size mismatch"), ("lin2.model.1.weight", None, "lin2"),
    ],
)  # fmt: skip
def test_weights_of_lpips_are_checked(monkeypatch, name, value, says):
    heads = {f"lin{block}.model.1.weight": torch.ones(1, widths[-1], 1, 1) for block, widths in enumerate(WIDTHS)}
    heads = {key: tensor for key, tensor in (heads | {name: value}).items() if tensor is not None}
    backbone = {f"features.{key}": tensor for key, tensor in vgg_layers().state_dict().items()}
    contents = []
    for state in (backbone | {"": torch.ones(1)}, heads):
        torch.save(state, file := io.BytesIO())
        contents.append(file.getvalue())
    with pytest.raises(DetectorUnavailable, match=f"lpips.* does not hold its weights: .*{says}"):
        detectors.Weights("lpips", tuple(contents), "folder").build()


def test_names_of_tensors_are_escaped(recipe):
    torch.save({"\x1b[2J\nother": torch.ones(3)}, recipe)
    with pytest.raises(DetectorUnavailable, match=r"does not hold its weights.*other") as caught:
        load_detector("toy", str(recipe))
    assert str(caught.value).isprintable()


def test_weights_by_numbers_are_refused(recipe):
    buffer = io.BytesIO()
    torch.save({1: torch.zeros(1)}, buffer)
    recipe.with_name("toy.pth").write_bytes(buffer.getvalue())
    with pytest.raises(DetectorUnavailable, match="something other than tensors by name"):
        load_detector("toy", str(recipe.parent / "toy.pth"))


@pytest.mark.parametrize("address", ["http://ho st/x.pth", "http://[bad/x.pth"])
def test_malformed_addresses_of_weights(recipe, address):
    with pytest.raises(DetectorUnavailable, match="cannot be fetched"):
        read_weights("toy", address)


def test_a_detector_of_two_files_needs_a_folder(recipe):
    with pytest.raises(DetectorUnavailable, match=r"vgg16-397923af.pth and weights-vgg16-lpips.pth.*prefetch lpips"):
        load_detector("lpips", str(recipe))


@pytest.mark.parametrize(
    ("name", "said"), [("dinov2", "features"), ("celeba", "attributes"), ("tinny", "did you mean 'tiny'")]
)
def test_detectors_without_a_recipe_say_what_to_do(name, said):
    with pytest.raises(DetectorUnavailable, match=said):
        load_detector(name)
    with pytest.raises(DetectorUnavailable, match=said):
        prefetch([name])


class Script(nn.Module):
    """Answers like NVIDIA's Inception file."""

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        x = img.float().mean(dim=(2, 3))
        if return_features:
            return x
        return torch.softmax(x[:, :2], dim=1) if no_output_bias else x * 0


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Script()).save(str(path))
    return path


@SCRIPTS
def test_a_script_runs_only_when_it_is_trusted(script):
    checksum = sha256(script.read_bytes())
    with pytest.raises(DetectorUnavailable, match=f"is a program .*#sha256={checksum}"):
        load_detector("inception", str(script))
    with pytest.raises(DetectorUnavailable, match="is expected"):
        load_detector("inception", f"{script}#sha256=beef")
    for detector in (
        load_detector("inception", f"{script}#sha256={checksum}"),
        load_detector("inception", str(script), True),
    ):
        assert (detector.name, detector.sha256, detector.resize) == ("inception-script", checksum, "by the script")
        features, probs = detector(IMAGES)
        torch.testing.assert_close(features, IMAGES.float().mean(dim=(2, 3)))
        torch.testing.assert_close(probs, torch.softmax(features[:, :2], dim=1))


@SCRIPTS
def test_a_script_without_keywords_gives_features(tmp_path):
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean(dim=(2, 3))

    path = tmp_path / "dino.pt"
    torch.jit.script(Plain()).save(str(path))
    features, logits = load_detector("dinov2", str(path), trust_script=True)(IMAGES)
    assert features.shape == (40, 3) and logits is None
    path.write_bytes(b"no archive")
    with pytest.raises(DetectorUnavailable, match="is not a TorchScript file"):
        load_detector("dinov2", str(path), trust_script=True)


def test_gray_images_have_three_equal_channels(recipe):
    gray = load_detector("toy", str(recipe))(IMAGES[:, :1])[0]
    torch.testing.assert_close(gray / torch.tensor([1.0, 2.0, 3.0]), gray[:, :1].expand(-1, 3))
