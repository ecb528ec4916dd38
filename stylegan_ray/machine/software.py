"""What is installed: versions, whether this package works with them, and its optional parts."""

from __future__ import annotations

import hashlib
import platform
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PACKAGES = ("ray", "torch", "numpy", "pillow", "pyarrow")
OWN = "stylegan-ray"
FOR_DEVELOPERS = ("test", "fuzz")
"""Extras that no command needs."""


def software() -> dict[str, str]:
    """Versions of what the results of a run may depend on, and a checksum of the files of this package."""
    versions = {name: version_of(name) for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions, "stylegan_ray": code_checksum()}


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def code_checksum() -> str:
    """12 hex digits over the files of this package."""
    root, sha = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for ending in ("py", "yaml") for path in root.rglob(f"*.{ending}")):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return sha.hexdigest()[:12]


def unmet() -> list[str]:
    """What this package needs and does not have, as `torch 2.8.0 (needs <3,>=2.11)`. Empty where nothing is known.

    Nothing is known of code that was put on the path instead of being installed.
    """
    try:
        about = metadata.metadata(OWN)
    except metadata.PackageNotFoundError:
        return []
    python = platform.python_version()
    wanted = about["Requires-Python"] if "Requires-Python" in about else ""
    lines = [] if SpecifierSet(wanted).contains(python) else [f"python {python} (needs {wanted})"]
    for needed in _requirements():
        if needed.marker is None and not _is_met(needed):
            lines.append(f"{needed.name} {version_of(needed.name)} (needs {needed.specifier})")
    return lines


def extras() -> dict[str, bool]:
    """The optional parts of this package, and whether what they need is installed."""
    found: dict[str, bool] = {}
    for needed in _requirements():
        name = _extra_of(needed)
        if name and name not in FOR_DEVELOPERS:
            found[name] = found.get(name, True) and _is_met(needed)
    return found


def _is_met(needed: Requirement) -> bool:
    """Whether a package is installed in a version that is wanted, with the extras that are asked for."""
    installed = version_of(needed.name)
    if installed == "not installed" or not needed.specifier.contains(installed, prereleases=True):
        return False
    others = [Requirement(text) for text in metadata.requires(needed.name) or []] if needed.extras else []
    return all(
        version_of(other.name) != "not installed"
        for extra in needed.extras
        for other in others
        if other.marker and not other.marker.evaluate({"extra": ""}) and other.marker.evaluate({"extra": extra})
    )


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(text) for text in metadata.requires(OWN) or []]
    except metadata.PackageNotFoundError:
        return []


def _extra_of(needed: Requirement) -> str | None:
    match = re.search(r"extra == ['\"]([^'\"]+)", str(needed.marker or ""))
    return match[1] if match else None
