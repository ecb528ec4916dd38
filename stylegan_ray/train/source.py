"""Which networks a run starts from, as stored in run.json: the same command continues, another source is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stylegan_ray.config import ConfigError
from stylegan_ray.credentials import without_credentials
from stylegan_ray.interop.loading import checksum, locate
from stylegan_ray.run_folder import RUN_FILE, read_run_file
from stylegan_ray.storage import Storage, absolute
from stylegan_ray.untrusted import printable, reading


@dataclass(frozen=True)
class Source:
    """The networks that --resume-from named when the run started."""

    given: str
    """The word on the command line: a run, a checkpoint or a network file."""
    address: str
    """The file or checkpoint that it was then."""
    sha256: str

    @classmethod
    def of(cls, given: str) -> Source:
        """Raises ConfigError when there are no networks."""
        address = locate(given)
        address = absolute(address)
        return cls(given, address, checksum(address))

    def __str__(self) -> str:
        return f"{self.address} (sha256 {self.sha256[:12]})"


def stored_source(run: Storage, given: str | None) -> Source | None:
    """The source of a run that has a checkpoint, which is what it continues from; None for new networks.

    Raises ConfigError when `given`, the --resume-from of today, is another one. A run that is the source may have moved
    on, and a file may have been deleted since.
    """
    stored = read_run_file(run)
    if "source" not in stored:  # written by an earlier version
        return None
    with reading(run.path(RUN_FILE), ConfigError):
        source = Source(**stored["source"]) if stored["source"] else None
    if given is not None and not (source and _is_same(source, given)):
        raise ConfigError(
            f"--resume-from {_with_checksum(given)}: run {printable(stored.get('name'))} was started with "
            f"{source or 'new networks'}, and continues from its own newest checkpoint; {_way_on(source, given)} to "
            "continue it, or another --run.name for a new run"
        )
    return source


def _with_checksum(given: str) -> str:
    try:
        return str(Source.of(given))
    except ConfigError:  # it is not there any more
        return given


def _way_on(source: Source | None, given: str) -> str:
    if source is None:
        return "give no --resume-from"
    if without_credentials(given) == without_credentials(source.given):
        return "put the former file back"
    return f"give --resume-from {source.given}"


def source_entry(source: Source | None) -> dict[str, str] | None:
    """The source as JSON."""
    return asdict(source) if source else None


def _is_same(source: Source, given: str) -> bool:
    try:
        now = Source.of(given)
    except ConfigError:
        return without_credentials(given) == without_credentials(source.given)
    names_a_run = locate(given) != given
    return now.sha256 == source.sha256 or (
        names_a_run and without_credentials(given) == without_credentials(source.given)
    )
