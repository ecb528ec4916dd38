"""The boundary to bytes that strangers wrote: sizes, inflating, JSON, YAML, messages, and one error per entry point."""

import io
import json
import os
import pickle
import threading
import time
import tracemalloc
import zlib
from math import isnan

import pytest

from stylegan_ray.config import ConfigError
from stylegan_ray.data import DataError
from stylegan_ray.untrusted import (
    BadFileError,
    Turn,
    UserError,
    inflate,
    open_regular,
    printable,
    read_at_most,
    read_file,
    reading,
)
from stylegan_ray.untrusted_text import parse_json, parse_yaml


class OtherError(ValueError):
    """An error class of a caller."""


class Panic(BaseException):
    """What a panic of a Rust library looks like."""


Panic.__name__ = "PanicException"


@pytest.mark.parametrize(
    "raised",
    [
        RecursionError("maximum recursion depth exceeded"), MemoryError(), OverflowError("too large"), KeyError("x"),
        EOFError(), StopIteration(), AssertionError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        Panic("rust"), OSError(22, "Invalid argument"), RuntimeError("two\nlines \x1b[2J"), NotImplementedError(),
        ValueError("invalid literal for int() with base 10: b'\\x89PNG\\r'"), ValueError(),
    ],
    ids=lambda raised: type(raised).__name__,
)  # fmt: skip
def test_whatever_a_parser_raises_leaves_as_one_printable_error_with_the_name(raised):
    with pytest.raises(OtherError) as caught, reading("folder/file.bin", OtherError):
        raise raised
    assert str(caught.value).startswith("folder/file.bin: cannot be read: ") and str(caught.value).isprintable()
    assert str(caught.value).endswith("; it may be damaged or incomplete: copy or download it again")


@pytest.mark.parametrize(("raised", "shown"), [
    (ValueError("a name of some length: " + "x" * 60), "a name of some length: " + "x" * 60),
    (KeyError(34), "KeyError: 34"), (EOFError(), "EOFError"), (ValueError([["x"] * 100] * 100), "ValueError("),
])  # fmt: skip
def test_errors_are_shown_by_their_message(raised, shown):
    assert printable(raised).startswith(shown) and len(printable(raised)) < 300


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_are_never_caught(raised):
    with pytest.raises(raised), reading("file"):
        raise raised


def test_our_own_errors_keep_their_class_and_message():
    with pytest.raises(UserError, match=r"^key=3 is wrong$"), reading("file", OtherError):
        raise UserError("key=3 is wrong")
    with pytest.raises(OtherError, match=r"^file: it has no end$"), reading("file", OtherError):
        raise BadFileError("it has no end")
    with pytest.raises(OtherError, match=r"^file has no end$"), reading("file", OtherError):
        raise BadFileError("file has no end")
    with pytest.raises(FileNotFoundError), reading("file", OtherError, passes=(OSError,)):
        raise FileNotFoundError(2, "no such file")


def test_each_argument_of_an_error_is_a_printable_line():
    error = ConfigError("a \x1b[2J\n is wrong:", "  b\u202e", "x" * 100_000)
    assert str(error).splitlines()[:2] == ["a \\x1b[2J\\n is wrong:", "  b\\u202e"] and len(str(error)) < 20_000
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == str(ConfigError(*again.args)) and type(again) is ConfigError
    assert str(DataError("a\nb")) == "a\\nb"


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(BadFileError, match=r"5 B, more than the limit of 4 B; raise data\.limit"):
        read_file(path, 4, "data.limit")
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/zero", tmp_path / "pipe", tmp_path):
        with pytest.raises((BadFileError, OSError)):
            read_file(name, 100)
    with open("/proc/self/maps", "rb") as endless:
        assert read_at_most(endless, 100, "maps") == b""
    with open_regular(path) as file:
        assert file.read() == b"12345"


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadFileError, match="1100 GB"):
        read_file(tmp_path / "sparse", 1 << 20)


