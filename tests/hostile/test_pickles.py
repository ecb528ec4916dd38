"""Pickles and files of torch.save that are made to take memory or time, or to end the interpreter."""

import io
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from support.confined import outcomes, require_refused
from support.pickled import Raw, array, call, module, name, network, opcodes, pickled

from stylegan_ray.interop import load_network

DEEP = b"N" + b"\x85" * 200_000
"""A tuple in a tuple in a tuple: hashing it overflows the stack of the interpreter."""
CODECS, ORDERED, EASY = name("_codecs", "encode"), name("collections", "OrderedDict"), name("dnnlib.util", "EasyDict")
ITSELF = Raw(b"]q\x00h\x00a")
"""A list that holds itself."""


def ada(G, **more):
    return pickled({"G": G, "D": G, "G_ema": G, **more})


def shared(depth):
    """Modules that hold the one before twice, by opcodes of a memo."""
    found = module()
    for index in range(depth):
        found = Raw(found + b"r" + struct.pack("<I", index) + b"0" + module(
            {"a": Raw(b"j" + struct.pack("<I", index)), "b": Raw(b"j" + struct.pack("<I", index))}
        ))  # fmt: skip
    return found


def nested(depth):
    """Modules that hold the one before."""
    found = module()
    for _ in range(depth):
        found = module({"a": found})
    return found


def kwargs(**values):
    """A generator of StyleGAN2-ADA without tensors, with these arguments."""
    return module(_init_args=(), _init_kwargs={
        "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 8, "img_channels": 3, **values,
    })  # fmt: skip


def itself():
    """A module that is its own part."""
    state = Raw(
        opcodes({"_parameters": {}, "_buffers": {}}) + b"q\x01X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00ss"
    )
    meta = Raw(b"}q\x00X\x05\x00\x00\x00state" + state + b"s")
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def storage(key="0", number=4, kind="FloatStorage"):
    return Raw(opcodes(("storage", name("torch", kind), key, "cpu", number)) + b"Q")


def view(size, stride, offset=0, of=None):
    return call(name("torch._utils", "_rebuild_tensor_v2"), of or storage(), offset, size, stride, False, None)


