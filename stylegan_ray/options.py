"""Options of the train command, generated from the configuration: one per dotted key, with values in YAML syntax."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from tyro.constructors import PrimitiveConstructorSpec

from stylegan_ray.config import (
    ADA_KIMG,
    DELETED_KEYS,
    AutoKey,
    ConfigError,
    DeletedKey,
    RunConfig,
    is_yaml,
    known_keys,
    load_config,
    nearest,
    preset_names,
    unknown_key,
)
from stylegan_ray.untrusted import BadFileError, printable
from stylegan_ray.untrusted_text import parse_yaml

Command = TypeVar("Command")
ClusterAddress = Annotated[
    str | None, tyro.conf.arg(metavar="HOST:PORT", aliases=["--cluster.address"], help_behavior_hint="")
]
"""Option --address of commands other than train, with the name of train's key."""
DEFAULT_PRESET = "tiny"
NULLS = ("null", "none", "None", "~")
OWN_OPTIONS = ("help", "resume-from", "dry-run")
DESCRIPTION = """Trains a StyleGAN2; the same command again continues the run.

The defaults shown are those of the preset. Values have YAML syntax: 0.002, null, [12, 8], {128: 0.0015}.
A boolean key needs no value: --data.cond is --data.cond true, --data.no_cond is --data.cond false."""


def check_least(options: Any, **least: float) -> None:
    """Raises ConfigError where an option is less than its least value; None is fine."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least {bound:g}")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The parsed command line of the train command."""

    cfg: RunConfig
    resume_from: str | None
    dry_run: bool
    transfer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values that --resume-from has changed in `cfg`."""


def train_options(
    argv: Sequence[str], prog: str = "train", deleted: Mapping[str, DeletedKey] = DELETED_KEYS
) -> TrainOptions:
    """Parses the command line of the train command; raises ConfigError, or exits with help or a usage error."""
    wants_help = any(word in ("-h", "--help") for word in argv)
    words = list(_normalize([word for word in argv if word not in ("-h", "--help")], deleted))
    given = _parse(words, load_config(DEFAULT_PRESET), prog)
    _check_preset(given.preset, prog)
    overrides = _overrides(given)
    cfg = load_config(given.preset, overrides, deleted)
    if wants_help:
        _print_help(load_config(given.preset), prog)
        raise SystemExit(0)
    stated = {*overrides, *_keys_of_file(cfg, given.preset)}
    transfer = transfer_defaults(cfg, stated) if given.resume_from else {}
    return TrainOptions(cfg.with_overrides(transfer), given.resume_from, given.dry_run, transfer)


def _keys_of_file(cfg: RunConfig, preset: str) -> Iterator[str]:
    """The keys that a preset file of the user's own states."""
    if preset in preset_names():
        return
    for section in RunConfig.model_fields:
        yield from (f"{section}.{name}" for name in getattr(cfg, section).model_fields_set)


def transfer_defaults(cfg: RunConfig, given: Collection[str]) -> dict[str, Any]:
    """With --resume-from: values that suit networks that are trained already, for keys that were not given.

    p moves five times as fast as in a new run, and the half-life of G_ema is not shortened at the start.
    """
    values: dict[str, Any] = {}
    if cfg.augment.mode == "ada" and cfg.augment.ada_kimg == ADA_KIMG:
        values["augment.ada_kimg"] = 100.0
    if cfg.schedule.G_smoothing_rampup is not None:
        values["schedule.G_smoothing_rampup"] = None
    return {key: value for key, value in values.items() if key not in given}


def parse_options(options: type[Command], argv: Sequence[str], prog: str) -> Command:
    """The options of any other command, given as a dataclass; exits with help or a usage error."""
    return tyro.cli(options, args=list(argv), prog=prog, use_underscores=False)


class Text(str):
    """The text of a value given on the command line, in contrast to a default."""


def parse_value(key: str, text: str) -> Any:
    """The value of a key: null, the text itself where the key is a string, else YAML. Its range is not checked."""
    for reading in _readings(text):
        if _has_type(key, reading):
            return reading
    return text  # RunConfig raises an error that names the key and the value


