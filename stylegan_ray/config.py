"""The run configuration: one frozen pydantic model per section, presets in YAML, dotted keys everywhere."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FORMAT_VERSION = 1
"""Version of the saved configuration and checkpoints; raised when an older file could be misread."""

Positive = Annotated[int, Field(gt=0)]


class ConfigError(ValueError):
    """Something a user wrote in a configuration, command line or preset file; the command exits with status 2."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, descriptions from the attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class RunSection(Section):
    name: str | None = None
    """Folder of the run inside the storage; null: <preset>-<data>-<8 hex digits of the configuration>."""
    storage: str | None = None
    """Where runs are kept: a folder, s3:// or gs://; null: $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random in the run."""
    preset: str = "config-f"
    """The preset this configuration started from; set by the loader."""


class DataConfig(Section):
    path: str | None = None
    """Pictures: a folder, a StyleGAN2-ADA zip or a TFRecord folder; null or `openmoji`: the built-in OpenMoji set."""
    resolution: Annotated[int, Field(ge=4)] | tuple[Positive, Positive] | None = None
    """Side of the training pictures, or height and width; null: as they are."""
    channels: Literal[1, 3] | None = None
    """1 trains grey, 3 trains colour; null: as the pictures are."""
    cond: bool = False
    """Train a conditional model on the labels of the data set."""
    max_label_size: Annotated[int, Field(ge=0)] | None = None
    """Use only the first columns of the labels; null: all of them."""
    subset: Positive | None = None
    """Use only this many pictures, chosen by the seed; null: all."""
    mirror_augment: bool = False
    """Flip each real picture left to right with probability 1/2."""
    shuffle: Literal["full", "blocks"] = "full"
    """Order of a pass: a permutation of all pictures, or of blocks of neighbours (for archives and object storage)."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a picture that cannot be decoded: stop and name it, or show the next good one."""
    alpha: Literal["error", "white", "black", "drop"] = "error"
    """Transparent pictures: refuse, lay on white or black, or drop the alpha channel."""
    crop: Literal["none", "center"] = "none"
    """Pictures that are not of the training shape: refuse, or cut out the centre."""
    resize: Literal["none", "lanczos", "box"] = "none"
    """Pictures that are not of the training size: refuse, or scale with this filter."""


