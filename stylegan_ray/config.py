"""The run configuration: one frozen pydantic model per section, presets in YAML, the same dotted keys everywhere.

In order: the sections with their keys; which keys a run's name and its continuation depend on; `RunConfig`; presets and
saved configurations; the checks that the types of single keys cannot express.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from stylegan_ray.credentials import clean, host_of, without_credentials
from stylegan_ray.untrusted import CONFIG_BYTES, UserError, printable, read_file, reading
from stylegan_ray.untrusted_text import parse_yaml

FORMAT_VERSION = 1
"""Version of the saved configuration and checkpoints; raised when an older file could be misread."""

Positive = Annotated[int, Field(gt=0, le=2**53)]
Minibatch = Annotated[int, Field(gt=0, le=1 << 20)]
"""Images."""
Kimg = Annotated[float, Field(ge=0, le=1e9)]
PositiveKimg = Annotated[float, Field(gt=0, le=1e9)]
Width = Annotated[int, Field(gt=0, le=1 << 14)]
"""Feature maps or neurons of a layer."""
Depth = Annotated[int, Field(gt=0, le=128)]
"""Layers of a mapping network."""
Side = Annotated[int, Field(ge=4, le=1 << 14)]
"""Pixels of a side of an image."""
Filter = Annotated[tuple[float, ...], Field(min_length=1, max_length=32)]
"""Taps of a FIR filter."""
Weight = Annotated[float, Field(ge=0, le=1e30)]
"""A factor of a loss; finite in float32."""
PositiveWeight = Annotated[float, Field(ge=1e-30, le=1e30)]
"""One that is not 0 in float32."""
LARGEST_GRID = 1 << 15
"""Images of a grid, at most; train.grid_size 8k shows 1,024."""
MOST_PROBLEMS = 20
"""Lines of an error about a configuration."""
LARGEST_VALUE, LEAST_RANGE = 1e6, 1e-6
"""Bounds of train.drange_net: the largest magnitude, and the least distance between its values."""
RUN_NAME = 200
"""Most bytes of a run's name in UTF-8; file systems allow 255, and files that are being written have longer names."""


class ConfigError(UserError):
    """A value that a user gave on the command line or in a file is wrong; the command exits with status 2."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, attribute docstrings are the descriptions in --help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """Where a number or text is meant, true and false are not taken for 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and "bool" not in str(kind) and not hasattr(kind, "model_fields"):
            raise ValueError("true and false are values of switches only")
        return value


class RunSection(Section):
    name: str | None = None
    """Folder of the run in run.storage; null: <preset>-<data>-<8 hex digits of the configuration>."""
    storage: str | None = None
    """Where runs are stored: a folder, s3:// or gs://; null: $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of every random number of the run."""
    preset: str = "config-f"
    """The preset that the configuration is based on; set by `load_config`."""

    @field_validator("name")
    @classmethod
    def _is_one_name(cls, name: str | None) -> str | None:
        """A run's name is the name of one folder, and it is printed."""
        if name is not None and (not name.strip() or name in (".", "..") or set(name) & set("/\\?#")):
            raise ValueError("must be the name of one folder, without / \\ ? #; run.storage says where it is stored")
        if name is not None and (not name.isprintable() or len(name.encode("utf-8", "replace")) > RUN_NAME):
            raise ValueError(f"must be printable, of at most {RUN_NAME} bytes")
        return name


class DataConfig(Section):
    path: Annotated[str, Field(min_length=1)] | None = None
    """Training images: a folder, zip, TFRecords, Parquet or tar set; null or `openmoji`: the built-in OpenMoji set."""
    resolution: Side | tuple[Side, Side] | None = None
    """Side of the training images in pixels, or height and width; null: that of the data."""
    channels: Literal[1, 3] | None = None
    """1: grayscale, 3: RGB; null: that of the data."""
    cond: bool = False
    """Train a conditional model on the labels of the dataset."""
    max_label_size: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    """Use only this many leading columns of the labels; null: all."""
    balance: bool = False
    """Show every class equally often, and draw the labels of generated images likewise; needs data.cond."""
    subset: Positive | None = None
    """Use only this many images, chosen by run.seed; null: all."""
    mirror_augment: bool = False
    """Flip each real image horizontally with probability 1/2."""
    shuffle: Literal["full", "blocks"] = "full"
    """Order of an epoch: a permutation of all images, or of blocks of neighbors (for archives and object storage)."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be decoded: stop and name it, or use the next good one in its place."""
    image_column: str | None = None
    """Images among several: the column of Parquet files, or the ending in samples of tar files, as in mask.png."""
    split: str | None = None
    """Of data with splits use this one, or `all`; null: train where there are several and one of them is train."""
    renumber_classes: bool = False
    """Number the classes 0, 1, 2, ... in the order of their ids, for ids with gaps; names of classes keep the ids."""
    follow_links: bool = False
    """Follow links that lead out of the folder; by default they are left out."""
    max_image_mb: Annotated[int, Field(ge=1, le=1 << 14)] = 512
    """Largest image in MiB, as a file and in memory (4 bytes a pixel, up to 20 where decoders hold copies)."""
    extra_formats: tuple[Literal["heif"], ...] = ()
    """Image formats to read beside the usual ones: heif (HEIC, HEIF), which needs the package pillow-heif."""
    bits: Literal[8, 10, 12, 14, 16] | None = None
    """Bits of images that are stored with 16 or 32; null: as many as the largest value of all of them needs."""
    alpha: Literal["error", "white", "black", "drop"] = "error"
    """Transparent images: refuse, composite on white or black, or drop the alpha channel."""
    crop: Literal["none", "center"] = "none"
    """Images whose aspect ratio differs from data.resolution: refuse, or crop the center."""
    resize: Literal["none", "lanczos", "box"] = "none"
    """Images whose size differs from data.resolution: refuse, or resample with this filter."""

    @field_validator("resolution", mode="before")
    @classmethod
    def _is_not_one_word(cls, resolution: Any) -> Any:
        """Height and width are two numbers, not 32x64."""
        if isinstance(resolution, str) and len(sides := resolution.lower().split("x")) == 2:
            raise ValueError(f"height and width are two numbers: --data.resolution {' '.join(sides)}")
        return resolution