def _overrides(given: Any) -> dict[str, Any]:
    overrides = {} if given.data_path is None else {"data.path": given.data_path}
    for key in option_keys():
        section, name = key.split(".")
        text = getattr(getattr(given, section), name)
        if isinstance(text, Text):
            if key in overrides:
                raise ConfigError(f"the data is given twice, as {overrides[key]} and as --{key} {text}; leave one out")
            overrides[key] = parse_value(key, text)
    return overrides


def _check_preset(preset: str, prog: str) -> None:
    """Raises ConfigError where the data was given in place of the preset."""
    if preset not in preset_names() and not is_yaml(preset) and (os.path.exists(preset) or "://" in preset):
        raise ConfigError(
            f"{preset!r} is not a preset; the preset comes before the data: {prog} {DEFAULT_PRESET} {preset}"
        )


def _normalize(argv: Sequence[str], deleted: Mapping[str, DeletedKey]) -> Iterator[str]:
    """The command line with every option as --section.key=VALUE; raises ConfigError for unknown options."""
    words = list(argv)
    while words:
        name, equals, value = (word := words.pop(0)).partition("=")
        if not name.startswith("--") or name[2:].replace("_", "-") in OWN_OPTIONS:
            yield word
            continue
        key, negated = _key_of_option(name[2:], deleted)
        if negated or equals:
            yield f"--{key}={'false' if negated else value}"
        elif _is_boolean(key) and not _num_words(key, words):
            yield f"--{key}=true"
        else:
            num = _num_words(key, words) or 1
            value, words = words[:num], words[num:]
            yield f"--{key}={value[0] if len(value) == 1 else value}" if value else f"--{key}"


def _num_words(key: str, words: Sequence[str]) -> int:
    """How many of the words after an option belong to its value: the longest list that has the key's type, or one."""
    following = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    lists = [n for n in range(1, len(following) + 1) if _has_type(key, following[:n])]
    if following and (following[0].startswith("[") or not lists):
        return int(any(_has_type(key, reading) for reading in _readings(following[0])))
    return max(lists, default=0)


def _key_of_option(name: str, deleted: Mapping[str, DeletedKey]) -> tuple[str, bool]:
    """The key that an option sets, and whether it is negated (--no-data.cond, --data.no-cond)."""
    spelled = name.replace("-", "_").lower()
    positive = spelled.removeprefix("no_").replace(".no_", ".")
    keys = {key.lower(): key for key in option_keys()}
    if spelled in keys:
        return keys[spelled], False
    if positive in keys and _is_boolean(keys[positive]):
        return keys[positive], True
    for key in deleted:
        if key.lower() in (spelled, positive):
            raise unknown_key(key, deleted)
    by_last_part = [key for key in keys.values() if key.split(".")[1].lower() == spelled]
    hint = f"; did you mean '--{by_last_part[0]}'?" if by_last_part else nearest(f"--{spelled}", _all_options())
    raise ConfigError(f"unknown option '--{printable(name, 80)}'{hint}")


def option_keys() -> list[str]:
    """The keys that the command line can set: all but run.preset, which is positional."""
    return [key for key in known_keys() if key != "run.preset"]


def _all_options() -> list[str]:
    return [f"--{name}" for name in (*option_keys(), *OWN_OPTIONS)]


def _type(key: str) -> Any:
    section, name = key.split(".")
    return RunConfig.model_fields[section].annotation.model_fields[name].annotation  # type: ignore[union-attr]


def _is_boolean(key: str) -> bool:
    return _type(key) is bool or bool in get_args(_type(key))


def _readings(word: str) -> list[Any]:
    """The values that one word can stand for, the likeliest first; the last is a list of one element."""
    return [*([None] if word in NULLS else []), word, _yaml(word), [word]]


def _has_type(key: str, value: Any) -> bool:
    """Whether a value has the type of a key."""
    try:
        TypeAdapter(_type(key)).validate_python(value)
    except ValidationError:
        return False
    return True


