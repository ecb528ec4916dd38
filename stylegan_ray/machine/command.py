"""The command `doctor`, for this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from stylegan_ray.machine.facts import Facts, gather
from stylegan_ray.machine.findings import Finding, findings, format_findings, verdict, worst
from stylegan_ray.options import ClusterAddress
from stylegan_ray.outputs import check_file, writing
from stylegan_ray.run_folder import refuse_relative, storage_address
from stylegan_ray.storage import write_file


@dataclass(frozen=True)
class DoctorOptions:
    """Says what this machine, or each node of a cluster, can do, and what prevents training on it.

    Without an address, and without RAY_ADDRESS, Ray is not started, and this machine alone is looked at, in about ten
    seconds. Exit status 1: something prevents training.
    """

    address: ClusterAddress = None
    """The cluster whose nodes are looked at: HOST:PORT or auto; local: this machine alone, which is what null means
    without $RAY_ADDRESS."""
    storage: Annotated[
        str | None, tyro.conf.arg(metavar="FOLDER", aliases=["--run.storage"], help_behavior_hint="")
    ] = None
    """Where runs are stored; null: $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write all facts and findings to this file."""

    def where(self) -> str:
        """The address of the storage."""
        return storage_address(self.storage)


def examine_machine(options: DoctorOptions) -> int:
    """Prints the findings about this machine; returns the exit status."""
    check_output(options.json)
    facts = gather(options.where())
    found = findings(facts)
    print(f"{facts.host}: stylegan_ray {facts.package}, {facts.system}")
    print(format_findings(found))
    print(verdict(found, "this machine"))
    write_report(options.json, {"machine": describe(facts, found)})
    return int(worst(found) == "problem")


def describe(facts: Facts, found: Sequence[Finding]) -> dict[str, Any]:
    """Facts and findings for JSON."""
    return {"facts": asdict(facts), "findings": [asdict(finding) for finding in found]}


def check_output(path: str | None) -> None:
    """Raises ConfigError where a file cannot be written, its folder does not exist, or goes with a submitted job."""
    refuse_relative({"--json": path})
    if path is not None:
        check_file(path, "--json", makes_folder=False)


def write_report(path: str | None, content: Mapping[str, Any]) -> None:
    """Writes the JSON file that was asked for."""
    if path is not None:
        with writing(path, "--json"):
            write_file(path, json.dumps(content, indent=1).encode())
