"""Every reader of foreign files takes whole files, and a few hundred damaged ones without an unexpected error.

`tests/fuzz/run.py` searches much longer, guided by the code that inputs reach.
"""

import logging
import random
import subprocess

import pytest
from fuzz import run
from fuzz.seeds import FINDINGS
from fuzz.table import PAGE, with_table
from fuzz.targets import TARGETS, PrintableLog, attempt

NUM = 60
STRANGE = [b"", b"\0", b"\n", b"\xff" * 64, b"\x80\x02", b"[" * 100_000, b"PK\x03\x04"]


@pytest.fixture(autouse=True)
def log():
    """A log that raises where a message forges lines."""
    logger, handler = logging.getLogger("stylegan_ray"), PrintableLog()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def damaged(content, rng):
    """The file with some bytes changed, deleted, repeated or inserted."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice([1, 1, 2, 4, 16, 64])
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + size] = rng.randbytes(size)
        elif kind == 1:
            del changed[at : at + size]
        elif kind == 2:
            changed[at:at] = changed[at : at + size] * rng.choice([1, 3])
        else:
            changed[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f"]) * size
    return bytes(changed)


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_read_and_damaged_ones_refused(name):
    target, rng = TARGETS[name], random.Random(name)
    starts = target.seeds()
    for content in starts:
        target.read(content)
    for _ in range(NUM):
        content = damaged(rng.choice(starts), rng)
        try:
            attempt(target, content)
        except Exception as error:
            raise AssertionError(f"{name} fails on {content!r}") from error


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in FINDINGS for content in FINDINGS[name]])
def test_what_fuzzing_has_found(name, content):
    attempt(TARGETS[name], content)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("content", STRANGE, ids=lambda content: repr(content[:8]))
def test_short_and_strange_files(name, content):
    attempt(TARGETS[name], content)


def test_the_docs_show_the_recorded_runs():
    assert with_table(PAGE.read_text()) == PAGE.read_text(), "run python tests/fuzz/table.py"


def test_a_record_names_the_commit_that_is_checked_out(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "code.py").touch()
    git("init", "-q")
    git("add", "code.py")
    git("commit", "-q", "-m", "one")
    record = tmp_path / "record.jsonl"
    record.touch()
    assert len(run.commit_of_this_code(str(record))) == 40
    (tmp_path / "code.py").write_text("changed")
    with pytest.raises(SystemExit, match=r"code\.py is not committed"):
        run.commit_of_this_code(str(record))
