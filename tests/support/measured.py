"""A toy data set for metrics, reports and tasks, and networks to measure."""

from __future__ import annotations

from support.toy import CHANNELS, LABELS, ToySet


class Pictures(ToySet):
    """Twelve pictures of 8x8 with labels."""

    num_channels, label_size = CHANNELS, LABELS
    fingerprint, path = "toy", "toy"

    @property
    def resolution(self):
        return self.shape[1:]

    def read(self, index, level=0):
        return self.micro_batch(range(index, index + 1))[0][0].numpy()


WHEN = ("seconds", "time", "total_sec")


def numbers(rows):
    """Rows without what depends on the clock on the wall."""
    return [{key: value for key, value in row.items() if key not in WHEN} for row in rows]