def _yaml(text: str) -> Any:
    if text.startswith("{"):
        text = re.sub(r"(?<=\d):(?=\S)", ": ", text)  # in YAML, {128:0.5} is a key without a value
    try:
        return parse_yaml(text, "the value")
    except BadFileError:
        return text


def _parse(words: Sequence[str], defaults: RunConfig, prog: str) -> Any:
    # All help is given with the fields; tyro would read the source of this module for more.
    config = (tyro.conf.HelptextFromCommentsOff,)
    return tyro.cli(_options(defaults), args=list(words), prog=prog, use_underscores=True, config=config)


def _print_help(defaults: RunConfig, prog: str) -> None:
    """Prints tyro's help with the defaults of a preset."""
    text = _StdoutLike()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _parse(["--help"], defaults, prog)
    # tyro spells all options alike; those that are not keys of the configuration have hyphens here.
    sys.stdout.write(text.getvalue().replace("--resume_from", "--resume-from").replace("--dry_run", "--dry-run"))


class _StdoutLike(io.StringIO):
    """A text buffer that tyro formats as it does standard output."""

    encoding = sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _options(defaults: RunConfig) -> type:
    """A dataclass for tyro: one field per section, whose fields are its keys, and the options of the command itself."""
    fields: list[tuple[str, Any, Any]] = [
        _own("preset", str, "[PRESET]", f"{', '.join(preset_names())}, or a YAML file.", DEFAULT_PRESET),
        _own(
            "data_path", str | None, "[DATA]", "Training images, the same as --data.path.", None, "(default: openmoji)"
        ),
        _own(
            "resume_from",
            str | None,
            "CKPT",
            "Start with the networks of another run, checkpoint or network file.",
            None,
            "",
        ),
        _own("dry_run", bool, "", "Print the resolved configuration, networks and schedule, and exit.", False, ""),
    ]
    for section, field in RunConfig.model_fields.items():
        values = getattr(defaults, section)
        members = [
            (name, *_key_option(f"{section}.{name}", key, getattr(values, name), defaults.train.auto))
            for name, key in field.annotation.model_fields.items()  # type: ignore[union-attr]
            if f"{section}.{name}" in option_keys()
        ]
        part = dataclasses.make_dataclass(section, members)
        fields.append((section, part, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass("Train", fields, namespace={"__doc__": DESCRIPTION})


def _own(name: str, kind: Any, metavar: str, text: str, default: Any, hint: str | None = None) -> tuple[str, Any, Any]:
    mark = tyro.conf.Positional if metavar.startswith("[") else tyro.conf.FlagCreatePairsOff
    arg = tyro.conf.arg(help=text, metavar=metavar or None, help_behavior_hint=hint)
    return name, Annotated[kind, mark, arg], dataclasses.field(default=default)


def _key_option(key: str, field: FieldInfo, value: Any, chosen: Sequence[str]) -> tuple[Any, Any]:
    """Type and default of a key for tyro. `chosen`: the keys in train.auto, whose defaults are shown as auto."""
    metavar = _metavar(field.annotation) + ("|auto" if key in get_args(AutoKey) else "")
    hint = "(default: auto)" if key in chosen else None
    help_ = tyro.conf.arg(help=field.description, help_behavior_hint=hint)
    return Annotated[Any, _text(metavar), help_], _default(value)


def _default(value: Any) -> Any:
    return dataclasses.field(default_factory=lambda: value)


def _text(metavar: str) -> PrimitiveConstructorSpec:
    """Makes tyro pass the value of a key on as text."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: Text(words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [_format_value(value)],
    )


def _format_value(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _metavar(annotation: Any) -> str:
    """A type as --help shows it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _metavar(args[0])
    if origin is Literal:
        return "{" + ",".join(str(value) for value in args) + "}"
    if origin in (Union, types.UnionType):
        return "|".join(_metavar(arg) for arg in args)
    if origin is tuple:
        return " ".join("..." if arg is Ellipsis else _metavar(arg) for arg in args)
    if origin is dict:
        return f"{{RESOLUTION: {_metavar(args[1])}, ...}}"
    return annotation.__name__.upper()