class ModelConfig(Section):
    family: Literal["stylegan2", "revised", "stylegan1"] = "stylegan2"
    """Networks of configs E and F (stylegan2), B to D (revised, growing) or A (stylegan1)."""
    G_architecture: Literal["skip", "resnet", "orig"] = "skip"
    """How the blocks of G contribute to the image."""
    D_architecture: Literal["resnet", "skip", "orig"] = "resnet"
    """How the image enters the blocks of D."""
    z_dim: Width = 512
    """Dimensionality of the latent z."""
    w_dim: Width = 512
    """Dimensionality of the mapped latent w."""
    mapping_layers: Depth = 8
    """Number of fully connected layers from z to w."""
    mapping_fmaps: Width = 512
    """Width of the hidden mapping layers."""
    mapping_embed: Width | None = None
    """Width of the label embedding (label_mode separate); null: w_dim."""
    mapping_lrmul: PositiveWeight = 0.01
    """Learning rate multiplier of the mapping network."""
    mapping_nonlinearity: Literal["lrelu", "relu"] = "lrelu"
    """Activation of the mapping network."""
    normalize_latents: bool = True
    """Normalize z (and the label embedding) before the mapping network."""
    label_mode: Literal["joint", "separate"] = "joint"
    """Label conditioning of the TensorFlow original (joint) or of StyleGAN2-ADA (separate: D uses a projection)."""
    D_mapping_layers: Depth = 8
    """Number of layers of D's label mapping network (label_mode separate)."""
    cmap_dim: Width | None = None
    """Dimensionality of D's label projection (label_mode separate); null: the width of D's last block."""
    fmap_base: Annotated[int, Field(gt=0, le=1 << 25)] = 16384
    """A layer has fmap_base / 2^(stage * fmap_decay) feature maps, between fmap_min and fmap_max."""
    fmap_decay: Annotated[float, Field(gt=0, le=16)] = 1.0
    """How fast the number of feature maps decreases with resolution."""
    fmap_min: Width = 1
    """Minimum number of feature maps of a layer."""
    fmap_max: Width = 512
    """Maximum number of feature maps of a layer."""
    nonlinearity: Literal["lrelu", "relu"] = "lrelu"
    """Activation of the synthesis network and of D."""
    resample_kernel: Filter | None = (1.0, 3.0, 3.0, 1.0)
    """FIR filter of up- and downsampling; null: 2-tap box."""
    fused_modconv: Literal["auto", "scaled", "grouped"] = "auto"
    """Modulated convolution: scale the activations, use one grouped convolution, or whichever is faster."""
    mbstd_group_size: Annotated[int, Field(ge=0, le=1 << 20)] | None = 4
    """Group size of the minibatch standard deviation layer; 0 or 1: off; null: the whole micro-batch."""
    mbstd_num_features: Width = 1
    """Number of feature maps that the minibatch standard deviation layer adds."""
    style_mixing_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability of style mixing in a micro-batch."""
    dlatent_avg_beta: Annotated[float, Field(ge=0, le=1)] = 0.995
    """Decay of w_avg, the moving average of w."""
    use_noise: bool = True
    """Add noise inputs to the synthesis layers."""
    conv_clamp: PositiveWeight | None = None
    """Clamp the output of convolutions to this magnitude; null: off."""
    num_lowp_res: Annotated[int, Field(ge=0, le=32)] = 0
    """Number of the highest resolutions that run in lowp_dtype."""
    lowp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Data type of the low-precision resolutions."""
    use_wscale: bool = True
    """Equalized learning rate; only model.family=stylegan1 can switch it off."""
    use_styles: bool = True
    """StyleGAN1: style modulation of the synthesis layers."""
    use_pixel_norm: bool = False
    """StyleGAN1: pixelwise normalization."""
    use_instance_norm: bool = True
    """StyleGAN1: instance normalization."""
    const_input_layer: bool = True
    """StyleGAN1: learned constant input of the synthesis network."""
    blur_filter: Filter | None = (1.0, 2.0, 1.0)
    """StyleGAN1: low-pass filter after upsampling and before downsampling; null: none."""
    fused_scale: Literal["auto", "on", "off"] = "auto"
    """StyleGAN1: resample and convolve in one operation; auto: from 128 pixels."""