def archive(content, data=b"\0" * 16, method=zipfile.ZIP_STORED, root="archive", **entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        target.writestr(f"{root}/data.pkl", content)
        target.writestr(f"{root}/data/0", data)
        for entry, value in entries.items():
            target.writestr(f"{root}/{entry}", value)
    return file.getvalue()


def legacy(number, data=b"\0" * 16, kind="FloatStorage", content=None):
    magic = pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({"little_endian": True})
    content = (
        {"g": {"input.input": view((4,), (1,), 0, storage(number=number, kind=kind))}} if content is None else content
    )
    head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"".join(magic[1:])
    return head + pickled(content) + pickled(["0"]) + struct.pack("<q", number) + data


def tf(**changes):
    variables = [("lod", array(np.float32(0)))]
    return pickled((network(**{"variables": variables} | changes),) * 3)


PICKLES = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\x3f.",
    "memo index as text": b"Np1000000000\n.",
    "get without put": b"\x80\x02j\xff\xff\xff\x7f.",
    "deep key": b"\x80\x02}" + DEEP + b"Ns.",
    "deep key of items": b"\x80\x02}(" + DEEP + b"Nu.",
    "deep key of dict": b"\x80\x02(" + DEEP + b"Nd.",
    "deep member of a set": b"\x80\x04\x8f(" + DEEP + b"\x90.",
    "deep member of frozenset": b"\x80\x04(" + DEEP + b"\x91.",
    "deep member by call": b"\x80\x02cbuiltins\nset\n]" + DEEP + b"a\x85R.",
    "deep key of ordered": b"\x80\x02" + ORDERED + b"]" + DEEP + b"N\x86a\x85R.",
    "deep key of easy": b"\x80\x02" + EASY + b"]" + DEEP + b"N\x86a\x85\x81.",
    "deep key set into easy": b"\x80\x02" + EASY + b")\x81" + DEEP + b"Ns.",
    "deep attribute names": b"\x80\x02" + name("dnnlib.tflib.network", "Network") + b")\x81}" + DEEP + b"Nsb.",
    "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep name of a dtype": b"\x80\x02" + name("numpy", "dtype") + DEEP + b"\x89\x88\x87R.",
    "build a function": b"\x80\x02" + CODECS + b"q\x00}X\x04\x00\x00\x00funch\x00sb.",
    "build a function by tuple": b"\x80\x02" + CODECS + b"q\x00(h\x00)}Ntb.",
    "build a list": b"\x80\x02]}b.",
    "build slots": b"\x80\x02" + EASY + b"N}X\x07\x00\x00\x00__len__K\x00s\x86b.",
    "build what holds itself": b"\x80\x02" + name("numpy", "ndarray") + b")\x81q\x00(h\x00h\x00h\x00h\x00h\x00tb.",
    "object of a function": b"\x80\x02" + CODECS + b")\x81.",
    "length of bytes": b"\x80\x04B\xff\xff\xff\xff.",
    "length of bytes, 8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "length of text, 8": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "length of bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "length of an integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "long integer": b"\x80\x02" + opcodes(1 << 100_000) + b".",
    "long decimal": b"L" + b"9" * 1_000_000 + b"L\n.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "many opcodes": b"\x80\x02" + b"N0" * 1_500_000 + b"N.",
    "many lists": b"\x80\x02(" + b"]" * 3_000_000 + b"t.",
    "many marks": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "text many times": b"\x80\x02" + opcodes("\xff" * 5_000_000) + b"q\x000" + (
        CODECS + b"h\x00X\x06\x00\x00\x00latin1\x86R0") * 2_000 + b"N.",
    "no stop": b"\x80\x02NNN", "empty stack": b"\x80\x02.", "pop of nothing": b"\x80\x020.", "only the begin": b"\x80",
    "pop of a mark": b"\x80\x02(1.", "items of nothing": b"\x80\x02(NNu.", "append to text": b"\x80\x02X\x01\0\0\0aNa.",
    "odd items": b"\x80\x02}(Nu.", "unknown opcode": b"\x80\x02\xff.", "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02NQ.", "persistent text": b"\x80\x02Pabc\n.", "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.", "call of text": b"\x80\x02X\x01\0\0\0a)R.", 
    "call of nothing": b"\x80\x02" + CODECS + b"NR.",
    "codec": b"\x80\x02" + CODECS + b"X\x01\0\0\0aX\x03\0\0\0zip\x86R.",
    "codec itself": b"\x80\x02" + CODECS + ITSELF + ITSELF + b"\x86R.",
    "stack name": b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "stack name of lists": b"\x80\x04]]\x93.",
    "name with escapes": b"cos\x1b[2J\nsys\x07tem\n.", 
    "name of dots": b"\x80\x04\x8c\x05numpy\x8c\x0clib.os.system\x93.",
    "array of objects": pickled(array(np.zeros(1), "O8")),
    "array of void": pickled(array(np.zeros(1), "V1000000000")),
    "array of fields": pickled(array(np.zeros(1), "i4,i4")),
    "array of dates": pickled(array(np.zeros(1), "M8[s]")),
    "array without content": pickled(array(None, "f4", (1 << 40,), b"")),
    "array of a negative side": pickled(array(None, "f4", (-1,), b"abcd")),
    "array of many sides": pickled(array(None, "f4", (1,) * 100, b"abcd")),
    "array of 2**62 sides": pickled(array(None, "f4", (1 << 62, 1 << 62, 0), b"")),
    "array of text": pickled(array(None, "f4", ("1",), b"abcd")),
    "array itself": pickled(call(name("numpy", "ndarray"), ITSELF)),
    "storage": pickled(call(name("torch.storage", "_load_from_bytes"), b"\x80\x02Nr\xff\xff\xff\x3f.")),
    "storage of an archive": pickled(call(name("torch.storage", "_load_from_bytes"), archive(pickled([])))),
    "storage of nothing": pickled(call(name("torch.storage", "_load_from_bytes"), b"")),
    "nothing else": pickled([]), "other keys": pickled({"G": 1, 2: 3}), "text": pickled("G"),
}  # fmt: skip
NETWORKS = {
    "modules held twice": ada(shared(40)),
    "modules held a thousand times": ada(module({str(i): module() for i in range(3_000)})),
    "module in itself": ada(itself()),
    "modules nested deeply": ada(nested(200)),
    "modules that are numbers": ada(module({"a": 1})),
    "modules that are a list": ada(module(["a"])),
    "tensor that is a number": ada(module({}, {"w": 5}, _init_args=(), _init_kwargs={})),
    "no arguments": ada(module()),
    "resolution": ada(kwargs(img_resolution=2**20)),
    "resolution of 2**200": ada(kwargs(img_resolution=2**200)),
    "resolution negative": ada(kwargs(img_resolution=-8)),
    "resolution a list": ada(kwargs(img_resolution=[8, 8, 8])),
    "resolution none": ada(kwargs(img_resolution=None)),
    "layers": ada(kwargs(mapping_kwargs={"num_layers": 10**7})),
    "layers negative": ada(kwargs(mapping_kwargs={"num_layers": -1})),
    "layers text": ada(kwargs(mapping_kwargs={"num_layers": "8" * 100_000})),
    "layers float": ada(kwargs(mapping_kwargs={"num_layers": 1e300})),
    "z": ada(kwargs(z_dim=10**9)), "w": ada(kwargs(w_dim=10**15)), "classes": ada(kwargs(c_dim=10**12)),
    "channels": ada(kwargs(img_channels=10**9)),
    "wide": ada(kwargs(synthesis_kwargs={"channel_base": 10**9, "channel_max": 10**9})),
    "base as text": ada(kwargs(synthesis_kwargs={"channel_base": "x"})),
    "filter": ada(kwargs(synthesis_kwargs={"resample_filter": [1] * 100_000})),
    "filter of nothing": ada(kwargs(synthesis_kwargs={"resample_filter": []})),
    "filter of NaN": ada(kwargs(synthesis_kwargs={"resample_filter": [float("nan")]})),
    "filter in itself": ada(kwargs(synthesis_kwargs={"resample_filter": ITSELF})),
    "clamp": ada(kwargs(synthesis_kwargs={"conv_clamp": float("nan")})),
    "arguments in themselves": ada(Raw(kwargs(synthesis_kwargs=Raw(b"}q\x05X\x01\0\0\0ah\x05s")))),
    "arguments nested deeply": ada(kwargs(synthesis_kwargs=Raw(b"}X\x01\0\0\0a" * 5_000 + b"N" + b"s" * 5_000))),
    "many arguments": ada(kwargs(**{f"key{i}": i for i in range(2_000)})),
    "many unknown arguments": ada(kwargs(**{f"\x1b[2J{i}": i for i in range(100)})),
    "augmentation": ada(kwargs(), augment_pipe=5),
    "tf without variables": pickled((network(None),) * 3),
    "tf of unknown functions": tf(func="\x1b[2J" + "x" * 100_000),
    "tf of a function that is a list": tf(func=ITSELF),
    "tf of a large resolution": tf(kwargs={"resolution": 2**30}),
    "tf of many layers": tf(kwargs={"mapping_layers": 10**8}),
    "tf of many channels": tf(kwargs={"num_channels": 10**8}),
    "tf of many classes": tf(kwargs={"label_size": 10**12}),
    "tf of many styles": tf(kwargs={"dlatent_broadcast": 10**9}),
    "tf of a synthesis that is a list": tf(kwargs={"synthesis_func": ITSELF}),
    "tf of components in themselves": pickled((Raw(
        name("dnnlib.tflib.network", "Network") + b")\x81q\x07" + opcodes({
            "build_func_name": "G_main", "static_kwargs": {}, "variables": [], "components": {"a": Raw(b"h\x07")},
        }) + b"b"),) * 3),
    "tf of variables that are numbers": tf(variables=[("lod", 5)]),
    "tf of variables without values": tf(variables=[("lod",)]),
    "tf of variables with lists as names": tf(variables=[(ITSELF, array(np.float32(0)))]),
    "tf of many variables": tf(variables=[(f"x{i}", array(np.float32(0))) for i in range(3_000)]),
}  # fmt: skip
TORCH = {
    "a list": archive(pickled([1, 2])), "empty": archive(pickled({})), "no pickle": archive(b""),
    "memo index": archive(PICKLES["memo index"]), "deep key": archive(PICKLES["deep key"]),
    "build": archive(PICKLES["build a function"]), "code": archive(b"cos\nsystem\nX\x04\0\0\0true\x85R."),
    "stride 0": archive(pickled({"g": {"input.input": view((40_000, 40_000), (0, 0))}})),
    "beyond its storage": archive(pickled({"g": {"input.input": view((4,), (2,))}})),
    "offset": archive(pickled({"g": {"input.input": view((4,), (1,), 1 << 61)}})),
    "negative stride": archive(pickled({"g": {"input.input": view((4,), (-1,), 3)}})),
    "sizes that overflow": archive(pickled({"g": {"input.input": view((1 << 61, 8), (1, 1))}})),
    "empty and wide": archive(pickled({"g": {"input.input": view((0, 1 << 61), (1, 1))}})),
    "shapes of text": archive(pickled({"g": {"input.input": view(("4",), (1,))}})),
    "number of a storage": archive(pickled({"g": {"input.input": view((4,), (1,), 0, storage(number=1 << 40))}})),
    "kind of a storage": archive(pickled({"g": {"input.input": view((4,), (1,), 0, storage(kind="IntStorage"))}})),
    "key of a storage": archive(pickled({"g": {"input.input": view((4,), (1,), 0, storage(key="../../etc/group"))}})),
    "key of a list": archive(pickled({"g": {"input.input": view((4,), (1,), 0, storage(key=ITSELF))}})),
    "deflated": lambda: archive(pickled({"g": {}}), bytes(256 << 20), zipfile.ZIP_DEFLATED),
    "bzip2": lambda: archive(pickled({"g": {}}), bytes(16 << 20), zipfile.ZIP_BZIP2),
    "many entries": lambda: archive(pickled({"g": {}}), **{f"e{i}": b"" for i in range(25_000)}),
    "a program": archive(pickled({"g": {}}), **{"constants.pkl": b""}),
    "big endian": archive(pickled({"g": {}}), byteorder=b"big"),
    "version needed": archive(pickled({"g": {}})).replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x5a"),
    "encrypted": archive(pickled({"g": {}})).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
    "method": archive(pickled({"g": {}})).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"),
    "checksum": archive(pickled({"g": {}})).replace(
        struct.pack("<I", zlib.crc32(pickled({"g": {}}))), b"\0\0\0\0"),
    "cut": archive(pickled({"g": {}}))[:-30],
    "half": archive(pickled({"g": {"input.input": view((4,), (1,))}})),
    "only the mark": b"PK\x03\x04",
    "names of nothing": archive(pickled({"g": {"input.input": view((4,), (1,))}}), root=""),
    "state of lists": archive(pickled({"g": []})), "state of numbers": archive(pickled({"g": {"input.input": 1}})),
    "unknown tensors": archive(pickled({"g": {"\x1b[2J": view((4,), (1,))}})),
    "keys with escapes": archive(pickled({"\x1b[2J\n" * 1_000: 1})),
    "flat kernel": archive(pickled({"g": {
        "input.input": view((1, 1, 2, 2), (1, 1, 1, 1)), "convs.0.conv.blur.kernel": view((4,), (1,))}})),
    "legacy": legacy(4), "legacy of a large number": legacy(1 << 40), "legacy of a negative number": legacy(-1),
    "legacy of integers": legacy(2, kind="LongStorage"), "legacy without numbers": legacy(4, b""),
    "legacy deep": legacy(4, content=Raw(b"}" + DEEP + b"Ns")), "legacy of a view": legacy(4, content={
        "g": Raw(opcodes(("storage", name("torch", "FloatStorage"), "0", "cpu", 4, ("1", 0, 4))) + b"Q")}),
    "legacy half": legacy(4)[:40], "legacy list": legacy(4, content=[storage()]),
}  # fmt: skip


