"""Many names in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class PackedNames:
    """A sequence of names: each takes its characters and 8 bytes, also when pickled."""

    def __init__(self, characters: np.ndarray, ends: np.ndarray) -> None:
        self.characters, self.ends = characters, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> PackedNames:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

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
