"""Forcing a way: what counts inside, what is restored outside."""

import pytest
import torch

from stylegan_ray.ops import conv2d, forced
from stylegan_ray.ops.ways import is_forced


def test_the_way_before_is_restored_after_errors_too():
    with forced("direct"):
        with pytest.raises(ZeroDivisionError), forced("grouped"):
            assert is_forced("grouped", "spread") and not is_forced("direct")
            raise ZeroDivisionError
        assert is_forced("direct")
    assert not is_forced("direct", "grouped")


def test_an_unknown_way_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'quick'.*winograd"), forced("quick"):
        pass


def test_derivatives_in_other_threads_are_forced_too():
    """Autograd runs derivatives of GPU tensors in threads of its own."""
    from concurrent.futures import ThreadPoolExecutor

    with forced("as_on_gpus"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(is_forced, "as_on_gpus").result()


def test_as_on_gpus_the_derivatives_are_those_of_pytorch():
    x, w = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 3, 3)
    assert conv2d(x, w).grad_fn.name() == "_ConvolutionBackward"
    with forced("as_on_gpus"):
        assert conv2d(x, w).grad_fn.name() == "ConvolutionBackward0"


def test_winograd_is_used_where_it_is_possible_only():
    """Its rounding gives it away."""
    torch.manual_seed(0)
    w, geometry = torch.randn(3, 2, 3, 3), {"padding": (1, 1)}
    for size, differs in ((8, True), (7, False)):  # it needs sides that are multiples of 4
        x, results = torch.randn(1, 2, size, size), []
        for way in ("winograd", "direct"):
            with forced(way):
                results.append(conv2d(x, w, **geometry))
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
        assert torch.equal(*results) != differs
