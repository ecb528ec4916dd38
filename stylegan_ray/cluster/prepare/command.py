"""The prepare_data command: which of writing, checking and cleaning a data set it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from stylegan_ray.cluster.prepare import doctor
from stylegan_ray.cluster.prepare.write import write
from stylegan_ray.config import ConfigError
from stylegan_ray.credentials import without_credentials
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.options import PrepareOptions, translate_errors
from stylegan_ray.run_folder import refuse_relative
from stylegan_ray.storage import refuse_incomplete


def prepare_data(options: PrepareOptions) -> int:
    """Writes or checks a data set; returns the exit status."""
    refuse_relative({"SOURCE": options.source, "DEST": options.dest, "--json": options.json, "--sheet": options.sheet})
    try:
        with translate_errors():
            return what_to_do(options)(options)
    except FileNotFoundError as error:
        raise DataError(
            f"{error}; SOURCE must exist until the command ends, and every node of the cluster must see it"
        ) from error
    except OSError as error:
        print(f"error: {without_credentials(str(error))}; DEST is not complete", file=sys.stderr)
        return 1


def what_to_do(options: PrepareOptions) -> Callable[[PrepareOptions], int]:
    """The function that does what the options ask for; raises ConfigError when they do not go together."""
    refuse_incomplete(options.source, "SOURCE")
    if options.dest is not None:
        refuse_incomplete(options.dest, "DEST")
        if "://" not in options.dest and os.path.realpath(os.path.expanduser(options.dest)) == "/":
            raise ConfigError(f"DEST {options.dest} is the root of all folders; give a file or a folder in it")
    doctor.refuse_options(options)
    if options.check:
        return doctor.check
    if options.dest is None:
        raise ConfigError(
            "DEST is missing; give a .zip, a .parquet or a folder for TFRecord files, or only check SOURCE with --check"
        )
    return doctor.fix if options.fix else write