def again(value, function, num):
    """A list of what a function makes, again and again, of one value."""
    stored = opcodes((value,)) + b"q\x010" + function + b"q\x020"
    return b"\x80\x02" + stored + b"(" + b"h\x02h\x01R" * num + b"l."


def long_arguments():
    """200 arguments, each of 200, each of 200, each of 200 without values."""
    found = opcodes({f"a{i}": None for i in range(200)})
    for index in range(3):
        held = Raw(b"j" + struct.pack("<I", index))
        found += b"r" + struct.pack("<I", index) + b"0" + opcodes({f"a{i}": held for i in range(200)})
    return Raw(found)


def components_held_often():
    """Three levels of eight components, the last of which is one record of many variables."""
    record = network([(f"x{i}", array(np.float32(0))) for i in range(500)])
    for index in range(3):
        held = Raw(b"j" + struct.pack("<I", index))
        of_eight = network([], components={f"c{i}": held for i in range(8)})
        record = Raw(record + b"r" + struct.pack("<I", index) + b"0" + of_eight)
    return record


def tensors_held_often():
    """One tensor of 4 MB under 100 names, in each kind of file; the networks would copy it."""
    names, data = [f"style.{i}.weight" for i in range(1, 101)], bytes(4 << 20)
    size, get = 1 << 20, Raw(b"h\x09")
    in_pickle = call(STORAGE, legacy(size, data, content=Raw(storage(number=size))))
    tensor = Raw(view((1 << 10, 1 << 10), (1 << 10, 1), of=in_pickle) + b"q\x09")
    state = dict.fromkeys(names, get) | {names[0]: Raw(view((size,), (1,), of=storage(number=size)) + b"q\x09")}
    variables = [(name, get) for name in names]
    variables[0] = names[0], Raw(array(np.zeros(size, np.float32)) + b"q\x09")
    return {
        "a tensor held often by rosinality's": archive(pickled({"g": state}), data),
        "a tensor held often by modules": ada(module({}, dict.fromkeys(names, get) | {names[0]: tensor})),
        "an array held often": pickled((network(variables),) * 3),
    }