class ModelConfig(Section):
    family: Literal["stylegan2", "revised", "stylegan1"] = "stylegan2"
    """Networks of configurations E and F, of B to D (growing), or of A."""
    G_architecture: Literal["skip", "resnet", "orig"] = "skip"
    """How blocks of G reach the picture."""
    D_architecture: Literal["resnet", "skip", "orig"] = "resnet"
    """How the picture reaches blocks of D."""
    z_dim: Positive = 512
    """Size of the latent z."""
    w_dim: Positive = 512
    """Size of the mapped latent w."""
    mapping_layers: Positive = 8
    """Dense layers from z to w."""
    mapping_fmaps: Positive = 512
    """Width of the hidden mapping layers."""
    mapping_embed: Positive | None = None
    """Width of the embedded label (label_mode separate); null: w_dim."""
    mapping_lrmul: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate multiplier of the mapping network."""
    mapping_nonlinearity: Literal["lrelu", "relu"] = "lrelu"
    """Activation of the mapping network."""
    normalize_latents: bool = True
    """Normalise z (and the embedded label) before the mapping network."""
    label_mode: Literal["joint", "separate"] = "joint"
    """Labels as in the TensorFlow original (joint), or as in StyleGAN2-ADA (separate; D projects them)."""
    D_mapping_layers: Positive = 8
    """Layers of D's label mapping network (label_mode separate)."""
    cmap_dim: Positive | None = None
    """Size of D's label projection (label_mode separate); null: as wide as D's last block."""
    fmap_base: Positive = 16384
    """Feature maps of a layer are fmap_base / 2^(stage * fmap_decay), between fmap_min and fmap_max."""
    fmap_decay: Annotated[float, Field(gt=0)] = 1.0
    """How fast the number of feature maps falls with resolution."""
    fmap_min: Positive = 1
    """Fewest feature maps of a layer."""
    fmap_max: Positive = 512
    """Most feature maps of a layer."""
    nonlinearity: Literal["lrelu", "relu"] = "lrelu"
    """Activation of G's synthesis and of D."""
    resample_kernel: tuple[float, ...] | None = (1.0, 3.0, 3.0, 1.0)
    """Low-pass filter of up- and downsampling; null: 2-tap box."""
    fused_modconv: Literal["auto", "scaled", "grouped"] = "auto"
    """Modulated convolution by scaling activations, by one grouped convolution, or whichever is faster."""
    mbstd_group_size: Annotated[int, Field(ge=0)] | None = 4
    """Group size of the minibatch standard deviation layer; 0 or 1: off, null: the whole micro-batch."""
    mbstd_num_features: Positive = 1
    """Feature maps that the minibatch standard deviation layer adds."""
    style_mixing_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability of mixing styles in a micro-batch."""
    dlatent_avg_beta: Annotated[float, Field(ge=0, le=1)] = 0.995
    """Decay of the moving average of w."""
    use_noise: bool = True
    """Add noise inputs to the synthesis layers."""
    conv_clamp: Annotated[float, Field(gt=0)] | None = None
    """Clamp convolution outputs to this magnitude; null: off."""
    num_lowp_res: Annotated[int, Field(ge=0)] = 0
    """Run this many of the highest resolutions in lowp_dtype."""
    lowp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Data type of the low-precision resolutions."""
    use_wscale: bool = True
    """Equalised learning rate (StyleGAN1 networks only can switch it off)."""
    use_styles: bool = True
    """StyleGAN1: style modulation of the synthesis layers."""
    use_pixel_norm: bool = False
    """StyleGAN1: pixelwise normalisation."""
    use_instance_norm: bool = True
    """StyleGAN1: instance normalisation."""
    const_input_layer: bool = True
    """StyleGAN1: learned constant as the first layer."""
    blur_filter: tuple[float, ...] | None = (1.0, 2.0, 1.0)
    """StyleGAN1: low-pass filter beside resampling; null: none."""
    fused_scale: Literal["auto", "on", "off"] = "auto"
    """StyleGAN1: resample and convolve in one step (auto: from 128 pixels)."""


class LossConfig(Section):
    G: Literal["logistic_ns_pathreg", "logistic_ns", "logistic", "wgan", "rpgan"] = "logistic_ns_pathreg"
    """Loss of G."""
    D: Literal["logistic_r1", "logistic_r2", "logistic", "wgan", "wgan_gp", "rpgan"] = "logistic_r1"
    """Loss of D."""
    r1_gamma: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the gradient penalty (R1, R2)."""
    pl_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the path length penalty."""
    pl_decay: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Decay of the moving mean of path lengths."""
    pl_minibatch_shrink: Positive = 2
    """The path length batch is minibatch_gpu divided by this."""
    wgan_epsilon: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the drift term of the WGAN losses."""
    wgan_lambda: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the WGAN gradient penalty."""
    wgan_target: Annotated[float, Field(gt=0)] = 1.0
    """Target gradient norm of the WGAN gradient penalty."""


class OptimConfig(Section):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Adam's beta1 before the correction for lazy regularisation."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Adam's beta2 before the correction for lazy regularisation."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon, added to the uncorrected root of the second moment."""