class LossConfig(Section):
    G: Literal["logistic_ns_pathreg", "logistic_ns", "logistic", "wgan", "rpgan"] = "logistic_ns_pathreg"
    """Loss and regularizer of G."""
    D: Literal["logistic_r1", "logistic_r2", "logistic", "wgan", "wgan_gp", "rpgan"] = "logistic_r1"
    """Loss and regularizer of D."""
    r1_gamma: Weight = 10.0
    """Weight of the R1 or R2 gradient penalty."""
    pl_weight: Weight = 2.0
    """Weight of the path length penalty."""
    pl_decay: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Decay of pl_mean, the moving average of path lengths."""
    pl_minibatch_shrink: Positive = 2
    """The batch of the path length penalty is schedule.minibatch_gpu divided by this."""
    wgan_epsilon: Weight = 0.001
    """Weight of the drift term (loss.D wgan and wgan_gp)."""
    wgan_lambda: Weight = 10.0
    """Weight of the gradient penalty (loss.D wgan_gp)."""
    wgan_target: PositiveWeight = 1.0
    """Target of the gradient norm (loss.D wgan_gp)."""


class OptimConfig(Section):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Adam's beta1, before the correction for lazy regularization."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Adam's beta2, before the correction for lazy regularization."""
    epsilon: PositiveWeight = 1e-8
    """Adam's epsilon, added to the square root of the second moment before its bias correction."""


class ScheduleConfig(Section):
    minibatch_size: Minibatch = 32
    """Images per iteration over all workers."""
    minibatch_size_dict: dict[Side, Minibatch] = {}
    """minibatch_size by current resolution."""
    minibatch_gpu: Minibatch = 4
    """Images per micro-batch, which is one forward pass on one worker."""
    minibatch_gpu_dict: dict[Side, Minibatch] = {}
    """minibatch_gpu by current resolution."""
    G_lrate: PositiveWeight = 0.002
    """Learning rate of G."""
    G_lrate_dict: dict[Side, PositiveWeight] = {}
    """G_lrate by current resolution."""
    D_lrate: PositiveWeight = 0.002
    """Learning rate of D."""
    D_lrate_dict: dict[Side, PositiveWeight] = {}
    """D_lrate by current resolution."""
    lrate_rampup_kimg: Kimg = 0.0
    """Warmup of both learning rates, linear from 0, in kimg."""
    tick_kimg: PositiveKimg = 4.0
    """Length of a tick in kimg."""
    tick_kimg_dict: dict[Side, PositiveKimg] = {
        8: 28, 16: 24, 32: 20, 64: 16, 128: 12, 256: 8, 512: 6, 1024: 4,
    }  # fmt: skip
    """tick_kimg by current resolution."""
    lod_initial_resolution: Positive | None = None
    """Resolution at which progressive growing starts; null: no growing."""
    lod_training_kimg: Kimg = 600.0
    """Training at each resolution before the next one fades in, in kimg."""
    lod_transition_kimg: Kimg = 600.0
    """Duration of each fade in kimg."""
    minibatch_repeats: Positive = 4
    """Minibatches per group; the schedule is evaluated once per group."""
    G_smoothing_kimg: Kimg = 10.0
    """Half-life of the weights in G_ema in kimg; 0: no averaging."""
    G_smoothing_rampup: Annotated[float, Field(gt=0)] | None = None
    """Limit the half-life of G_ema to this fraction of the images shown so far; null: no limit."""


AutoKey = Literal[
    "model.fmap_base", "loss.r1_gamma", "loss.pl_decay", "schedule.minibatch_size", "schedule.minibatch_gpu",
    "schedule.G_lrate", "schedule.D_lrate", "schedule.G_smoothing_kimg", "model.num_lowp_res",
]  # fmt: skip


class TrainConfig(Section):
    total_kimg: Kimg = 25000.0
    """Length of the training in kimg, thousands of real images shown to D."""
    stop_when: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:[1-9]\d{0,5}$")] | None = None
    """End before total_kimg when a metric has not improved for so many values, as in fid5k_tiny:5; null: never."""
    lazy_regularization: bool = True
    """Lazy regularization: separate phases every G_reg_interval and D_reg_interval minibatches."""
    G_reg_interval: Positive = 4
    """Minibatches between regularization phases of G."""
    D_reg_interval: Positive = 16
    """Minibatches between regularization phases of D."""
    reset_opt_for_new_lod: bool = True
    """Reset Adam's moments when a resolution starts to fade in and when it has faded in."""
    drange_net: tuple[float, float] = (-1.0, 1.0)
    """Value range of images in the networks."""
    image_snapshot_ticks: Positive | None = 10
    """Ticks between image grids; null: first and final only."""
    network_snapshot_ticks: Positive | None = 10
    """Ticks between network snapshots; null: first and final only."""
    checkpoint_ticks: Positive | None = 1
    """Ticks between checkpoints; null: by train.checkpoint_minutes only."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """Minutes between checkpoints; null: by train.checkpoint_ticks only."""
    replica_check_ticks: Positive | None = 10
    """Ticks between checks that the state is equal on all workers; null: never."""
    grid_size: Literal["1080p", "4k", "8k"] | tuple[Positive, Positive] = "8k"
    """Size of the image grids: a screen size, or columns and rows."""
    grid_layout: Literal["random", "row_per_class", "col_per_class"] = "random"
    """Layout of the image grids."""
    save_tf_graph: bool = False
    """Write the graph of the networks to TensorBoard."""
    save_weight_histograms: bool = False
    """Write histograms of all weights to TensorBoard at every network snapshot."""
    resume_kimg: Kimg | None = None
    """With --resume-from: kimg at which training starts; null: that of the loaded networks."""
    resume_time: Annotated[float, Field(ge=0)] | None = None
    """With --resume-from: seconds of training so far; null: 0."""
    resume_with_new_nets: bool = False
    """With --resume-from: build new networks and copy the tensors whose name and shape match."""
    auto: tuple[AutoKey, ...] = ()
    """Keys that are chosen from the resolution, the workers and the machine when a run starts, unless given."""
    freeze_D: Annotated[int, Field(ge=0)] = 0
    """Layers of D, from the highest resolution, that are not trained: fromrgb, conv0, conv1 and skip count one each."""
    on_nonfinite: Literal["skip", "rollback", "error"] = "skip"
    """A gradient that is not finite: skip the step, roll back to the last checkpoint, or stop."""
    nonfinite_budget: Positive = 100
    """Number of skipped steps or rollbacks after which a run stops."""
    dtype: Literal["float32", "float64"] = "float32"
    """Data type of networks and optimizers; float64 is for tests."""
    recompute_activations: Annotated[int, Field(ge=0)] = 0
    """Highest resolutions that are computed again in backward passes: less memory, more time, the same results."""
    compile: bool = False
    """Compile the losses with torch.compile; not for growing networks."""
    allow_tf32: bool = False
    """Allow TF32 in convolutions and matrix products on GPUs."""
    deterministic: bool = True
    """Use deterministic kernels, so that a resumed run is equal bit for bit."""

    @property
    def total_nimg(self) -> int:
        """Length of the training in images."""
        return round(self.total_kimg * 1000)


Pipe = Literal["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]
Policy = Literal["color", "translation", "cutout"]


ADA_KIMG = 500.0
"""Default of augment.ada_kimg in a run that starts from new networks."""


class AugmentConfig(Section):
    mode: Literal["noaug", "ada", "fixed", "diffaug"] = "noaug"
    """What images undergo when D sees them: nothing; ADA's pipeline with an adaptive or a fixed p; DiffAugment."""
    pipe: Pipe = "bgc"
    """Augmentations of ADA's pipeline, by StyleGAN2-ADA's names."""
    policy: tuple[Policy, ...] = ("color", "translation", "cutout")
    """Augmentations of DiffAugment, in their order."""
    p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of each augmentation of the pipeline (fixed), or its first value (ada)."""
    target: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """Mean sign of D's scores of reals above which p rises (ada)."""
    ada_kimg: PositiveKimg = ADA_KIMG
    """Time in kimg in which p can move from 0 to 1 (ada)."""

    @property
    def first_p(self) -> float:
        """augment_p of a new run."""
        return {"noaug": 0.0, "diffaug": 1.0}.get(self.mode, self.p)


