"""Many names in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class Names:
    """A sequence of names: a million of them cost their characters and 8 bytes each, also when pickled."""

    def __init__(self, joined: np.ndarray, ends: np.ndarray) -> None:
        self.joined, self.ends = joined, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.joined[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        joined, start = self.joined.tobytes(), 0
        for end in self.ends.tolist():
            yield joined[start:end].decode("utf-8", "surrogateescape")
            start = end