class ScheduleConfig(Section):
    minibatch_size: Positive = 32
    """Pictures per iteration over all workers."""
    minibatch_size_dict: dict[int, Positive] = {}
    """minibatch_size per current resolution."""
    minibatch_gpu: Positive = 4
    """Pictures per micro-batch: one forward on one worker."""
    minibatch_gpu_dict: dict[int, Positive] = {}
    """minibatch_gpu per current resolution."""
    G_lrate: Annotated[float, Field(gt=0)] = 0.002
    """Learning rate of G."""
    G_lrate_dict: dict[int, Annotated[float, Field(gt=0)]] = {}
    """G_lrate per current resolution."""
    D_lrate: Annotated[float, Field(gt=0)] = 0.002
    """Learning rate of D."""
    D_lrate_dict: dict[int, Annotated[float, Field(gt=0)]] = {}
    """D_lrate per current resolution."""
    lrate_rampup_kimg: Annotated[float, Field(ge=0)] = 0.0
    """Thousands of images over which the learning rates rise from zero."""
    tick_kimg: Annotated[float, Field(gt=0)] = 4.0
    """Thousands of images per tick."""
    tick_kimg_dict: dict[int, Annotated[float, Field(gt=0)]] = {
        8: 28, 16: 24, 32: 20, 64: 16, 128: 12, 256: 8, 512: 6, 1024: 4,
    }  # fmt: skip
    """tick_kimg per current resolution."""
    lod_initial_resolution: Positive | None = None
    """Resolution at which progressive growing starts; null: no growing."""
    lod_training_kimg: Annotated[float, Field(ge=0)] = 600.0
    """Thousands of images at each resolution before the next fades in."""
    lod_transition_kimg: Annotated[float, Field(ge=0)] = 600.0
    """Thousands of images of each fade."""
    minibatch_repeats: Positive = 4
    """Minibatches per group; the schedule is read once per group."""
    G_smoothing_kimg: Annotated[float, Field(ge=0)] = 10.0
    """Half-life of G_ema in thousands of images; 0: no averaging."""
    G_smoothing_rampup: Annotated[float, Field(gt=0)] | None = None
    """Shorten the half-life of G_ema early on, to this fraction of cur_nimg; null: off."""


