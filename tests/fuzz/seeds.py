"""Small whole files of every kind that is read, as the first inputs of fuzzing."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
import yaml
from support.data_sets import encoded, label_json, noise_picture
from support.foreign import idx, python2_pickle
from support.networks import ada_module, built
from support.pickled import pickled

from stylegan_ray.config import ModelConfig, RunConfig, load_config
from stylegan_ray.data import formats
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.finished import Finished
from stylegan_ray.data.formats import tfrecord_wire
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.write import WriteTask
from stylegan_ray.images.saved_w import save_w
from stylegan_ray.interop import rosinality, tf_pickle
from stylegan_ray.interop.native import Networks, networks_from_bytes, save_network
from stylegan_ray.lease import Claim, Owner
from stylegan_ray.readers.protocol import Contents, pack_contents
from stylegan_ray.run_folder import CONFIG, COUNTERS, STATE

TINY = {
    "model.z_dim": 4, "model.w_dim": 4, "model.mapping_layers": 1, "model.mapping_fmaps": 4, "model.fmap_base": 8,
    "model.fmap_max": 4,
}  # fmt: skip


@cache
def network_files() -> list[bytes]:
    """Network files of ours for 8x8 pixels, of about 15 and 6 kB: all networks, and G_ema alone."""
    cfg = load_config("config-f", TINY)
    G, D, G_ema = built(cfg, (8, 8), 3, 0)
    return [_with_short_config(save_network(*parts, cfg, 1000)) for parts in ((G, D, G_ema), (None, None, G_ema))]


def _with_short_config(content: bytes) -> bytes:
    """A network file that states the keys of the configuration that differ from their defaults."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"] | {"config": json.dumps({"model": changed_model()})}
    return safetensors.torch.save(safetensors.torch.load(content), metadata)


def changed_model() -> dict[str, Any]:
    model, defaults = load_config("config-f", TINY).model.model_dump(mode="json"), ModelConfig().model_dump(mode="json")
    return {key: value for key, value in model.items() if value != defaults[key]}


@cache
def networks() -> Networks:
    return networks_from_bytes(network_files()[0])


def tensorflow_pickles() -> list[bytes]:
    return [tf_pickle.write(networks()).content]


def rosinality_files() -> list[bytes]:
    """A file of torch.save, and the same in the format before torch 1.6."""
    content = rosinality.write(networks()).content
    older = io.BytesIO()
    torch.save(torch.load(io.BytesIO(content)), older, _use_new_zipfile_serialization=False)
    return [content, older.getvalue()]


def ada_pickles() -> list[bytes]:
    """Networks in the form of StyleGAN2-ADA's PyTorch programs."""
    found = networks()
    return [pickled({part: ada_module(network, found.config.model) for part, network in found.parts().items()})]


@cache
def config() -> RunConfig:
    return load_config("tiny", {})


@cache
def network_configs() -> list[bytes]:
    """config.yaml of a checkpoint: the keys of the networks, and with them one section of the others each.

    Together they hold all keys; a whole file takes much longer to read.
    """
    model = yaml.safe_dump({"model": changed_model()}).encode()
    others = [section for section in _sections() if not section.startswith(b"model:")]
    return [model, *(model + section for section in others)]


@cache
def presets() -> list[bytes]:
    """The sections of a configuration one by one, and YAML in the ways that people write it."""
    return [
        *_sections(),
        b"model:\n  fmap_base: 8\n",
        b"loss.r1_gamma: 10  # a comment\n'run': {\"name\": 'a b', seed: 0x1f}\n",
        b'---\nmetrics: {names: [fid5k_tiny, "kid5k_tiny"]}\n...\n',
        b"run:\n  name: >-\n    a\n    b\ndata: {resolution: [8, 16], cond: yes}\n",
    ]


def _sections() -> list[bytes]:
    """The sections of a configuration file."""
    tree = networks().config.model_dump(mode="json")
    return [yaml.safe_dump({name: values}, sort_keys=False).encode() for name, values in tree.items()]


def counters() -> list[bytes]:
    """state.json of a checkpoint."""
    return [json.dumps({"cur_nimg": 1000, "prev_lod": 0.0}).encode()]


def spaces() -> list[bytes]:
    return [
        b"schedule.G_lrate: {loguniform: [0.0005, 0.01]}\ntrain.G_reg_interval: {choice: [1, 2]}\n",
        b"run.seed: {grid: [0, 1]}\ndata.subset: 200\n",
    ]


@cache
def checkpoint_tensors() -> bytes:
    """state.safetensors of a checkpoint, without optimizers."""
    return safetensors.torch.save({**safetensors.torch.load(network_files()[0]), "pl_mean": torch.zeros(())})


@cache
def checkpoint() -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {STATE: checkpoint_tensors(), CONFIG: network_configs()[0], COUNTERS: counters()[0]}


