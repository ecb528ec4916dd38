"""Files of w: out and in again, and what is refused."""

import bz2
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.images.generate import Sampler, stored_noise
from stylegan_ray.images.saved_w import load_w, save_w
from stylegan_ray.networks import build_generator


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(1)
    return build_generator(ModelConfig(z_dim=4, w_dim=4, mapping_fmaps=4, mapping_layers=1, fmap_max=4), 8, 3, 0)


def test_out_and_in_again(G, tmp_path):
    ws = Sampler(G).styles([0, 1, 2])
    noise = [torch.randn_like(maps) for maps in stored_noise(G.synthesis)]
    (tmp_path / "three.npz").write_bytes(save_w(ws))
    (tmp_path / "one.npz").write_bytes(save_w(ws[:1], noise))
    with np.load(tmp_path / "one.npz") as file:
        assert file["w"].dtype == np.float32 and file["w"].shape == (1, 4, 4)
        assert file.files == ["w", "noise0", "noise1", "noise2"]
    found = load_w([str(tmp_path / "three.npz")], G)
    assert torch.equal(found.ws, ws) and found.noise is None
    assert found.names == ["three-0000", "three-0001", "three-0002"]
    both = load_w([str(tmp_path / "three.npz"), str(tmp_path / "one.npz")], G)
    assert both.names[3] == "one" and both.noise is not None
    for maps, stored, own in zip(both.noise, stored_noise(G.synthesis), noise, strict=True):
        assert torch.equal(maps[2:3], stored) and torch.equal(maps[3:], own)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>", "expected an .npz file"),
        (save_w(torch.zeros(1, 6, 4)), r"\(1, 6, 4\).*\(N, 4, 4\)"),
        (save_w(torch.zeros(1, 4, 4), [torch.zeros(1, 1, 4, 4)]), "noise maps"),
        (save_w(torch.zeros(1, 4, 4)).replace(b"w.npy", b"v.npy"), "no array `w`"),
    ],
)
def test_other_files_are_refused(G, tmp_path, content, says):
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"--load-w .*w\.npz.*{says}"):
        load_w([str(path)], G)
    with pytest.raises(ConfigError, match="no such file"):
        load_w([str(tmp_path / "absent.npz")], G)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused(G, tmp_path):
    np.savez(tmp_path / "w.npz", w=np.full((1, 4, 4), 1e300))
    with pytest.raises(ConfigError, match=r"w\.npy holds numbers that are not finite"):
        load_w([str(tmp_path / "w.npz")], G)


def test_arrays_far_larger_than_their_file_are_refused(G, tmp_path):
    for name, array in (("packed", np.zeros((80 << 20,), np.int8)), ("small", np.zeros((20 << 20,), np.int8))):
        np.savez_compressed(tmp_path / f"{name}.npz", w=array)
        with pytest.raises(ConfigError, match=r"far more than"):
            load_w([str(tmp_path / f"{name}.npz")], G)
    np.savez(tmp_path / "none.npz", w=np.zeros((0, 4, 4), np.float32))
    with pytest.raises(ConfigError, match="with N of at least 1"):
        load_w([str(tmp_path / "none.npz")], G)
    np.savez(tmp_path / "names.npz", **{f"\x1b[2J\n{i}": np.zeros(1) for i in range(50)})
    with pytest.raises(ConfigError, match="no array `w`") as caught:
        load_w([str(tmp_path / "names.npz")], G)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def archive(data, method, file_size, num=1, flags=0):
    """A zip of entries of this data, which state another size."""
    head = struct.pack("<HHHIIIIHH", 20, flags, method, 0, 0, len(data), file_size, 5, 0)
    local = b"PK\3\4" + head + b"w.npy" + data
    central = b"PK\1\2" + struct.pack("<H", 20) + head + bytes(14) + b"w.npy"
    return local + central * num + b"PK\5\6" + struct.pack("<4x2H2IH", num, num, len(central) * num, len(local), 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive(bz2.compress(bytes(1 << 28)), zipfile.ZIP_BZIP2, 4000), "is encrypted, or compressed otherwise"),
        (archive(b"\t\4\5\0\x5d\xff\xff\xff\x7f" + bytes(100), zipfile.ZIP_LZMA, 4000), "compressed otherwise"),
        (archive(bytes(100), zipfile.ZIP_STORED, 100, flags=1), "is encrypted"),
        (archive(bytes(100), zipfile.ZIP_STORED, 0, num=2000), "more than 1,024 arrays"),
    ],
)
def test_only_what_numpy_writes_is_inflated(G, tmp_path, content, says):
    (tmp_path / "w.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=says):
        load_w([str(tmp_path / "w.npz")], G)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["w", "w.npy"])
def test_arrays_of_one_name_are_refused(G, tmp_path, other):
    np.savez(tmp_path / "w.npz", w=np.zeros((1, 4, 4), np.float32))
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive:
        archive.writestr(other, archive.read("w.npy"))
    with pytest.raises(ConfigError, match="holds w twice"):
        load_w([str(tmp_path / "w.npz")], G)


def test_nothing_in_a_file_is_executed(G, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'hit')!r}, 'w')",))

    np.savez(tmp_path / "w.npz", w=np.array([Bomb()], dtype=object))
    with pytest.raises(ConfigError, match=r"expected an .npz file"):
        load_w([str(tmp_path / "w.npz")], G)
    assert not (tmp_path / "hit").exists()