class TrainConfig(Section):
    total_kimg: Annotated[float, Field(ge=0)] = 25000.0
    """Length of the training in thousands of real images shown to D."""
    lazy_regularization: bool = True
    """Run the regularisation of G and D in turns of their own every G_reg_interval and D_reg_interval minibatches."""
    G_reg_interval: Positive = 4
    """Minibatches between regularisation turns of G."""
    D_reg_interval: Positive = 16
    """Minibatches between regularisation turns of D."""
    reset_opt_for_new_lod: bool = True
    """Forget Adam's moments when a new resolution begins to fade in or has faded in."""
    drange_net: tuple[float, float] = (-1.0, 1.0)
    """Value range of pictures inside the networks."""
    image_snapshot_ticks: Positive | None = 10
    """Ticks between picture grids; null: first and final only."""
    network_snapshot_ticks: Positive | None = 10
    """Ticks between network snapshots; null: first and final only."""
    checkpoint_ticks: Positive | None = 1
    """Ticks between checkpoints; null: by minutes only."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """Minutes between checkpoints; null: by ticks only."""
    replica_check_ticks: Positive | None = 10
    """Ticks between checks that all workers hold the same state; null: never."""
    grid_size: Literal["1080p", "4k", "8k"] | tuple[Positive, Positive] = "8k"
    """Size of the picture grids: a screen, or columns and rows."""
    grid_layout: Literal["random", "row_per_class", "col_per_class"] = "random"
    """Which pictures the grids show."""
    save_tf_graph: bool = False
    """Write the network graph to TensorBoard."""
    save_weight_histograms: bool = False
    """Write histograms of all weights to TensorBoard at every network snapshot."""
    resume_kimg: Annotated[float, Field(ge=0)] | None = None
    """With --resume-from: start the clock here; null: where the other run stood."""
    resume_time: Annotated[float, Field(ge=0)] | None = None
    """With --resume-from: seconds of training so far; null: none."""
    resume_with_new_nets: bool = False
    """With --resume-from: build new networks and copy what matches by name and shape."""
    on_nonfinite: Literal["skip", "rollback", "error"] = "skip"
    """A gradient that is not finite: skip the step, go back to the last checkpoint, or stop."""
    nonfinite_budget: Positive = 100
    """How many skipped steps or rollbacks a run may have before it stops."""
    dtype: Literal["float32", "float64"] = "float32"
    """Data type of networks and optimiser (float64: tests)."""
    compile: bool = False
    """Compile the training step with torch.compile; not for networks that grow."""
    allow_tf32: bool = False
    """Let GPUs round float32 to 10 bits of mantissa in convolutions and matrix products."""
    deterministic: bool = True
    """Use deterministic kernels, so that a resumed run repeats bit for bit."""


class AugmentConfig(Section):
    mode: Literal["noaug", "ada", "fixed"] = "noaug"
    """Augmentation of what D sees."""
    pipe: str = "bgc"
    """Which augmentations (StyleGAN2-ADA's names)."""
    p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of augmentations (mode fixed)."""
    target: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Target of the overfitting heuristic (mode ada)."""
    ada_kimg: Annotated[float, Field(gt=0)] = 500.0
    """Thousands of images over which p may move by 1 (mode ada)."""


class MetricsConfig(Section):
    names: tuple[str, ...] = ()
    """Metrics of G_ema to take at the start, every so many ticks and at the end, such as fid5k_tiny or fid50k."""
    ticks: Positive | None = None
    """Ticks between metrics; null: as train.network_snapshot_ticks, which is the original's rule."""
    placement: Literal["auto", "async", "inline"] = "auto"
    """Beside the training (async), by all its workers while it waits (inline), or async where a device is free."""
    detector: str | None = None
    """Detector weights: a folder, file or URL, perhaps with #sha256=...; null: where evaluate.py prefetch puts them."""
    num_images: Positive | None = None
    """Number of generated pictures of all metrics; null: as their names say."""


class ClusterConfig(Section):
    num_workers: Positive | Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] = 1
    """Training workers, or `least:most`."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs of a worker; null: 1 where the cluster has any, else 0."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """CPUs of a worker; null: an equal share of the smallest node."""
    interface: Annotated[str, Field(pattern=r"^[\w.:@-]+(,[\w.:@-]+)*$")] | None = None
    """Network interface that workers talk over, such as eth0; null: that of the address by which Ray knows a node."""
    wait_minutes: Annotated[float, Field(ge=0)] = 0.0
    """How long to wait for nodes until the least number of workers fits, on a cluster that grows on demand."""
    address: str | None = None
    """Ray cluster to join; null: the one this job runs in, or a new local one."""
    max_failures: Annotated[int, Field(ge=-1)] = -1
    """Worker failures that a run survives; -1: any number."""
    keep_checkpoints: Positive = 3
    """Newest checkpoints that are kept."""
    read_ahead: Positive = 4
    """Groups of minibatches that are decoded ahead of the training."""
    decode_tasks: Positive = 1
    """Pictures that each worker has decoded at the same time, in threads of one process."""
    keep_decoded_gb: Annotated[float, Field(ge=0)] = 4.0
    """Room (GB) in each node's cache folder for decoded pictures: those of data that fits are decoded once; 0: none."""


class RunConfig(Section):
    """One training run. A dotted key such as `schedule.G_lrate` means the same in YAML and on the command line."""

    run: RunSection = RunSection()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    metrics: MetricsConfig = MetricsConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        _check_minibatch_sizes(self)
        _check_drange(self.train.drange_net)
        _check_family(self.model)
        _check_compile(self)
        _refuse_unbuilt(self)
        return self

    def with_overrides(self, overrides: Mapping[str, Any]) -> RunConfig:
        """This configuration with dotted keys replaced, e.g. {"loss.r1_gamma": 10}; raises ConfigError."""
        return validated(_merge(self.model_dump(), _nested(overrides)))

    def flat(self) -> dict[str, Any]:
        """Every value under its dotted key, in plain JSON types."""
        return {f"{s}.{k}": v for s, values in self.model_dump(mode="json").items() for k, v in values.items()}

    def to_yaml(self) -> str:
        """The configuration as YAML; `load_config` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def digest(self) -> str:
        """8 hex digits over all keys that may not differ on resume."""
        fixed = {key: value for key, value in self.flat().items() if not may_differ_on_resume(key)}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]


FREE_ON_RESUME = ("run.", "cluster.", "metrics.", "train.checkpoint_")
FREE_KEYS_ON_RESUME = frozenset(
    {
        "train.total_kimg",
        "train.image_snapshot_ticks",
        "train.network_snapshot_ticks",
        "train.replica_check_ticks",
    }
)


def may_differ_on_resume(key: str) -> bool:
    """Whether a run may be continued with another value of this key."""
    if key == "run.seed":  # it decides every draw, so another seed is another run
        return False
    return key in FREE_KEYS_ON_RESUME or key.startswith(FREE_ON_RESUME)


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys that forbid `new` to continue a run begun with `old`, with both values."""
    before, after = old.flat(), new.flat()
    fixed = [key for key in after if not may_differ_on_resume(key)]
    return {key: (before.get(key), after[key]) for key in fixed if before.get(key) != after[key]}


