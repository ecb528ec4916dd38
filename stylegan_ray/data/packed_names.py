"""Many names in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class PackedNames:
    """A sequence of names: each takes its characters and 8 bytes, also when pickled."""

    def __init__(self, characters: np.ndarray, ends: np.ndarray) -> None:
        self.characters, self.ends = characters, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> PackedNames:
        characters, ends = bytearray(), array("q")
        for name in names:
            characters += name.encode("utf-8", "surrogateescape")
            ends.append(len(characters))
        return cls(np.frombuffer(bytes(characters), dtype=np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.characters[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        characters, start = self.characters.tobytes(), 0
        for end in self.ends.tolist():
            yield characters[start:end].decode("utf-8", "surrogateescape")
            start = end