class MetricsConfig(Section):
    names: tuple[str, ...] = ()
    """Metrics of G_ema, such as fid5k_tiny or fid50k, computed at the start, every metrics.ticks and at the end."""
    ticks: Positive | None = None
    """Ticks between metrics; null: train.network_snapshot_ticks, which is the original's rule."""
    placement: Literal["auto", "async", "inline"] = "auto"
    """async: beside the training; inline: on its workers while it waits; auto: async where a device is free."""
    detector: str | None = None
    """Detector weights: folder, file or URL, optionally with #sha256=...; null: those of `evaluate prefetch`."""
    num_images: Positive | None = None
    """Number of generated images of all metrics; null: by the metric's name."""
    all_images: bool = False
    """Compare with all images of the data, also those that data.subset leaves out."""


class ClusterConfig(Section):
    num_workers: Positive | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}:[1-9][0-9]{0,5}$")] = 1
    """Number of training workers, or `least:most`."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs per worker; null: 1 where the cluster has any, else 0."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """CPUs per worker; null: an equal share of the smallest node."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """GiB that a worker may need on its device, for schedule.minibatch_gpu auto; null: what this machine has for it."""
    interface: Annotated[str, Field(pattern=r"^[\w.:@-]+(,[\w.:@-]+)*$")] | None = None
    """Network interface for communication between workers, such as eth0; null: that of the node's address in Ray."""
    wait_minutes: Annotated[float, Field(ge=0)] = 0.0
    """Minutes to wait for nodes until the least number of workers fits, on an autoscaling cluster."""
    address: str | None = None
    """Ray cluster to connect to; null: that of the current job, or a new local one."""
    hang_minutes: Annotated[float, Field(gt=0)] | None = 15.0
    """Minutes without progress after which a run stores the stacks of its processes and restarts; null: never."""
    max_failures: Annotated[int, Field(ge=-1)] = -1
    """Worker failures after which a run stops; -1: only the limits on faults in a row and per hour remain."""
    keep_checkpoints: Positive = 3
    """Number of newest checkpoints that are kept."""
    read_ahead: Positive = 4
    """Groups of minibatches that are decoded ahead of training."""
    decode_tasks: Positive = 1
    """Images that are decoded in parallel for each worker, by threads of one process."""

    @property
    def most_workers(self) -> int:
        """The number of training workers, or the most of them."""
        return int(str(self.num_workers).split(":")[-1])

    @property
    def fewest_workers(self) -> int:
        """The number of training workers, or the fewest of them."""
        return int(str(self.num_workers).split(":")[0])


NOTIFY_URL = r"^https?://[^/?#\s@]+([/?#][^\s@]*)?$"
"""What an address for notifications looks like."""


class ReportConfig(Section):
    mlflow: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """MLflow server that shows the run, such as http://127.0.0.1:5000; null: none."""
    wandb: Annotated[str, Field(pattern=r"^[^/\\#?%:\s]+(/[^/\\#?%:\s]+)?$")] | None = None
    """Project of Weights & Biases that shows the run, as PROJECT or ENTITY/PROJECT; null: none."""
    artifacts: bool = False
    """Send the final network to MLflow and Weights & Biases, too."""
    notify: Annotated[str, Field(pattern=NOTIFY_URL)] | None = None
    """URL that gets a JSON when the run ends, fails, rolls back or has a new best; null: $STYLEGAN_RAY_NOTIFY."""