def load_config(preset: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a preset (a name, or the path of a YAML file) with dotted keys replaced."""
    text, name = _preset_text(preset)
    tree = yaml.safe_load(text) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"preset {preset!r} must be a mapping of sections, not {type(tree).__name__}")
    dotted = {key: value for key, value in tree.items() if "." in str(key)}
    tree = _merge({key: value for key, value in tree.items() if key not in dotted}, _nested(dotted))
    tree = _merge({"run": {"preset": name}}, _merge(tree, VARIANTS.get(preset, {})))
    return validated(_merge(tree, _nested(overrides or {})))


def validated(tree: Mapping[str, Any]) -> RunConfig:
    """The configuration of a nested mapping; raises ConfigError that names key, value, rule and a way out."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(error))) from None


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    files = [Path(entry.name).stem for entry in _presets().iterdir() if entry.name.endswith(".yaml")]
    return sorted([*files, *VARIANTS])


ARCHITECTURES = ("orig", "skip", "resnet")
VARIANTS = {
    f"config-e-G{G}-D{D}": {"model": {"G_architecture": G, "D_architecture": D}}
    for G in ARCHITECTURES
    for D in ARCHITECTURES
}
"""Built-in presets that are config-e with other architectures (Karras et al. 2020, table 2)."""


def known_keys() -> list[str]:
    """Every dotted key."""
    return [
        f"{section}.{key}" for section, field in RunConfig.model_fields.items() for key in _fields(field.annotation)
    ]


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _presets():
    return resources.files("stylegan_ray") / "presets"


def _fields(section: Any) -> Iterable[str]:
    return section.model_fields


def _preset_text(preset: str) -> tuple[str, str]:
    path = Path(preset)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"preset file {preset} does not exist; built-in presets: {', '.join(preset_names())}")
        return path.read_text(), path.stem
    if preset not in preset_names():
        hint = nearest(preset, preset_names())
        raise ConfigError(f"unknown preset {preset!r}{hint}; presets: {', '.join(preset_names())}, or a YAML file")
    file = "config-e" if preset in VARIANTS else preset
    return (_presets() / f"{file}.yaml").read_text(), preset


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        if key not in known_keys():
            hint = nearest(key, known_keys())
            raise ConfigError(f"unknown key {key!r}{hint}")
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the sections of `change` laid over it, key by key (values are replaced whole)."""
    merged = {section: dict(values) if isinstance(values, Mapping) else values for section, values in base.items()}
    for section, values in change.items():
        mapping = isinstance(values, Mapping) and isinstance(merged.get(section, {}), Mapping)
        merged[section] = {**merged.get(section, {}), **values} if mapping else values
    return merged


def _explained(error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"][:2])
        if problem["type"] == "extra_forbidden":
            words = known_keys() if "." in key else list(RunConfig.model_fields)
            yield f"unknown key {key!r}{nearest(key, words)}"
        elif key:
            yield f"{key}={problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}{_choices(key)}"
        else:
            yield problem["msg"].removeprefix("Value error, ")


def _choices(key: str) -> str:
    """The default of a key, as a way out of a wrong value."""
    section, _, name = key.partition(".")
    field = RunConfig.model_fields[section].annotation.model_fields.get(name) if name else None  # type: ignore[union-attr]
    if field is None:
        return ""
    literals = [value for value in get_args(field.annotation) if isinstance(value, str)]
    return f" (one of {', '.join(literals)})" if literals else f" (default: {field.default!r})"


def _check_minibatch_sizes(cfg: RunConfig) -> None:
    sched = cfg.schedule
    most_workers = int(str(cfg.cluster.num_workers).split(":")[-1])
    for resolution in [None, *sched.minibatch_size_dict, *sched.minibatch_gpu_dict]:
        size = sched.minibatch_size_dict.get(resolution or 0, sched.minibatch_size)
        gpu = sched.minibatch_gpu_dict.get(resolution or 0, sched.minibatch_gpu)
        where = "" if resolution is None else f" at resolution {resolution}"
        if size % gpu:
            raise ValueError(
                f"schedule.minibatch_size={size} must be a multiple of schedule.minibatch_gpu={gpu}{where}; "
                f"try {max(size // gpu, 1) * gpu}"
            )
        if size // gpu < most_workers:
            raise ValueError(
                f"cluster.num_workers={cfg.cluster.num_workers} needs at least as many micro-batches a minibatch, but "
                f"schedule.minibatch_size={size} / schedule.minibatch_gpu={gpu}{where} makes {size // gpu}; "
                f"use fewer workers or a smaller minibatch_gpu"
            )


def _check_drange(drange: tuple[float, float]) -> None:
    if drange[0] >= drange[1]:
        raise ValueError(f"train.drange_net={drange} must rise; the original's range is (-1, 1)")


STYLE1_ONLY = (
    "use_wscale", "use_styles", "use_pixel_norm", "use_instance_norm", "const_input_layer", "blur_filter",
    "fused_scale",
)  # fmt: skip
"""Keys of `model` that networks of the other families do not have."""


def _check_family(model: ModelConfig) -> None:
    if model.family != "stylegan2" and model.num_lowp_res:
        raise ValueError(
            f"model.num_lowp_res={model.num_lowp_res} needs model.family=stylegan2, not {model.family}; use 0"
        )
    if model.num_lowp_res and model.lowp_dtype == "float16" and model.conv_clamp is None:
        raise ValueError(
            "model.lowp_dtype=float16 with model.conv_clamp=None may overflow; set model.conv_clamp, e.g. 256, "
            "or use bfloat16"
        )
    if model.family != "stylegan2" and model.label_mode == "separate":
        raise ValueError(f"model.label_mode=separate needs model.family=stylegan2, not {model.family}; use joint")
    if model.family == "stylegan1":
        return
    for key in STYLE1_ONLY:
        value, default = getattr(model, key), ModelConfig.model_fields[key].default
        if value != default:
            raise ValueError(
                f"model.{key}={value!r}: networks of model.family={model.family} do not have this; "
                f"use model.family=stylegan1, or {default!r}"
            )


def _check_compile(cfg: RunConfig) -> None:
    if cfg.train.compile and cfg.schedule.lod_initial_resolution is not None:
        raise ValueError(
            f"train.compile=true: networks that grow (schedule.lod_initial_resolution="
            f"{cfg.schedule.lod_initial_resolution}) are not compiled; use false"
        )


UNBUILT: list[tuple[str, tuple[Any, ...], str]] = [
    # (key, values that work today, what is missing)
    ("augment.mode", ("noaug",), "adaptive augmentation"),
]
"""Keys whose feature is planned and not here yet: other values are refused rather than ignored."""


def _refuse_unbuilt(cfg: RunConfig) -> None:
    for key, built, feature in UNBUILT:
        section, name = key.split(".")
        value = getattr(getattr(cfg, section), name)
        if value not in built:
            works = ", ".join(repr(v) for v in built)
            raise ValueError(f"{key}={value!r}: {feature} is not in this version yet; values that work: {works}")
