"""Network files of this package, files that are none, and special files: refused by name, before memory is taken."""

import json
import os
import struct

import pytest
import safetensors.torch
import torch
from support.confined import outcomes, require_refused

from stylegan_ray.config import ClusterConfig, ReportConfig, RunSection
from stylegan_ray.interop import load_network, read_networks, save_network


def parts_of(content):
    """The tensors and the metadata of a file."""
    length = int.from_bytes(content[:8], "little")
    return safetensors.torch.load(content), json.loads(content[8 : 8 + length])["__metadata__"]


def with_header(header):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header


def spoiled(networks):
    """Files by what is wrong with them."""
    cfg, G, D, G_ema = networks
    content = save_network(G, D, G_ema, cfg, 1000, augment_p=0.25)
    tensors, metadata = parts_of(content)

    def changed(**values):
        return safetensors.torch.save(tensors, {key: v for key, v in (metadata | values).items() if v is not None})

    def model(**values):
        config = json.loads(metadata["config"])
        return changed(config=json.dumps(config | {"model": config["model"] | values}))

    def section(**values):
        return changed(config=json.dumps(json.loads(metadata["config"]) | values))

    def tensor(name, value):
        return safetensors.torch.save(tensors | {name: value}, metadata)

    some = "G.mapping.dense0.weight"
    entries = {name: {"dtype": "F32", "shape": list(t.shape), "data_offsets": [0, 0]} for name, t in tensors.items()}
    whole = {"__metadata__": metadata} | entries
    return {
        "layers": model(mapping_layers=10**6), "layers of D": model(D_mapping_layers=10**9),
        "wide": model(fmap_base=2**25, fmap_max=2**14, w_dim=2**14), "z": model(z_dim=2**62),
        "huge": model(z_dim=10**30),
        "filter of nothing": model(resample_kernel=[]), "filter of zeros": model(resample_kernel=[0, 0]),
        "filter that cancels": model(resample_kernel=[1, -1]), "long filter": model(resample_kernel=[1] * 10_000),
        "decay": model(fmap_decay=1e308), "decay that is text": model(fmap_decay="x" * 10_000),
        "family": model(family="\x1b[2J"), "unknown key": model(**{"\x1b[2J": 1}), "unknown section": section(boom=1),
        "section that is a list": section(model=[]), "config that is a list": changed(config="[]"),
        "config that is no JSON": changed(config="{"), "deep config": changed(config="[" * 100_000),
        "config with NaN": changed(config='{"loss": {"r1_gamma": NaN}}'), "long number": changed(config="9" * 5_000),
        "config with infinity": changed(config='{"loss": {"r1_gamma": 1e999}}'),
        "resolution": changed(resolution="[1048576, 1048576]"), "resolution of one": changed(resolution="[8]"),
        "resolution that is text": changed(resolution='["8", "8"]'), "resolution zero": changed(resolution="[0, 0]"),
        "resolution with a sign": changed(resolution="[-8, -8]"),
        "resolution of half": changed(resolution="[8.5, 8.5]"),
        "channels": changed(num_channels="1000000000"), "channels of text": changed(num_channels="x"),
        "labels": changed(label_size="1000000000000"), "labels with a sign": changed(label_size="-1"),
        "lod of NaN": changed(lod="NaN"), "lod with a sign": changed(lod="-1"), "lod": changed(lod="1e9"),
        "lod of networks that do not grow": changed(lod="0.5"),
        "lod of text": changed(lod="x\n\x1b[2J"), "clock with a sign": changed(cur_nimg="-5"),
        "clock": changed(cur_nimg="1" * 30), "clock of text": changed(cur_nimg="x"),
        "clock of half": changed(cur_nimg="0.5"),
        "p": changed(augment_p="7e9"), "p of NaN": changed(augment_p="NaN"), "p with a sign": changed(augment_p="-0.1"),
        "format": changed(format_version="999"), "format of text": changed(format_version='"x"'),
        "format of a list": changed(format_version="[]"),
        "format zero": changed(format_version="0"), "format with a sign": changed(format_version="-1"),
        "format that is true": changed(format_version="true"), "drange": section(train={"drange_net": [0, 1e-320]}),
        "parts": changed(parts="G Q"), "no parts": changed(parts=" "),
        "parts twice": changed(parts="G G"), "fewer parts": changed(parts="G D"), "no config": changed(config=None),
        "D that is a list": changed(D_model="[]"), "D": changed(D_model='{"mapping_layers": 1000000}'),
        "integers": tensor(some, torch.zeros(7, 6, dtype=torch.int64)), "booleans": tensor(some, torch.zeros(7, 6) > 1),
        "complex": tensor(some, torch.zeros(7, 6, dtype=torch.complex64)),
        "NaN": tensor(some, torch.full((7, 6), torch.nan)), "infinite": tensor(some, torch.full((7, 6), torch.inf)),
        "one NaN": tensor("G_ema.w_avg", torch.tensor([0.0, 1, 2, 3, torch.nan])),
        "shape": tensor(some, torch.zeros(6, 7)), "unknown tensor": tensor("G.surprise", torch.zeros(1)),
        "tensor of no network": tensor("Q.surprise", torch.zeros(1)),
        "name with escapes": tensor("\x1b[2J", torch.zeros(1)),
        "missing": safetensors.torch.save({k: v for k, v in tensors.items() if k != some}, metadata),
        "no metadata": safetensors.torch.save(tensors), "empty": b"", "one byte": b"\x80", "text": b"hello",
        "header beyond the file": struct.pack("<Q", 2**63) + b"{}", "header of 2 GB": struct.pack("<Q", 2**31) + b"{",
        "cut": content[:-10], "half": content[: len(content) // 2], "more": content + b"x", "header cut": content[:100],
        "header that is a list": struct.pack("<Q", 2) + b"{]", "deep header": with_header(b'{"a":' * 100_000),
        "header of integers": with_header(b'{"a": ' + b"9" * 5_000 + b"}"),
        "header not UTF-8": with_header(b'{"\xff": 1}'),
        "header with one key twice": with_header(b'{"a": 1, "a": 2}'),
        "huge shape": with_header(whole | {some: entries[some] | {"shape": [2**60, 2**60]}}),
        "negative shape": with_header(whole | {some: entries[some] | {"shape": [-1]}}),
        "places beyond the file": with_header(whole | {some: entries[some] | {"data_offsets": [0, 2**60]}}),
        "one place for all": with_header(whole),
        "tensors that are numbers": with_header({"__metadata__": metadata} | dict.fromkeys(entries, 1)),
        "metadata that is a list": with_header({"__metadata__": []}), "metadata of numbers": with_header({
            "__metadata__": dict.fromkeys(metadata, 1)}),
    }  # fmt: skip


def test_spoiled_files_are_refused_by_name(tmp_path, networks):
    files = spoiled(networks)
    for number, content in enumerate(files.values()):
        (tmp_path / f"network{number}.safetensors").write_bytes(content)
    paths = {case: str(tmp_path / f"network{number}.safetensors") for number, case in enumerate(files)}
    found = outcomes("stylegan_ray.interop.load_network", paths)
    require_refused(found, "ValueError")
    for case, outcome in found.items():
        assert os.path.basename(paths[case]) in outcome.message, (case, outcome)


def test_special_and_sparse_files_are_refused(tmp_path):
    """Devices, pipes, links in a circle and files of gigabytes that hold nothing; none is read."""
    os.mkfifo(tmp_path / "pipe.pkl")
    targets = {"zero": "/dev/zero", "kmsg": "/proc/kmsg", "mem": "/proc/self/mem", "link": "link.pkl"}
    for name, target in targets.items():
        os.symlink(target, tmp_path / f"{name}.pkl")
    (tmp_path / "folder.pkl").mkdir()
    for begin in (b"", b"\x80\x02", b"PK\x03\x04", struct.pack("<Q", 300) + b"{", struct.pack("<Q", 8 << 30) + b"{"):
        with open(tmp_path / f"sparse{begin.hex()[:30]}.pkl", "wb") as file:
            file.write(begin)
            file.truncate(8 << 30)
    paths = {path.name: str(path) for path in tmp_path.iterdir()}
    found = outcomes("stylegan_ray.interop.load_network", paths)
    for name, outcome in found.items():
        assert {"ValueError", "FileNotFoundError"} & {*outcome.kinds}, (name, outcome)
        assert name in outcome.message and outcome.taken < 100 << 20, (name, outcome)


def test_what_is_right_is_read(tmp_path, networks):
    cfg, G, D, G_ema = networks
    path = tmp_path / "network.safetensors"
    path.write_bytes(save_network(G, D, G_ema, cfg, 1000, augment_p=0.25))
    assert torch.equal(load_network(path)["G"].w_avg, G.w_avg)


def test_a_file_does_not_say_where_a_command_reads_or_connects(tmp_path, networks):
    cfg, G, D, G_ema = networks
    tensors, metadata = parts_of(save_network(G, D, G_ema, cfg, 1000))
    config = json.loads(metadata["config"]) | {
        "run": {"storage": "s3://somewhere", "name": "x"}, "cluster": {"address": "somewhere:6379"},
        "report": {"notify": "http://somewhere/x"},
    }  # fmt: skip
    config["data"]["path"], config["metrics"]["detector"] = "s3://bucket/x?scheme=http", "http://somewhere/detector"
    path = tmp_path / "network.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, metadata | {"config": json.dumps(config)}))
    found = read_networks(path).config
    assert (found.run, found.cluster, found.report) == (RunSection(), ClusterConfig(), ReportConfig())
    assert found.data.path is None and found.metrics.detector is None


def test_the_first_mistake_is_named(tmp_path, networks):
    files = spoiled(networks)
    path = tmp_path / "network.safetensors"
    for case, words in {
        "one NaN": "tensor w_avg of G_ema holds NaN", "integers": "holds I64, not floating-point",
        "p": "augment_p 7000000000.0 is not",
        "lod of NaN": "lod", "clock with a sign": "cur_nimg -5 is not", "layers": "mapping_layers=1000000.*128",
        "filter of nothing": "resample_kernel=.*at least 1", "unknown tensor": "surprise", "format": "999 is newer",
        "resolution": "resolution 1048576 is not", "format that is true": "format_version True is not an integer",
        "format zero": "format_version 0 is not", "drange": "drange_net.*1e-06 apart",
    }.items():  # fmt: skip
        path.write_bytes(files[case])
        with pytest.raises(ValueError, match=words):
            load_network(path)