ITEMS = [f"a{i}" for i in range(20_000)]
STORAGE, SET = name("torch.storage", "_load_from_bytes"), name("builtins", "set")
MULTIPLIED = {
    "storage of opcodes": (
        again(legacy(1, content=Raw(b"N0" * 100_000 + storage(number=1))), STORAGE, 1_000), "opcodes"),
    "sets of one list": (again(ITEMS, SET, 2_000), "much more memory"),
    "dictionaries of one": (again(dict.fromkeys(ITEMS), ORDERED, 2_000), "much more memory"),
    "arguments of one tuple": (
        b"\x80\x02" + opcodes(tuple(ITEMS)) + b"q\x010" + name("numpy", "ndarray") + b"q\x020("
        + b"h\x02h\x01R" * 20_000 + b"l.", "much more memory"),
    "keys of one hash": (pickled({i * (2**61 - 1): None for i in range(10_000)}), "bits as a key"),
    "many passing names": (
        ada(module(_non_persistent_buffers_set=ITEMS)), "more than 10,000 modules, tensors or variables"),
    "tensors held often": (
        ada(module({"0": Raw(module({}, dict.fromkeys(ITEMS[:500])) + b"q\x03")}
            | {str(i): Raw(b"h\x03") for i in range(1, 100)})), "more than 10,000 modules, tensors or variables"),
    "arguments held often": (ada(module(_init_args=(), _init_kwargs=long_arguments())), "arguments .* too many"),
    "components held often": (
        pickled((components_held_often(),) * 3), "more than 10,000 modules, tensors or variables"),
    "long names of modules": (ada(module({"k" * 1000: module()})), "part named kkk.*at most 200 characters"),
    "long names of components": (
        pickled((network([], components={"c" * 1000: network([])}),) * 3), "part named ccc.*at most 200 characters"),
    "long names of arguments": (ada(module(_init_args=(), _init_kwargs={"k" * 1000: {"a": 1}})), "one named kkk"),
    "kernels": (archive(pickled({"g": {f"convs.0.{i}kernel": view((2, 2), (2, 1)) for i in range(1_001)}})),
        "1,001 tensors"),
    **{case: (content, r"much more memory .*\(tensor .*of 4") for case, content in tensors_held_often().items()},
}  # fmt: skip