# What a run's name and its continuation depend on.

FREE_ON_RESUME = ("run.", "cluster.", "metrics.", "report.", "train.checkpoint_")
FREE_KEYS_ON_RESUME = frozenset(
    {
        "train.auto",  # a run that continues keeps the values that were chosen when it started
        "train.total_kimg",
        "train.stop_when",
        "train.image_snapshot_ticks",
        "train.network_snapshot_ticks",
        "train.replica_check_ticks",
        "train.recompute_activations",  # changes memory and time, and no result
        # These choose among what lies at data.path; the fingerprint of the data decides whether a run may continue.
        "data.split",
        "data.follow_links",
        "data.max_image_mb",
        "data.image_column",
        "data.extra_formats",
    }
)
ADDED_KEYS: frozenset[str] = frozenset(
    {
        "augment.policy", "data.balance", "data.bits", "data.renumber_classes", "train.freeze_D",
    }
)  # fmt: skip
"""Keys added since the first version that may not differ on resume: at their default they do not change run names."""


def may_differ_on_resume(key: str) -> bool:
    """Whether a run can continue with another value of this key."""
    if key == "run.seed":  # it decides every draw, so another seed is another run
        return False
    return key in FREE_KEYS_ON_RESUME or key.startswith(FREE_ON_RESUME)


class DeletedKey(NamedTuple):
    """A key of an earlier version."""

    default: Any
    """Its former default, as JSON type, which describes what this version does."""
    instead: str
    """What to do instead of setting it, such as "leave it out: the faster order is always used"."""


DELETED_KEYS: Mapping[str, DeletedKey] = {
    "cluster.keep_decoded_gb": DeletedKey(4.0, "leave it out: images are decoded in every pass"),
    "train.cuda_graphs": DeletedKey(False, "leave it out: use train.compile=true alone"),
    "train.D_reals_first": DeletedKey(None, "leave it out: D scores reals and fakes in one pass"),
}
"""Dropped from a saved configuration where they have their former default or may differ on resume; else refused."""


PLACES = ("run", "cluster", "report", "data.path", "metrics.detector")
"""Sections and keys about where a run trains, shows itself and reads; a network file does not have them."""


class RunConfig(Section):
    """One training run. A dotted key such as `schedule.G_lrate` is the same in YAML and on the command line."""

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
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        _check_workers(self.cluster.num_workers)
        _check_minibatch_sizes(self)
        _check_drange(self.train.drange_net)
        _check_grid(self.train.grid_size)
        _check_filters(self.model)
        _check_family(self.model)
        _check_compile(self)
        _check_balance(self.data)
        _check_augment(self)
        _check_groups(self)
        _check_freeze(self)
        return self

    def with_overrides(self, overrides: Mapping[str, Any]) -> RunConfig:
        """This configuration with dotted keys replaced, e.g. {"loss.r1_gamma": 10}; raises ConfigError.

        A key that is replaced is not chosen automatically any more (train.auto).
        """
        return validated(_overridden(self.model_dump(), overrides))

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key, as JSON types, without credentials."""
        return _flat(self.plain())

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON types, without credentials in addresses: what may be stored and shown."""
        tree = self.model_dump(mode="json")
        if notify := tree["report"]["notify"]:
            tree["report"]["notify"] = host_of(notify)
        return clean(tree)

    def of_network(self) -> dict[str, Any]:
        """What a network file says of its training: nothing of the place, the machines and the data."""
        return without_places(self.plain())

    def to_yaml(self) -> str:
        """The configuration as YAML, without credentials; `load_config` reads it back."""
        return yaml.safe_dump(self.plain(), sort_keys=False)

    def digest(self, added: Set[str] = ADDED_KEYS, deleted: Mapping[str, DeletedKey] = DELETED_KEYS) -> str:
        """8 hex digits that identify the run in its name, the same in every version of this program.

        They cover the keys that may not differ on resume: those of the first version, deleted ones at their former
        default, and added ones where they differ from their default.
        """
        values = {key: gone.default for key, gone in deleted.items()} | self.flat()
        fixed = {key: value for key, value in values.items() if not may_differ_on_resume(key)}
        covered = {k: v for k, v in fixed.items() if k not in added or v != _defaults()[k]}
        return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    return RunConfig().flat()


@lru_cache(maxsize=1)
def known_keys() -> tuple[str, ...]:
    """Every dotted key."""
    return tuple(
        f"{section}.{key}"
        for section, field in RunConfig.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    )


