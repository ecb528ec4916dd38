"""What is stored beside a network about the images that it was trained on."""

from __future__ import annotations

from typing import Any

from stylegan_ray.interop.hub import CONFIG_JSON, plain
from stylegan_ray.run_folder import RUN_FILE, RUN_FILE_BYTES, folder_of
from stylegan_ray.storage import Storage
from stylegan_ray.untrusted_text import parse_json


def data_of(run: str) -> dict[str, Any]:
    """What run.json says of the training images, or config.json of a published folder of their classes; else empty."""
    found = _json(run, RUN_FILE).get("data")
    if not isinstance(found, dict):
        found = {name: value for name, value in _json(run, CONFIG_JSON).items() if name == "class_names"}
    return found


def class_names_of(network: str, num_classes: int) -> list[str]:
    """The names of the classes of a network, one for each; empty where they are not known."""
    names = data_of(folder_of(network)).get("class_names")
    if not isinstance(names, list) or not 0 < num_classes <= len(names):
        return []
    return [plain(str(name))[:80] for name in names[:num_classes]]


def _json(folder: str, name: str) -> dict[str, Any]:
    """The content of a JSON file; empty where it is absent or no object."""
    try:
        content = parse_json(Storage.at(folder).read(name, RUN_FILE_BYTES), name, RUN_FILE_BYTES)
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
