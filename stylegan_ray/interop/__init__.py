"""Networks of other programs in, ours out; nothing in a file is ever executed."""

from stylegan_ray.interop.loading import load_network, read_networks
from stylegan_ray.interop.native import Networks, save_network

__all__ = ["Networks", "load_network", "read_networks", "save_network"]
