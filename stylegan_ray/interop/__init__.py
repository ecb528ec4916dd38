"""Reads networks of other programs, reads and writes our own; code in a file is never executed."""

from stylegan_ray.interop.loading import load_network, read_networks
from stylegan_ray.interop.native import Networks, save_network

__all__ = ["Networks", "load_network", "read_networks", "save_network"]