@pytest.mark.parametrize("case", MULTIPLIED)
def test_what_a_file_holds_once_is_not_worked_on_many_times(tmp_path, case):
    """All work of reading counts, so that these files are refused within seconds."""
    content, words = MULTIPLIED[case]
    (tmp_path / "file.pkl").write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ValueError, match=words):
        load_network(tmp_path / "file.pkl")
    assert time.process_time() - begin < 5


KINDS = {"networks": NETWORKS, "torch": TORCH, "pickles": PICKLES}
"""In the order of opening: those that take most memory come last, and leave the others none that they could reuse."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What opening each file does, by kind and case, all in one process, which imports torch once; and their paths."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {(kind, case): folder / f"{kind}{i}.pkl" for kind in KINDS for i, case in enumerate(KINDS[kind])}
    for (kind, case), path in paths.items():
        content = KINDS[kind][case]
        path.write_bytes(content() if callable(content) else content)  # large ones are made where they are needed
    found = outcomes("stylegan_ray.interop.load_network", {case: str(path) for case, path in paths.items()})
    return {kind: {case: outcome for case, outcome in found.items() if case[0] == kind} for kind in KINDS}, paths


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_are_refused_by_name(opened, kind):
    found, paths = opened
    require_refused(found[kind], "ValueError", most_bytes=400 << 20)
    assert len(found[kind]) == len(KINDS[kind])
    for case, outcome in found[kind].items():
        assert paths[case].name in outcome.message, (case, outcome)


def test_the_writer_of_these_pickles_writes_arrays_and_tensors_that_are_read():
    """Else the cases above would be refused for a fault of the test."""
    from stylegan_ray.interop.torch_files import read_torch_file
    from stylegan_ray.interop.unpickler import load_pickle

    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(np.asarray(load_pickle(pickled({"a": array(value)}))["a"]), value)
    data = np.arange(4, dtype=np.float32).tobytes()
    for content in (
        archive(pickled({"g": view((2, 2), (2, 1))}), data),
        legacy(4, data, content={"g": view((2, 2), (2, 1))}),
    ):
        assert torch.equal(read_torch_file(content)["g"], torch.arange(4.0).reshape(2, 2))
    record = load_pickle(pickled(module({"a": module()}, x=[1, (2.5, None, True)])))
    assert record.state["x"] == [1, (2.5, None, True)] and record.state["_modules"]["a"].state["_modules"] == {}
