"""3x3 convolution with a quarter of the multiplications, as matrix products: F(4x4, 3x3) of Lavin and Gray (2016).

Tiles of 6x6 pixels, 4 apart, are transformed; there a convolution is a product of matrices for each of 36 places.
The tiles of a few rows are taken at a time, so that what lies between the steps stays in the processor's cache.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from stylegan_ray.ops.pieces import Piece, cut

STEP, TILE, PLACES = 4, 6, 36

OF_PIXELS = [
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]  # fmt: skip
OF_KERNELS = [
    [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
]  # fmt: skip
TO_PIXELS = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class Matrices(NamedTuple):
    """The transforms along one side; that of kernels for both sides at once."""

    pixels: Tensor
    """B^T of the paper [6,6]."""
    kernels: Tensor
    """G for both sides [36,9]."""
    result: Tensor
    """A^T [4,6]."""


@cache
def matrices(dtype: torch.dtype) -> Matrices:
    """The transforms in a data type."""
    pixels, kernels, result = (torch.tensor(rows, dtype=torch.float64) for rows in (OF_PIXELS, OF_KERNELS, TO_PIXELS))
    return Matrices(pixels.to(dtype), torch.kron(kernels, kernels).to(dtype), result.to(dtype))


def convolution(x: Tensor, w: Tensor) -> Tensor:
    """x [N,I,H,W] convolved with w [O,I,3,3] at stride 1 and padding 1; sides are multiples of 4. No autograd.

    Computes in the data type of w; the result has that of x, and its channels last in memory.
    """
    n, channels, height, width = x.shape
    out_channels, use = len(w), matrices(w.dtype)
    kernels = use.kernels @ w.permute(2, 3, 0, 1).reshape(9, -1)  # [36,O*I]
    kernels = kernels.view(PLACES, out_channels, channels).transpose(1, 2)  # [36,I,O]
    size, like = (n, out_channels, height, width), {"dtype": x.dtype, "device": x.device}
    y = torch.empty(size, memory_format=torch.channels_last, **like)  # type: ignore[call-overload]
    tiles_of_y = tiles_of(y.permute(0, 2, 3, 1), STEP)  # [4,4,N,th,tw,O]
    pieces = pieces_of(x, out_channels)
    tiles_of_x = Transformed(x, use.pixels, 1, pieces[0])
    products = w.new_empty(PLACES, tiles_of_x.num, out_channels)
    result = BothSides(use.result, products.view(TILE, TILE, -1))
    pixels = result.whole.view(tiles_of_y[:, :, pieces[0].samples, pieces[0].rows].shape)
    for piece in pieces:
        torch.bmm(tiles_of_x(piece), kernels, out=products)  # [36,T,O]
        result()
        tiles_of_y[:, :, piece.samples, piece.rows].copy_(pixels)
    return y


def weight_gradient(x: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient [O,I,3,3] of such a convolution's weights, from that of its output [N,O,H,W], in a data type."""
    channels, out_channels, use = x.shape[1], grad.shape[1], matrices(dtype)
    pieces = pieces_of(x, out_channels)
    tiles_of_x = Transformed(x, use.pixels, 1, pieces[0])
    tiles_of_grad = Transformed(grad, use.result.t().contiguous(), 0, pieces[0])
    kernels = torch.zeros(PLACES, out_channels, channels, dtype=dtype, device=x.device)
    for piece in pieces:
        kernels.baddbmm_(tiles_of_grad(piece).transpose(1, 2), tiles_of_x(piece))  # [36,O,I]
    w = use.kernels.t() @ kernels.view(PLACES, -1)  # [9,O*I]
    return w.t().reshape(out_channels, channels, 3, 3)


class Transformed:
    """The tiles of x [N,C,H,W], T pixels wide and STEP apart, after a transform [6,T]; their memory is used again."""

    def __init__(self, x: Tensor, transform: Tensor, padding: int, piece: Piece) -> None:
        (_, channels, self.height, self.width), tile = x.shape, transform.shape[1]
        self.x, self.padding = x.permute(0, 2, 3, 1), padding  # [N,H,W,C]
        self.num = piece.num_rows * (self.width // STEP)
        num, rows = piece.samples.stop, piece.rows.stop  # the first piece begins at 0
        size = (num, (rows - 1) * STEP + tile, self.width + 2 * padding, channels)
        self.padded = transform.new_zeros(size) if padding else None
        self.tiles = tiles_of(self.x if self.padded is None else self.padded, tile)
        self.copied = transform.new_empty(tile, tile, num, rows, self.width // STEP, channels)
        self.both_sides = BothSides(transform, self.copied.view(tile, tile, -1))
        self.result = self.both_sides.whole.view(PLACES, self.num, channels)

    def __call__(self, piece: Piece) -> Tensor:
        """Those of a piece, as matrices [36,T,C]."""
        if self.padded is None:
            self.copied.copy_(self.tiles[:, :, piece.samples, piece.rows])
        else:
            self._pad(piece, self.padded)
            self.copied.copy_(self.tiles)
        self.both_sides()
        return self.result

    def _pad(self, piece: Piece, padded: Tensor) -> None:
        """Takes the piece's pixels [n,h,w,C], with zeros around the picture."""
        first, most = piece.rows.start * STEP - self.padding, padded.shape[1]
        above, below = max(-first, 0), max(first + most - self.height, 0)
        rows = self.x[piece.samples, first + above : first + most - below]
        padded[:, above : most - below, self.padding : self.padding + self.width].copy_(rows)
        if above:
            padded[:, :above].zero_()
        if below:
            padded[:, most - below :].zero_()


class BothSides:
    """A transform [R,T] along both sides of tiles [T,T,M]: `whole` [R,R,M], from what lies in the tiles at a call.

    Several products at once divide better among processors than a wide one.
    """

    def __init__(self, transform: Tensor, tiles: Tensor) -> None:
        (rows, tile), num = transform.shape, tiles.shape[2]
        self.half, self.whole = transform.new_empty(tile, rows, num), transform.new_empty(rows, rows, num)
        self.first = transform.expand(tile, -1, -1), tiles.transpose(0, 1)
        self.second = transform.expand(rows, -1, -1), self.half.transpose(0, 1)

    def __call__(self) -> None:
        torch.bmm(*self.first, out=self.half)
        torch.bmm(*self.second, out=self.whole)


def tiles_of(x: Tensor, tile: int) -> Tensor:
    """The tiles of x [N,H,W,C], as a view [T,T,N,th,tw,C]."""
    return x.unfold(1, tile, STEP).unfold(2, tile, STEP).permute(4, 5, 0, 1, 2, 3)


def pieces_of(x: Tensor, out_channels: int) -> list[Piece]:
    """The rows of tiles of x [N,I,H,W] in pieces."""
    n, channels, height, width = x.shape
    return cut(n, height // STEP, PLACES * (width // STEP) * max(channels, out_channels) * 4)
