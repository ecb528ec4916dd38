"""3x3 convolution with a quarter of the multiplications, as matrix products: F(4x4, 3x3) of Lavin and Gray (2016).

Tiles of 6x6 pixels, 4 apart, are transformed; there a convolution is a product of matrices for each of 36 places.
The tiles of a few rows are taken at a time, so that what lies between the steps stays in the processor's cache, and
each thread works on its own share of the pictures.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from stylegan_ray.ops.cache_blocking import Piece, cut, largest_divisor

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
    out_channels, use, shares = len(w), matrices(w.dtype), shares_of(x)
    kernels = (use.kernels @ w.permute(2, 3, 0, 1).reshape(9, -1)).view(PLACES, out_channels, channels)
    kernels = kernels.expand(shares, -1, -1, -1).flatten(0, 1).transpose(1, 2)  # [S*36,I,O]
    size, like = (n, out_channels, height, width), {"dtype": x.dtype, "device": x.device}
    y = torch.empty(size, memory_format=torch.channels_last, **like)  # type: ignore[call-overload]
    tiles_of_y = tiles_of(shared(y, shares), STEP)  # [S,4,4,n,th,tw,O]
    pieces = pieces_of(x, out_channels)
    tiles_of_x = Transformed(x, use.pixels, 1, pieces[0])
    products = w.new_empty(shares * PLACES, tiles_of_x.num, out_channels)
    result = BothSides(use.result, products.view(shares, TILE, TILE, -1))
    pixels = result.whole.view(tiles_of_y[:, :, :, pieces[0].samples, pieces[0].rows].shape)
    for piece in pieces:
        torch.bmm(tiles_of_x(piece), kernels, out=products)  # [S*36,T,O]
        result()
        tiles_of_y[:, :, :, piece.samples, piece.rows].copy_(pixels)
    return y


def weight_gradient(x: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient [O,I,3,3] of such a convolution's weights, from that of its output [N,O,H,W], in a data type."""
    channels, out_channels, use, shares = x.shape[1], grad.shape[1], matrices(dtype), shares_of(x)
    pieces = pieces_of(x, out_channels)
    tiles_of_x = Transformed(x, use.pixels, 1, pieces[0])
    tiles_of_grad = Transformed(grad, use.result.t().contiguous(), 0, pieces[0])
    kernels = torch.zeros(shares * PLACES, out_channels, channels, dtype=dtype, device=x.device)
    for piece in pieces:
        kernels.baddbmm_(tiles_of_grad(piece).transpose(1, 2), tiles_of_x(piece))  # [S*36,O,I]
    w = use.kernels.t() @ kernels.view(shares, PLACES, -1).sum(0)  # [9,O*I]
    return w.t().reshape(out_channels, channels, 3, 3)


class Transformed:
    """The tiles of x [N,C,H,W], T pixels wide and STEP apart, after a transform [6,T]; their memory is used again."""

    def __init__(self, x: Tensor, transform: Tensor, padding: int, piece: Piece) -> None:
        (_, channels, self.height, self.width), tile, shares = x.shape, transform.shape[1], shares_of(x)
        self.x, self.padding = shared(x, shares), padding  # [S,N/S,H,W,C]
        self.num = piece.num_rows * (self.width // STEP)
        num, rows = piece.samples.stop, piece.rows.stop  # the first piece begins at 0
        size = (shares, num, (rows - 1) * STEP + tile, self.width + 2 * padding, channels)
        self.padded = transform.new_zeros(size) if padding else None
        self.tiles = tiles_of(self.x if self.padded is None else self.padded, tile)
        self.copied = transform.new_empty(shares, tile, tile, num, rows, self.width // STEP, channels)
        self.both_sides = BothSides(transform, self.copied.view(shares, tile, tile, -1))
        self.result = self.both_sides.whole.view(shares * PLACES, self.num, channels)

    def __call__(self, piece: Piece) -> Tensor:
        """Those of a piece of each share, as matrices [S*36,T,C]."""
        if self.padded is None:
            self.copied.copy_(self.tiles[:, :, :, piece.samples, piece.rows])
        else:
            self._pad(piece, self.padded)
            self.copied.copy_(self.tiles)
        self.both_sides()
        return self.result

    def _pad(self, piece: Piece, padded: Tensor) -> None:
        """Takes the piece's pixels [S,n,h,w,C], with zeros around the picture."""
        first, most = piece.rows.start * STEP - self.padding, padded.shape[2]
        above, below = max(-first, 0), max(first + most - self.height, 0)
        rows = self.x[:, piece.samples, first + above : first + most - below]
        padded[:, :, above : most - below, self.padding : self.padding + self.width].copy_(rows)
        if above:
            padded[:, :, :above].zero_()
        if below:
            padded[:, :, most - below :].zero_()


class BothSides:
    """A transform [R,T] along both sides of tiles [S,T,T,M]: `whole` [S,R,R*M], from what lies in them at a call."""

    def __init__(self, transform: Tensor, tiles: Tensor) -> None:
        (rows, tile), (shares, _, _, num) = transform.shape, tiles.shape
        half = transform.new_empty(shares * tile, rows, num)
        self.whole = transform.new_empty(shares, rows, rows * num)
        self.first = transform.expand(shares * tile, -1, -1), tiles.flatten(0, 1), half
        self.second = transform.expand(shares, -1, -1), half.view(shares, tile, -1), self.whole

    def __call__(self) -> None:
        for transform, tiles, result in (self.first, self.second):
            torch.bmm(transform, tiles, out=result)


def shares_of(x: Tensor) -> int:
    """In how many equal shares the pictures of x [N,C,H,W] are taken: at best one for each thread.

    PyTorch gives each thread the same part of every step when the shares lie outermost, so that what a step leaves
    behind is in the cache of the core that takes the next. Cores far from each other need that: where a line of memory
    took 170 ns from one to the other instead of 26, a convolution took 16 ms with shares and 42 ms without.
    """
    return largest_divisor(len(x), torch.get_num_threads())


def shared(x: Tensor, shares: int) -> Tensor:
    """x [N,C,H,W] in shares, as a view [S,N/S,H,W,C]."""
    return x.permute(0, 2, 3, 1).unflatten(0, (shares, -1))


def tiles_of(x: Tensor, tile: int) -> Tensor:
    """The tiles of x [S,N,H,W,C], as a view [S,T,T,N,th,tw,C]."""
    return x.unfold(2, tile, STEP).unfold(3, tile, STEP).permute(0, 5, 6, 1, 2, 3, 4)


def pieces_of(x: Tensor, out_channels: int) -> list[Piece]:
    """The rows of tiles of a share of x [N,I,H,W] in pieces."""
    (n, channels, height, width), shares = x.shape, shares_of(x)
    return cut(n // shares, height // STEP, shares * PLACES * (width // STEP) * max(channels, out_channels) * 4)
