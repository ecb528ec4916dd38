"""Folders in the Hugging Face layout: model.safetensors, config.json, a model card and sample images; and pushing them.

model.safetensors is a network file of this package, so the folder is read without config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from stylegan_ray.config import ConfigError, RunConfig, preset_names, validated, without_places
from stylegan_ray.interop.native import Networks, pack
from stylegan_ray.run_folder import PUBLISHED
from stylegan_ray.storage import one_line

CARD, CONFIG_JSON, SAMPLES = "README.md", "config.json", "samples.png"
TASK = "unconditional-image-generation"
FILES = (PUBLISHED, CONFIG_JSON, CARD, SAMPLES)


def folder_files(
    networks: Networks, name: str, samples: bytes, metrics: Sequence[Mapping[str, Any]], data: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of a folder by name.

    `samples` is a PNG file; `metrics` are rows with `metric`, `value`, and what they were computed with; `data`
    describes the training images as run.json does. Paths and addresses of the training are left out.
    """
    networks = replace(networks, config=public_config(networks.config))
    return {
        PUBLISHED: bytes(pack(networks).content),
        CONFIG_JSON: json.dumps(_description(networks, data), indent=2).encode() + b"\n",
        CARD: model_card(networks, name, metrics, data).encode(),
        SAMPLES: samples,
    }


def public_config(cfg: RunConfig) -> RunConfig:
    """The configuration without names, paths and addresses, which may be private."""
    values = without_places(cfg.model_dump(mode="json"))
    preset = {"preset": cfg.run.preset} if cfg.run.preset in preset_names() else {}
    values["run"] = {"seed": cfg.run.seed, **preset}
    del values["metrics"]
    return validated(values)


def model_card(networks: Networks, name: str, metrics: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> str:
    """The text of README.md: front matter for the Hub's index, then the page."""
    G, kimg = networks.G_ema, networks.cur_nimg / 1000
    height, width = G.resolution
    header: dict[str, Any] = {
        "library_name": "stylegan-ray",
        "pipeline_tag": TASK,
        "tags": ["stylegan2", "gan", "image-generation"],
    }
    if metrics:
        header["model-index"] = [{"name": name, "results": [_result(row, data) for row in metrics]}]
    labels = f", conditional on {G.label_size} labels" if G.label_size else ""
    lines = [
        "---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {name}", "",
        f"A StyleGAN2 generator of {width} x {height} images with {G.num_channels} channels{labels}, trained on "
        f"{kimg:g} thousand images with stylegan_ray." if kimg else
        f"A StyleGAN2 generator of {width} x {height} images with {G.num_channels} channels{labels}.", "",
        f"![Samples: seeds 0 to 15, psi 0.7]({SAMPLES})", "", "Seeds 0 to 15 with truncation psi 0.7, not selected.",
        "", "## How to load", "", *_usage(G), "", "## Training data", "", *_data_lines(data), "", "## Metrics", "",
        *_metric_lines(metrics), "", "## Files", "",
        f"`{PUBLISHED}` holds {', '.join(networks.parts())} and their configuration; `{CONFIG_JSON}` repeats it.",
        "", "The licence of the weights is not stated here: add `license:` to the head of this file.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def validate_repository(repository: str) -> None:
    """Raises ConfigError for a malformed repository name, and without the extra `hub`."""
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        raise ConfigError("--push needs huggingface_hub: pip install 'stylegan-ray[hub]'") from None
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository!r}: {error}") from None


def push(folder: str, repository: str, endpoint: str | None = None) -> str:
    """Uploads the files of a local folder to a model repository, which is created private; returns its address.

    Uses the token of `hf auth login` or $HF_TOKEN. Raises ConfigError where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(FILES))
    except Exception as error:  # of the network, of HTTP, or of the Hub's rules
        raise ConfigError(
            f"--push {repository}: {one_line(error)}. The folder {folder} is complete; log in with `hf auth login` and "
            f"run `hf upload {repository} {folder}`"
        ) from error
    return str(address)


def _description(networks: Networks, data: Mapping[str, Any]) -> dict[str, Any]:
    G, classes = networks.G_ema, _class_names(data)
    return {
        "library_name": "stylegan-ray",
        "model_type": networks.config.model.family,
        "resolution": list(G.resolution),
        "num_channels": G.num_channels,
        "label_size": G.label_size,
        **({"class_names": classes} if G.label_size and classes else {}),
        "z_dim": G.z_dim,
        "cur_nimg": networks.cur_nimg,
        "config": networks.config.model_dump(mode="json"),
    }


def _result(row: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a metric as the Hub's index wants it."""
    return {
        "task": {"type": TASK},
        "dataset": {"name": _data_name(data), "type": "images"},
        "metrics": [{"type": row["metric"], "name": row["metric"], "value": row["value"]}],
    }


def _data_name(data: Mapping[str, Any]) -> str:
    """The last part of the data's path: the rest may be private."""
    path = str(data.get("path") or "").partition("?")[0].rstrip("/")
    return plain(path.rpartition("/")[2]).replace("`", "") or "not stated"


def _class_names(data: Mapping[str, Any]) -> list[str]:
    names = data.get("class_names")
    return [plain(str(name)) for name in names] if isinstance(names, list | tuple) else []


def plain(text: str) -> str:
    """Text of a data set on one line, without control characters."""
    return "".join(char for char in one_line(text, 1000) if char.isprintable())


def _usage(G: Any) -> list[str]:
    labels = f", torch.eye({G.label_size})[:1].repeat(4, 1)" if G.label_size else ""
    return [
        "```python", "import torch", "from stylegan_ray.interop import load_network", "",
        'G = load_network("path/to/this/folder")["G_ema"]',
        f"images = G(torch.randn(4, {G.z_dim}){labels}, psi=0.7)  # [4, {G.num_channels}, {G.resolution[0]}, "
        f"{G.resolution[1]}]", "```", "",
        "Or on the command line: `stylegan-ray generate path/to/this/folder --seeds 0-15 --trunc 0.7`.",
    ]  # fmt: skip


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    classes = _class_names(data)
    named = ["", "Classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(classes))] if classes else []
    if not data.keys() - {"class_names"}:
        return ["The file that the weights were converted from does not name its training images.", *named]
    count = f"{num:,} images" if isinstance(num := data.get("num_images"), int) and num else "Images"
    attribution = plain(str(data["attribution"])) if data.get("attribution") else "not stated by the data set"
    return [f"{count} of `{_data_name(data)}`.", "", f"Attribution: {attribution}", *named]


def _metric_lines(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    if not metrics:
        return ["None were computed for these weights."]
    rows = [
        f"| {plain(row['metric'])} | {row['value']:.6g} | {row.get('num_gen') or ''} | "
        f"{plain(row.get('detector') or '')} |"
        for row in metrics
    ]
    return ["| metric | value | generated images | detector |", "| --- | --- | --- | --- |", *rows]