def zips() -> list[bytes]:
    return [_zip(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def _zip(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in _labeled_images().items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tars() -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(2):
            for name, content in ((f"{i}.png", image()), (f"{i}.cls", str(i).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        end = archive.offset + 2 * tarfile.BLOCKSIZE  # without the zeros that fill the last 10 kB
    return [buffer.getvalue()[:end]]


def parquets() -> list[bytes]:
    table = pa.table({"image": [{"bytes": image(), "path": "a.png"}] * 2, "label": [0, 1]})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return [buffer.getvalue()]


def tfrecords() -> list[bytes]:
    pixels = np.zeros((3, 8, 8), dtype=np.uint8)
    return [tfrecord_wire.frame_records([tfrecord_wire.encode_example(pixels)] * 2)]


def images() -> list[bytes]:
    """One picture in each allowed format."""
    kinds = {"PNG": "RGBA", "JPEG": "RGB", "WEBP": "RGB", "BMP": "RGB", "TIFF": "L", "GIF": "L", "PPM": "RGB"}
    return [image(kind, mode) for kind, mode in kinds.items()]


def image(kind: str = "PNG", mode: str = "RGB") -> bytes:
    return encoded(noise_picture(0, (8, 8), mode), kind)


def write_task(dest: str) -> WriteTask:
    """Four images of 8 px, two at a time, that are to be written to a zip; they cannot be read."""
    dataset = Dataset(
        "d", None, PackedNames.pack(f"{i}.png" for i in range(4)), np.arange(4), None, 0, (8, 8), 3, "fingerprint", {}
    )
    return WriteTask(dataset, formats.by_name("zip"), dest, [np.arange(2), np.arange(2, 4)])


def finished_files() -> list[bytes]:
    """A file with both plans finished."""
    with TemporaryDirectory() as folder:
        file = Finished(write_task(f"{folder}/data.zip"), Path(folder, "finished"))
        for number in range(2):
            file.store(number, [image(), image("PNG", "L")])
        file.close()
        return [Path(folder, "finished").read_bytes()]


def labels() -> list[bytes]:
    return [
        label_json([["0.png", 0], ["1.png", 2]]),
        label_json([["0.png", [0.0, 1.0]], ["1.png", [1.0, 0.0]]]),
        json.dumps({"labels": None, "class_names": ["a"]}).encode(),
    ]


def _labeled_images() -> dict[str, bytes]:
    return {"0.png": image(), "1.png": image(), "dataset.json": labels()[0]}


def saved_ws() -> list[bytes]:
    return [save_w(torch.zeros(1, networks().G_ema.synthesis.num_ws, 4))]


def rows() -> list[bytes]:
    row = {"metric": "fid5k_tiny", "value": 3.5, "nimg": 1000, "checkpoint": "x.safetensors"}
    return [json.dumps(row).encode() + b"\n" + json.dumps(row | {"value": None}).encode() + b"\n"]


def plain_pickles() -> list[bytes]:
    return [pickle.dumps({"a": [1, 2.0, ("b", None)], "c": b"x"}, protocol) for protocol in (0, 2, 4)]


def idx_files() -> list[bytes]:
    return [idx(np.arange(32, dtype=np.uint8).reshape(2, 4, 4))]


def idx_archives() -> list[bytes]:
    return [gzip.compress(content, mtime=0) for content in idx_files()]


def cifar_batches() -> list[bytes]:
    """A batch of one image of CIFAR-10, and the names of its classes."""
    data = np.zeros((1, 3072), dtype=np.uint8)
    return [python2_pickle({b"labels": [1], b"data": data}), python2_pickle({b"label_names": [b"cat", b"dog"]})]


def attributes() -> list[bytes]:
    """The attribute files of CelebA, and of its copy at Kaggle."""
    return [b"2\nBald Young\n000.jpg -1 1\n001.jpg  1 -1\n", b"image_id,Bald,Young\n000.jpg,-1,1\n001.jpg,1,-1\n"]


def lmdb_keys() -> list[bytes]:
    """Lines: the key `length`, then the other keys of an LMDB."""
    return [b"2\n8-00000\n8-00001\n16-00000\n16-00001", b"1\n256-00000"]


def contents() -> list[bytes]:
    """What a reader's child process begins with."""
    return [
        pack_contents(Contents(["a", "b"], np.array([0, 1], dtype=np.int32), ["cat", "dog"], ["a note"])),
        pack_contents(Contents(["a"])),
    ]


def leases() -> list[bytes]:
    return [Owner.of_this_process("train", [Claim("run"), Claim("seed", 0, 63)]).content(1)]


def npys() -> list[bytes]:
    found = []
    for array in (np.arange(4, dtype=np.int32), np.ones((2, 3), dtype=np.float32, order="F")):
        np.save(buffer := io.BytesIO(), array)
        found.append(buffer.getvalue())
    return found


FINDINGS: dict[str, list[bytes]] = {
    "cifar": [b"\x80\x02c\x1bposix\nmkdir\nU\x04harm\x85R."],
    "attributes": [b",", b"1\nBald\n,\n"],
    "npy": [b"\x93NUMPY\x01\x00v\x00{'".ljust(128, b"\x7f"), b"\x93NUMPY\x01\x00v\x00".ljust(128, b"(")],
}
"""Inputs on which readers once failed, by target."""