def test_a_large_file_of_holes_is_refused(tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.write(b"\x80\2")
        file.truncate(1 << 30)
    with pytest.raises(BadFileError, match=r"holes: 1\.074 GB, of which only .* are on the disk; it may be damaged"):
        read_file(tmp_path / "holes", 1 << 31)


def test_contents_are_in_memory_once(tmp_path):
    size = 40 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    packed = zlib.compress(bytes(size), wbits=-15)
    for read in (lambda: read_file(tmp_path / "file", size), lambda: inflate(packed, size)):
        tracemalloc.start()
        assert len(read()) == size
        assert tracemalloc.get_traced_memory()[1] < 1.4 * size
        tracemalloc.stop()


def test_one_thread_at_a_time_holds_something_large():
    turn, events, holds = Turn(), [], threading.Event()

    def hold():
        with turn, turn:
            turn.take()
            turn.take()
            holds.set()
            time.sleep(0.2)
            events.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    turn.take()  # outside of a block nothing is held
    with turn:
        turn.take()
        events.append("second")
    thread.join()
    assert events == ["first", "second"]


def test_a_stream_without_a_size_is_read_up_to_the_limit():
    class Endless:
        asked = 0

        def read(self, size):
            self.asked += size
            return b"x" * size

    stream = Endless()
    with pytest.raises(BadFileError, match="more than the limit"):
        read_at_most(stream, 1000, "stream")
    assert stream.asked <= 1002
    assert read_at_most(io.BytesIO(b"abc"), 3, "bytes") == b"abc"


def test_inflating_stops_at_the_limit():
    bomb = zlib.compress(bytes(50 << 20), 9)
    with pytest.raises(BadFileError, match=r"inflates to more than the limit of 1\.049 MB; raise data\.limit"):
        inflate(bomb, 1 << 20, "entry", "data.limit", wbits=15)
    assert inflate(zlib.compress(b"abc"), 3, wbits=15) == b"abc"
    assert inflate(zlib.compress(b""), 0, wbits=15) == b""
    with pytest.raises(BadFileError, match="ends early"):
        inflate(zlib.compress(b"abc" * 1000)[:-6], 1 << 20, wbits=15)
    with pytest.raises(BadFileError, match="damaged"):
        inflate(b"\xff\xff\xff", 1 << 20)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "nested more than"),
        (b"[" * 40 + b"]" * 40, "nested more than"),
        (b'{"a": ' * 1_000 + b"1" + b"}" * 1_000, "nested more than"),
        (b"[1,\n 2", "line 2, column 3"),
        (b"9" * 5_000, "an integer of 5000 digits"),
        (b"[1e999]", "1e999 is not finite"),
        (b"[NaN]", "NaN is not finite"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{\n"\xe9": 1}', "line 2, column 2: byte 0xe9 is not UTF-8"),
        (b"", "not JSON"),
        (b"\x00", "not JSON"),
        (b"[" + b"1," * 600_000 + b"1]", "more than the limit"),
    ],
)
def test_json_that_is_refused(content, problem):
    with pytest.raises(BadFileError, match=problem) as caught:
        parse_json(content, "run.json")
    assert str(caught.value).startswith("run.json") and str(caught.value).isprintable()


