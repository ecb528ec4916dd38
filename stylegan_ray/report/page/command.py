"""The command `report`."""

from __future__ import annotations

from stylegan_ray.config import ConfigError
from stylegan_ray.outputs import check_file
from stylegan_ray.report.page import page_bytes, write_page
from stylegan_ray.run_folder import REPORT, as_path, find_run, refuse_relative
from stylegan_ray.storage import Storage, join_address, one_line, write_file
from stylegan_ray.untrusted import printable


def write_report(run: str, storage: str | None, output: str | None) -> str:
    """Writes the page of a run; returns its address. Raises ConfigError where it cannot be written."""
    refuse_relative({"RUN": as_path(run), "--storage": storage, "--output": output})
    address = find_run(run, storage)
    target = output or join_address(address, REPORT)
    if output:
        check_file(output, "--output")
    try:
        if output:
            write_file(output, page_bytes(Storage.at(address)))
        else:
            write_page(Storage.at(address))
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{printable(target, 500)} cannot be written: {one_line(error)}; give another file with --output"
        ) from error
    return target