def without_places(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without PLACES, so that a network file neither tells them nor decides what a command opens."""
    sections = {section: values for section, values in tree.items() if section not in PLACES}
    return {
        section: {key: value for key, value in values.items() if f"{section}.{key}" not in PLACES}
        if isinstance(values, Mapping)
        else values
        for section, values in sections.items()
    }


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys whose values forbid `new` to continue a run that started with `old`, with both values."""
    before, after = old.flat(), new.flat()
    fixed = [key for key in after if not may_differ_on_resume(key)]
    return {key: (before.get(key), after[key]) for key in fixed if before.get(key) != after[key]}


def unknown_key(key: str, deleted: Mapping[str, DeletedKey] = DELETED_KEYS) -> ConfigError:
    """The error for a key that a user gave and that does not exist."""
    if key in deleted:
        return ConfigError(f"{key}: this key was deleted; {deleted[key].instead}")
    return ConfigError(f"unknown key {printable(key, 80)!r}{nearest(key, known_keys())}")


def _without_deleted(tree: Mapping[str, Any], deleted: Mapping[str, DeletedKey]) -> Mapping[str, Any]:
    """A saved configuration without deleted keys; raises ConfigError where one has another value than its default.

    Keys that may differ on resume are dropped whatever their value.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"a configuration is a mapping of sections, not {type(tree).__name__}")
    tree = {section: dict(values) if isinstance(values, Mapping) else values for section, values in tree.items()}
    for key, gone in deleted.items():
        section, name = key.split(".")
        values = tree.get(section)
        if not isinstance(values, dict) or name not in values:
            continue
        value = values.pop(name)
        if value != gone.default and not may_differ_on_resume(key):
            raise ConfigError(
                f"{key}={value!r}: this key was deleted, and this version only reads a saved configuration that has "
                f"its former default, {gone.default!r}; {gone.instead}, or use the version that saved it"
            )
    return tree


def _refuse_deleted(tree: Mapping[str, Any], deleted: Mapping[str, DeletedKey]) -> None:
    """Raises ConfigError where a preset file sets a deleted key, to whatever value."""
    given = _flat({section: values for section, values in tree.items() if isinstance(values, Mapping)})
    for key in given:
        if key in deleted:
            raise unknown_key(key, deleted)


# Presets and saved configurations.

ARCHITECTURES = ("orig", "skip", "resnet")
VARIANTS = {
    f"config-e-G{G}-D{D}": {"model": {"G_architecture": G, "D_architecture": D}}
    for G in ARCHITECTURES
    for D in ARCHITECTURES
}
"""Built-in presets that are config-e with other architectures (Karras et al. 2020, table 2)."""


def load_config(
    preset: str, overrides: Mapping[str, Any] | None = None, deleted: Mapping[str, DeletedKey] = DELETED_KEYS
) -> RunConfig:
    """The configuration of a preset (a name, or the path of a YAML file) with dotted keys replaced.

    A run's config.yaml can be used as a preset, too. Raises ConfigError.
    """
    tree, name = _read_preset(preset)
    dotted = {key: value for key, value in tree.items() if "." in key}
    _refuse_twice(tree, dotted)
    tree = _merge({key: value for key, value in tree.items() if key not in dotted}, _nested(dotted, deleted))
    if "preset" not in _section(tree, "run"):  # only saved configurations have it
        _refuse_deleted(tree, deleted)
    tree = _merge({"run": {"preset": name}}, _merge(tree, VARIANTS.get(preset, {})))
    try:
        return validated(_overridden(tree, overrides or {}, deleted), deleted)
    except ConfigError as error:
        raise _with_file(error, preset, tree, deleted) from None


def _with_file(
    error: ConfigError, preset: str, tree: Mapping[str, Any], deleted: Mapping[str, DeletedKey]
) -> ConfigError:
    """The error of a configuration, with the name of its preset file where that file alone has the same fault."""
    try:
        validated(tree, deleted)
    except ConfigError as own:
        first, *others = own.args
        named = ConfigError(f"preset file {printable(preset, 500)}: {first}", *others)
        return named if own.args == error.args else error
    return error


def _refuse_twice(tree: Mapping[str, Any], dotted: Iterable[str]) -> None:
    """Raises ConfigError where a preset file gives a key, or a side of a table, in two spellings."""
    for key in dotted:
        section, _, name = key.partition(".")
        if name in _section(tree, section):
            raise ConfigError(f"{printable(key, 80)} is given twice, by itself and under `{section}:`; leave one out")
    for section in tree:
        for name, value in _section(tree, section).items():
            if isinstance(value, Mapping) and len({str(side) for side in value}) < len(value):
                raise ConfigError(f"{printable(f'{section}.{name}', 80)} gives one side twice; leave one out")


def validated(tree: Mapping[str, Any], deleted: Mapping[str, DeletedKey] = DELETED_KEYS) -> RunConfig:
    """The configuration in a nested mapping, such as a saved one.

    Keys with the value `auto` join train.auto. Deleted keys are dropped at their former default. Raises ConfigError
    that names key, value, rule and a way out.
    """
    try:
        return RunConfig.model_validate(_listed_in_auto(_without_deleted(tree, deleted)))
    except ValidationError as error:
        raise ConfigError(*_explain(error)) from None


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    files = [Path(entry.name).stem for entry in _presets().iterdir() if entry.name.endswith(".yaml")]
    return sorted([*files, *VARIANTS])


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the closest known word, or nothing."""
    close = difflib.get_close_matches(word[:100], list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_yaml(name: str) -> bool:
    """Whether the name of a preset or a space is that of a file."""
    return Path(name).suffix.lower() in (".yaml", ".yml")


def _presets():
    return resources.files("stylegan_ray") / "presets"


def _read_preset(preset: str) -> tuple[dict[str, Any], str]:
    """What a preset file contains, and the preset's name."""
    path = Path(preset)
    if is_yaml(preset):
        if not os.path.exists(path):
            raise ConfigError(
                f"preset file {printable(preset, 500)} does not exist; built-in presets: {', '.join(preset_names())}"
            )
        content, name = _read_file(path), path.stem
    elif preset in preset_names():
        content, name = (_presets() / f"{'config-e' if preset in VARIANTS else preset}.yaml").read_bytes(), preset
    else:
        hint = nearest(preset, preset_names())
        raise ConfigError(
            f"unknown preset {printable(preset)!r}{hint}; presets: {', '.join(preset_names())}, or a YAML file"
        )
    where = f"preset file {printable(preset, 500)}"
    with reading(where, ConfigError):
        tree = parse_yaml(content, where)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping such as `loss: {{r1_gamma: 10}}`, not {type(tree).__name__}")
    tree = {str(key): value for key, value in tree.items()}
    is_empty = {key for key, value in tree.items() if value is None and key in RunConfig.model_fields}
    return {key: value for key, value in tree.items() if key not in is_empty}, name


def _read_file(path: Path) -> bytes:
    with reading(f"preset file {printable(path, 500)}", ConfigError):
        return read_file(path, CONFIG_BYTES)


def _flat(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}


def _nested(dotted: Mapping[str, Any], deleted: Mapping[str, DeletedKey] = DELETED_KEYS) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        if key not in known_keys():
            raise unknown_key(key, deleted)
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree


def _overridden(
    tree: Mapping[str, Any], overrides: Mapping[str, Any], deleted: Mapping[str, DeletedKey] = DELETED_KEYS
) -> dict[str, Any]:
    """`tree` with dotted keys replaced, which leave train.auto."""
    merged = _merge(tree, _nested(overrides, deleted))
    train = merged.get("train")
    if isinstance(train, dict) and isinstance(auto := train.get("auto"), (list, tuple)):
        train["auto"] = [key for key in auto if not isinstance(key, str) or key not in overrides]
    return merged


def _listed_in_auto(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """`tree` with the keys whose value is `auto`, where it may be chosen, in train.auto instead."""
    given = [key for key in get_args(AutoKey) if _section(tree, key).get(key.partition(".")[2]) == "auto"]
    if not given:
        return tree
    rest = {section: dict(values) if isinstance(values, Mapping) else values for section, values in tree.items()}
    for key in given:
        section, _, name = key.partition(".")
        del rest[section][name]
    train = rest.setdefault("train", {})
    listed = train.get("auto", ()) if isinstance(train, dict) else None
    if isinstance(listed, (list, tuple)) and all(isinstance(key, str) for key in listed):  # else refused by its type
        train["auto"] = sorted({*listed, *given})
    return rest


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    values = tree.get(key.partition(".")[0])
    return values if isinstance(values, Mapping) else {}


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the sections of `change` applied key by key; a value is replaced as a whole.

    A section of `base` that is not a mapping is kept, so that validation rejects it.
    """
    merged = {section: dict(values) if isinstance(values, Mapping) else values for section, values in base.items()}
    for section, values in change.items():
        before = merged.get(section, {})
        if isinstance(before, Mapping):
            merged[section] = {**before, **values} if isinstance(values, Mapping) else values
    return merged


def _explain(error: ValidationError) -> Iterable[str]:
    """One line per key, instead of pydantic's own page: key, value, rule, and its default as a way out."""
    rules: dict[str, list[str]] = {}
    problems = error.errors(include_url=False)
    for problem in problems[:MOST_PROBLEMS]:
        key = ".".join(str(part) for part in problem["loc"][:2])
        if problem["type"] == "extra_forbidden":
            yield f"unknown key {printable(key, 80)!r}{_meant(key)}"
        elif problem["type"] == "invalid_key":
            yield f"unknown key {printable(key, 80)!r}; a number is written with a point: 0.5, not 0,5"
        elif key:
            rule = problem["msg"].removeprefix("Value error, ")
            rule = f"{rule[0].lower()}{rule[1:]}"
            rules.setdefault(f"{printable(key, 80)}={_shown(problem['input'])}", []).append(rule)
        else:
            yield problem["msg"].removeprefix("Value error, ")
    for given, several in rules.items():
        yield f"{given}: {', or '.join(several)}{_default_hint(given.partition('=')[0])}"
    if len(problems) > MOST_PROBLEMS:
        yield f"and {len(problems) - MOST_PROBLEMS} more"


def _meant(key: str) -> str:
    """A hint that names the key which an unknown one stands for: the same name in a section, or the closest one."""
    if "." in key:
        return nearest(key, known_keys())
    same = [known for known in known_keys() if known.partition(".")[2].lower() == key.lower()]
    return f"; did you mean {same[0]!r}?" if same else nearest(key, RunConfig.model_fields)


def _shown(value: Any) -> str:
    """A value as messages show it: a short, printable repr, text in quotes."""
    if isinstance(value, str):
        return f"'{printable(without_credentials(value))}'"
    return without_credentials(printable(value))


def _default_hint(key: str) -> str:
    section, _, name = key.partition(".")
    known = name and section in RunConfig.model_fields
    field = RunConfig.model_fields[section].annotation.model_fields.get(name) if known else None  # type: ignore[union-attr]
    return "" if field is None else f" (default: {field.default!r})"


# Checks of what the types of single keys cannot express.


def _check_workers(num_workers: int | str) -> None:
    numbers = [int(part) for part in str(num_workers).split(":")]
    if numbers[0] > numbers[-1]:
        raise ValueError(
            f"cluster.num_workers={num_workers}: the least number of workers comes first; try {numbers[1]}:{numbers[0]}"
        )


def _check_minibatch_sizes(cfg: RunConfig) -> None:
    sched = cfg.schedule
    if {"schedule.minibatch_size", "schedule.minibatch_gpu"} & set(cfg.train.auto):
        return  # checked with the chosen values
    for resolution in [None, *sched.minibatch_size_dict, *sched.minibatch_gpu_dict]:
        size = sched.minibatch_size_dict.get(resolution or 0, sched.minibatch_size)
        gpu = sched.minibatch_gpu_dict.get(resolution or 0, sched.minibatch_gpu)
        where = "" if resolution is None else f" at resolution {resolution}"
        if size % gpu:
            raise ValueError(
                f"schedule.minibatch_size={size} must be a multiple of schedule.minibatch_gpu={gpu}{where}; "
                f"try {max(size // gpu, 1) * gpu}"
            )
        if size // gpu < cfg.cluster.most_workers:
            raise ValueError(
                f"cluster.num_workers={cfg.cluster.num_workers} needs at least as many micro-batches per minibatch, "
                f"but schedule.minibatch_size={size} / schedule.minibatch_gpu={gpu}{where} is {size // gpu}; "
                f"use fewer workers or a smaller minibatch_gpu"
            )


def _check_balance(data: DataConfig) -> None:
    if data.balance and not data.cond:
        raise ValueError("data.balance=true needs data.cond=true, since classes are known from labels only")
    if data.balance and data.shuffle != "full":
        raise ValueError(f"data.balance=true needs data.shuffle=full, not {data.shuffle}")


def _check_drange(drange: tuple[float, float]) -> None:
    if drange[0] >= drange[1]:
        raise ValueError(f"train.drange_net={drange} must increase from the first value to the second; try [-1, 1]")
    if max(map(abs, drange)) > LARGEST_VALUE or drange[1] - drange[0] < LEAST_RANGE:
        raise ValueError(
            f"train.drange_net={drange} must be between {-LARGEST_VALUE:g} and {LARGEST_VALUE:g}, and its values "
            f"{LEAST_RANGE:g} apart at least; try [-1, 1]"
        )


def _check_grid(grid_size: str | tuple[int, int]) -> None:
    if not isinstance(grid_size, str) and grid_size[0] * grid_size[1] > LARGEST_GRID:
        raise ValueError(
            f"train.grid_size={list(grid_size)} is a grid of more than {LARGEST_GRID:,} images; use fewer columns or "
            "rows, such as [32, 32]"
        )


def _check_filters(model: ModelConfig) -> None:
    for key in ("resample_kernel", "blur_filter"):
        taps = getattr(model, key)
        if taps is not None and not 1e-6 < abs(sum(taps)) < 1e6:
            raise ValueError(f"model.{key}={taps} must have taps with a sum other than 0; try [1, 3, 3, 1]")


STYLE1_ONLY = (
    "use_wscale", "use_styles", "use_pixel_norm", "use_instance_norm", "const_input_layer", "blur_filter",
    "fused_scale",
)  # fmt: skip
"""Keys of `model` that only apply to model.family=stylegan1."""


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
                f"model.{key}={value!r} does not apply to model.family={model.family}; "
                f"use model.family=stylegan1, or {default!r}"
            )


def _check_compile(cfg: RunConfig) -> None:
    if cfg.train.compile and cfg.schedule.lod_initial_resolution is not None:
        raise ValueError(
            f"train.compile=true does not work with networks that grow (schedule.lod_initial_resolution="
            f"{cfg.schedule.lod_initial_resolution}); use train.compile=false"
        )


def _check_groups(cfg: RunConfig) -> None:
    """Minibatch standard deviation needs whole groups in every micro-batch."""
    group, sched = cfg.model.mbstd_group_size, cfg.schedule
    if not group or not cfg.model.mbstd_num_features or "schedule.minibatch_gpu" in cfg.train.auto:
        return
    by_key = {"": sched.minibatch_gpu, **{f"_dict[{side}]": size for side, size in sched.minibatch_gpu_dict.items()}}
    for key, size in by_key.items():
        if size > group and size % group:
            raise ValueError(
                f"schedule.minibatch_gpu{key}={size} must be a multiple of model.mbstd_group_size={group}, or smaller; "
                f"use {size // group * group}"
            )


def _check_augment(cfg: RunConfig) -> None:
    augment = cfg.augment
    if augment.mode == "noaug":
        return
    if cfg.schedule.lod_initial_resolution is not None:
        raise ValueError(
            f"augment.mode={augment.mode} does not work with networks that grow (schedule.lod_initial_resolution="
            f"{cfg.schedule.lod_initial_resolution}): the papers define it at one resolution only; use "
            f"augment.mode=noaug, or config-e or config-f"
        )
    if augment.mode == "ada" and not cfg.loss.D.startswith("logistic"):
        raise ValueError(
            f"augment.mode=ada needs a logistic loss, not loss.D={cfg.loss.D}, where the sign of a score means "
            f"nothing; use augment.mode=fixed or diffaug"
        )
    if cfg.train.drange_net != (-1.0, 1.0):
        raise ValueError(
            f"augment.mode={augment.mode} changes images whose values are between -1 and 1, not in "
            f"train.drange_net={list(cfg.train.drange_net)}; leave it out, or use augment.mode=noaug"
        )
    if len(set(augment.policy)) < len(augment.policy):
        raise ValueError(f"augment.policy={list(augment.policy)} names one augmentation twice; leave one out")
    if augment.mode == "diffaug" and not augment.policy:
        raise ValueError("augment.policy=() augments nothing; use augment.mode=noaug")


def _check_freeze(cfg: RunConfig) -> None:
    if cfg.train.freeze_D and (cfg.model.family != "stylegan2" or cfg.schedule.lod_initial_resolution is not None):
        raise ValueError(
            f"train.freeze_D={cfg.train.freeze_D} needs networks that do not grow and model.family=stylegan2, not "
            f"{cfg.model.family}; use 0"
        )