def test_json_that_is_read():
    value = {"a": [1, 2.5, -3, True, None, "[[[[" * 50, "\\\"]"], "b": {"c": {}}}  # fmt: skip
    assert parse_json(json.dumps(value).encode(), "file") == value
    assert parse_json(b"\xef\xbb\xbf[1]", "file") == [1]
    assert isnan(parse_json(b"[NaN]", "file", allow_nan=True)[0])
    assert parse_json(b"[[[]]]" + b" " * 10, "file", depth=3) == [[[]]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: !!python/object/apply:os.system [true]", r"line 1, column 4: tags"),
        (b"a: !!str 1", "tags"),
        (b"a: ! 1", "tags"),
        (b"a: &x [1]\nb: *x", r"line 1, column 4: anchors and aliases"),
        (b"a: *x", "anchors and aliases"),
        (b"a: &x 1", "anchors and aliases"),
        (b"loss: {r1_gamma: 1}\nloss: {pl_weight: 2}", r"line 2, column 1: .*'loss' appears twice, first in line 1"),
        (b"a:\n\tb: 1", r"line 2, column 1: .*; indent with spaces, not tabs"),
        ("name: für".encode("latin-1"), r"line 1, column 8: byte 0xfc is not UTF-8; save"),
        ("name: für".encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b"a: [1, 2", "line 1"),
        (b"a: 1\n b: 2", "line 2"),
        (b"seed: " + b"9" * 5_000, r"line 1, column 7: an integer of 5000 characters"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"- " * 20_000, "nested more than 32 deep"),
        (b"{a: " * 20_000, "nested more than 32 deep"),
        (b"? " * 20_000, "nested more than 32 deep"),
        (b"[" + b"1," * 30_000 + b"]", "more than 20000 values"),
        (b"? [1, 2]\n: 3", "a key must be a word or a number"),
        (b"a: 1\n---\nb: 2", "line 2"),
        (b"a: \x07", "line 1, column 4"),
        (b"%TAG ! tag:x,2000:\n---\na: !b 1", "tags"),
        (b"a: 1 # " + b"x" * (1 << 18), "more than the limit"),
        (b"a: 0x_", r"line 1, column 4: not YAML: 0x_ is no number; write digits"),
        (b"a: 1\nb: 0b_", r"line 2, column 4: not YAML: 0b_ is no number"),
        (b'a: 1\nb: "\\Uffffffff"', "line 2: not YAML that can be read: .*; correct it there"),
        (b'a: 1\nb: "\\U00110000"', "line 2: not YAML that can be read: .*; correct it there"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(content, problem):
    with pytest.raises(BadFileError, match=problem) as caught:
        parse_yaml(content, "preset.yaml")
    assert str(caught.value).startswith("preset.yaml") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"num_workers: 2:8", {"num_workers": "2:8"}),
        (b"a: 1:30.5", {"a": "1:30.5"}),
        (b"fused_scale: on", {"fused_scale": "on"}),
        (b"a: 2020-01-01", {"a": "2020-01-01"}),
        (b"a: 010", {"a": "010"}),
        (b"{a: 1_000, b: -2, c: 0x10, d: 0, e: +3}", {"a": 1000, "b": -2, "c": 16, "d": 0, "e": 3}),
        (b"{a: 1.5, b: 1.0e-08, c: .5, d: 1., e: .inf}", {"a": 1.5, "b": 1e-8, "c": 0.5, "d": 1.0, "e": float("inf")}),
        (b"{a: true, b: False, c: null, d: ~, e: }", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        (b"{8: 28, 16: 24}", {8: 28, 16: 24}),
        (b"{<<: {a: 1}, b: 2}", {"<<": {"a": 1}, "b": 2}),
        (b"", None),
        (b"# only a comment\n", None),
        (b"a: 'x # y'", {"a": "x # y"}),
        (b"\xef\xbb\xbfa: b", {"a": "b"}),
    ],
)
def test_yaml_that_is_read(content, value):
    assert parse_yaml(content, "preset.yaml") == value
    assert parse_yaml(content.decode("utf-8-sig"), "preset.yaml") == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain / text ü 漢", "plain / text ü 漢"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("\udc80", r"\udc80"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        (b"\xff\x00a", r"\xff\x00a"),
        ("x" * 1_000_000, "x" * 197 + "..."),
        (b"x" * 1_000_000, "x" * 197 + "..."),
        ({"a": 1}, "{'a': 1}"),
        (None, "None"),
    ],
)
def test_foreign_text_is_escaped_in_messages(text, shown):
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_a_value_that_holds_itself_many_times_has_a_short_message():
    value = []
    for _ in range(60):
        value = [value, value]
    assert len(printable(value)) <= 200
    assert printable(10**5_000) == f"<an integer of {(10**5_000).bit_length()} bits>"
