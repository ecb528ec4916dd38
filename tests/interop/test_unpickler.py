"""Pickles are data: whatever else they ask for is refused before it runs."""

import collections
import io
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from stylegan_ray.interop import load_network
from stylegan_ray.interop.unpickler import UnsafePickleError, load_pickle


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "attack",
    [lambda path: Call(os.system, f"touch {path}"), lambda path: Call(subprocess.call, ["touch", path]),
     lambda path: Call(eval, f"open({str(path)!r}, 'w')"), lambda path: Call(open, str(path), "w"),
     lambda path: Call(getattr, str, "join"), lambda path: Call(__import__, "antigravity")],
    ids=["system", "subprocess", "eval", "open", "getattr", "import"],
)  # fmt: skip
def test_code_is_refused_and_does_not_run(tmp_path, attack, protocol):
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    content = pickle.dumps((attack(trace), 1, 2), protocol=protocol)
    path.write_bytes(content)
    with pytest.raises(UnsafePickleError, match="networks do not need"):
        load_pickle(content)
    with pytest.raises(ValueError, match=r"evil\.pkl"):
        load_network(path)
    assert not trace.exists()


def test_code_inside_a_tensor_is_refused(tmp_path):
    """Storages are pickles within the pickle."""
    trace = tmp_path / "trace"
    inner = pickle.dumps(Call(os.system, f"touch {trace}"), protocol=2)
    content = pickle.dumps({"G": Call(torch.storage._load_from_bytes, inner)})
    with pytest.raises(UnsafePickleError, match="cannot be read"):
        load_pickle(content)
    assert not trace.exists()


def test_module_source_is_never_run(tmp_path):
    """What the PyTorch port's files carry: its loader executes this text."""
    trace = tmp_path / "trace"
    content = _pickle_calling(
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
        {"type": "class", "module_src": f"open({str(trace)!r}, 'w')", "class_name": "Generator", "state": {"a": 1}},
    )
    record = load_pickle(content)
    assert record.state == {"a": 1} and not trace.exists()


def _pickle_calling(name, argument):
    """A protocol 0 pickle that calls a named function with one argument, without having that function."""
    inner = pickle.dumps(argument, protocol=0)[:-1]
    return name + b"(" + inner + b"tR."


def test_known_classes_cannot_be_spoiled_for_the_next_file():
    """A pickle cannot set attributes on what it names."""
    with pytest.raises(UnsafePickleError):
        load_pickle(b"\x80\x02cdnnlib.util\nEasyDict\nN}(X\x07\x00\x00\x00__len__K\x00u\x86b.")
    fresh = load_pickle(b"\x80\x02cdnnlib.util\nEasyDict\n)\x81.")
    assert len(fresh) == 0


def test_plain_data_comes_through():
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3), "f2": np.float16([0.5]), "big": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3)),
    }  # fmt: skip
    tensors = {"t": torch.arange(6.0).reshape(2, 3).t(), "h": torch.ones(2, dtype=torch.float16)}
    for protocol in range(2, 6):
        loaded = load_pickle(pickle.dumps({**arrays, "o": collections.OrderedDict(a=1), "s": {1, 2}}, protocol))
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.asarray(loaded[name]), array)
            assert np.asarray(loaded[name]).dtype == array.dtype
        assert loaded["o"] == {"a": 1} and loaded["s"] == {1, 2}
    loaded = load_pickle(pickle.dumps({**tensors, "p": torch.nn.Parameter(torch.ones(3))}))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(loaded["p"], torch.ones(3))


def test_arrays_of_objects_are_refused():
    with pytest.raises(UnsafePickleError, match="numbers"):
        load_pickle(pickle.dumps(np.array([{}], dtype=object)))


def test_damaged_pickles_are_refused():
    content = pickle.dumps({"a": np.arange(100.0)})
    for damaged in (content[:50], b"\x80\x04garbage", b"", io.BytesIO(b"\x80").read()):
        with pytest.raises(UnsafePickleError):
            load_pickle(damaged)


def test_tensors_cannot_reach_beyond_their_storage():
    storage = torch.ones(4).untyped_storage()
    typed = torch.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    content = pickle.dumps(Call(torch._utils._rebuild_tensor_v2, typed, 0, (100,), (1,), False, None))
    with pytest.raises(UnsafePickleError, match="cannot be read"):
        load_pickle(content)
    assert storage.nbytes() == 16
