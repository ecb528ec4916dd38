"""A block of tensors is the file that the safetensors library writes, and a copy."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from support.toy import toy_config, toy_state

from stylegan_ray.packed_tensors import DTYPES, PackedTensors

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a é": torch.arange(12.0).view(3, 4).t(),
    "step": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 4),
}
CONTIGUOUS = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
METADATA = {"one": "1", "two": "é\n"}


def test_the_content_is_what_the_library_writes():
    for tensors in ({}, TENSORS, toy_state(toy_config()).tensors()):
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        assert PackedTensors(tensors).content == safetensors.torch.save(contiguous)


def test_metadata_is_in_the_header():
    packed, written = PackedTensors(TENSORS, METADATA).content, safetensors.torch.save(CONTIGUOUS, METADATA)
    assert header(packed) == header(written) and bytes(packed).endswith(TENSORS["flags"].numpy().tobytes())


def header(content):
    return json.loads(bytes(content[8 : 8 + int.from_bytes(content[:8], "little")]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_each_dtype(dtype):
    tensors = {"odd": torch.ones(3, dtype=torch.uint8), "x": torch.arange(5).to(dtype), "y": torch.ones(1, dtype=dtype)}
    packed = PackedTensors(tensors)
    read = safetensors.torch.load(bytes(packed.content))
    for name, tensor in tensors.items():
        assert read[name].dtype == packed[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor) and torch.equal(packed[name], tensor)


def test_it_is_a_copy_of_the_same_shapes_and_its_views_are_the_content():
    packed = PackedTensors(TENSORS)
    assert {name: tensor.shape for name, tensor in packed.items()} == {name: t.shape for name, t in TENSORS.items()}
    assert all(packed[name].data_ptr() != tensor.data_ptr() for name, tensor in TENSORS.items() if tensor.numel())
    before = np.frombuffer(packed.content, np.uint8).copy()
    packed["b"].fill_(9.0)
    assert (np.frombuffer(packed.content, np.uint8) != before).any()


def test_the_block_of_a_spare_copy_is_taken_where_it_has_the_size():
    spare = PackedTensors(TENSORS)
    place = spare["b"].data_ptr()
    again = PackedTensors({**TENSORS, "b": torch.ones(2, 3)}, spare=spare)
    assert again["b"].data_ptr() == place and again["b"].sum() == 6
    assert again.content == PackedTensors({**TENSORS, "b": torch.ones(2, 3)}).content
    larger = PackedTensors({**TENSORS, "b": torch.ones(3, 3)}, spare=again)
    assert larger["b"].data_ptr() != place and larger["b"].sum() == 9 and again["b"].sum() == 6


def test_the_memory_goes_with_the_last_view():
    packed = PackedTensors({"x": torch.ones(1000)})
    view = packed["x"]
    del packed
    assert view.sum() == 1000
