"""SVHN's cropped digits: MATLAB files (version 5) with X uint8 [H,W,C,N] and y [N,1], where class 10 is the digit 0."""

from __future__ import annotations

import numpy as np

from stylegan_ray.readers.protocol import Contents, ReadError, check_images, class_numbers, encode_pnm, import_optional

DIGITS = 10


def open_reader(paths: list[str]) -> MatReader:
    scipy_io = import_optional("scipy.io")
    try:
        found = scipy_io.loadmat(paths[0], variable_names=["X", "y"])
    except NotImplementedError as error:
        raise ReadError(
            "it is a MATLAB file of version 7.3, and SVHN's cropped digits (train_32x32.mat) are of version 5; "
            "download them again, or save X and y without -v7.3"
        ) from error
    images, labels = found.get("X"), found.get("y")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[2] not in (1, 3)
    ):
        is_array = isinstance(images, np.ndarray)
        kind = f"{images.dtype} of shape {images.shape}" if is_array else "missing or no array"
        raise ReadError(f"its X is {kind}; as in SVHN's cropped digits it must be uint8 [H,W,C,N], with C 1 or 3")
    height, width, _, num = images.shape
    check_images(num, height, width, paths)
    if labels is None:
        raise ReadError("it has no y; as in SVHN's cropped digits that must be a class for each image")
    classes = class_numbers(labels, images.shape[3], "y")
    if classes.max(initial=0) > DIGITS:
        raise ReadError(
            f"its y holds class {classes.max()}, and SVHN's are the digits 1 to 9, and 10 for 0; of another data set "
            "make a folder of images with dataset.json"
        )
    if {0, DIGITS} <= set(classes.tolist()):
        raise ReadError("its y holds both 0 and 10, of which SVHN's is 10, for the digit 0; write one of them")
    return MatReader(images, classes % DIGITS)


class MatReader:
    """Images in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = images
        names = [f"{number:06d}" for number in range(images.shape[3])]
        self.contents = Contents(names, labels, [str(digit) for digit in range(DIGITS)])

    def read(self, number: int, name: str) -> bytes:
        return encode_pnm(self.images[..., number])
