"""The page of a run: one HTML file without references, with curves, images over time, faults and provenance."""

from __future__ import annotations

from collections.abc import Callable

from stylegan_ray.run_folder import REPORT
from stylegan_ray.storage import Storage, one_line


def write_page(run: Storage) -> None:
    """Writes the page of a run into its folder."""
    run.write(REPORT, page_bytes(run))


def page_bytes(run: Storage) -> bytes:
    """The page of a run."""
    from stylegan_ray.report.page.html import page_of  # matplotlib, which a training does not need before its end
    from stylegan_ray.report.page.read import RunData

    return page_of(RunData.read(run)).encode("utf-8", "backslashreplace")


def try_to_write_page(run: Storage, say: Callable[[str], None]) -> None:
    """Writes the page of a run; reports an error and continues."""
    try:
        write_page(run)
    except Exception as error:  # a page is never a reason to lose a run
        say(f"warning: {REPORT} could not be written: {one_line(error)}; stylegan-ray report tries again")
