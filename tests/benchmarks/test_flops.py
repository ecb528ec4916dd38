import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.flops import ArithmeticCounter


def test_counts_convolutions_and_products_forward_and_backward():
    x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    forward = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    with ArithmeticCounter() as counter:
        y = F.conv2d(x, w, padding=1)
    assert counter.flops == forward
    with ArithmeticCounter() as counter:
        y.sum().backward()
    assert counter.flops == 2 * forward  # gradients of picture and weights
    with ArithmeticCounter() as counter:
        _ = torch.randn(4, 6) @ torch.randn(6, 7) + 1
    assert counter.flops == 2 * 4 * 6 * 7


def test_follows_modules_that_run_without_gradients():
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with ArithmeticCounter() as counter, torch.no_grad():
        layer(torch.randn(3, 4, requires_grad=True))
    assert counter.flops == 2 * 3 * (4 * 4 + 4 * 2)


def test_counts_what_passes_through_memory():
    x, row = torch.randn(8, 4), torch.randn(4)
    with ArithmeticCounter() as counter:
        _ = x + row.expand(8, 4).clone().t().t()
    assert counter.bytes == 4 * ((4 + 32) + (32 + 32 + 32)), "the copy of a row, then the sum; views are free"
