"""Data sets: formats, decoding, order, and the step from stored images to those that D sees."""

from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.open import open_dataset

__all__ = ["BadImage", "DataError", "Dataset", "open_dataset"]
