"""Options of the train command, made from the configuration: one per dotted key, values in YAML's spelling."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from tyro.constructors import PrimitiveConstructorSpec

from stylegan_ray.config import ConfigError, RunConfig, known_keys, load_config, nearest, preset_names

Command = TypeVar("Command")
DEFAULT_PRESET = "tiny"
NULLS = ("null", "none", "None", "~")
OWN_OPTIONS = ("help", "resume-from", "dry-run")
DESCRIPTION = """Trains a StyleGAN2; the same command again continues the run.

The defaults shown are those of the preset. Values are spelled as in YAML: 0.002, null, [12, 8], {128: 0.0015}.
A switch needs none: --data.cond is --data.cond true, --data.no_cond is --data.cond false."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What the train command was asked to do."""

    cfg: RunConfig
    resume_from: str | None
    dry_run: bool


def train_options(argv: Sequence[str], prog: str = "train") -> TrainOptions:
    """Reads the train command's words; raises ConfigError, or exits with help or a usage error."""
    wants_help = any(word in ("-h", "--help") for word in argv)
    words = list(_spelled_out([word for word in argv if word not in ("-h", "--help")]))
    given = _parse(words, load_config(DEFAULT_PRESET), prog)
    cfg = load_config(_checked_preset(given.preset, prog), _overrides(given))
    if wants_help:
        _print_help(load_config(given.preset), prog)
        raise SystemExit(0)
    return TrainOptions(cfg, given.resume_from, given.dry_run)


def parsed(options: type[Command], argv: Sequence[str], prog: str) -> Command:
    """The options of any other command, a dataclass; exits with help or a usage error."""
    return tyro.cli(options, args=list(argv), prog=prog, use_underscores=False)


class Text(str):
    """What the command line gave for a key."""


def value_of(key: str, text: str) -> Any:
    """The value that a word stands for: null, the text itself where the key takes it, else YAML; not yet checked."""
    for reading in _readings(text):
        if _takes(key, reading):
            return reading
    return text  # the configuration says what is wrong with it


def _overrides(given: Any) -> dict[str, Any]:
    overrides = {} if given.pictures is None else {"data.path": given.pictures}
    for key in option_keys():
        section, name = key.split(".")
        text = getattr(getattr(given, section), name)
        if isinstance(text, Text):
            if key in overrides:
                raise ConfigError(f"the data is given twice: as {overrides[key]} and as --{key} {text}")
            overrides[key] = value_of(key, text)
    return overrides


def _checked_preset(preset: str, prog: str) -> str:
    """The preset, unless it looks as if the data was given in its place."""
    is_yaml = preset.endswith((".yaml", ".yml"))
    if preset not in preset_names() and not is_yaml and (os.path.exists(preset) or "://" in preset):
        raise ConfigError(
            f"{preset!r} is not a preset; the preset comes before the data: {prog} {DEFAULT_PRESET} {preset}"
        )
    return preset


def _spelled_out(argv: Sequence[str]) -> Iterator[str]:
    """The words with every option known, its key spelled as in YAML, and its value bound to it as one word."""
    keys, words = {key.lower(): key for key in option_keys()}, list(argv)
    while words:
        name, equals, value = (word := words.pop(0)).partition("=")
        if not name.startswith("--") or name[2:].replace("_", "-") in OWN_OPTIONS:
            yield word
            continue
        key, negated = _key(name[2:], keys)
        if negated or equals:
            yield f"--{key}={'false' if negated else value}"
        elif _is_switch(key) and not _num_words(key, words):
            yield f"--{key}=true"
        else:
            value, words = words[: _num_words(key, words) or 1], words[_num_words(key, words) or 1 :]
            yield f"--{key}={value[0] if len(value) == 1 else value}" if value else f"--{key}"


def _num_words(key: str, words: Sequence[str]) -> int:
    """How many of the words, which follow its option, make a value of a key: as many as make a list, or one."""
    following = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    lists = [n for n in range(1, len(following) + 1) if _takes(key, following[:n])]
    if following and (following[0].startswith("[") or not lists):
        return int(any(_takes(key, reading) for reading in _readings(following[0])))
    return max(lists, default=0)


def _key(name: str, keys: Mapping[str, str]) -> tuple[str, bool]:
    """The key that an option names, and whether it says no to it (--no-data.cond, --data.no-cond)."""
    spelled = name.replace("-", "_").lower()
    without = spelled.removeprefix("no_").replace(".no_", ".")
    if spelled in keys:
        return keys[spelled], False
    if without in keys and _is_switch(keys[without]):
        return keys[without], True
    by_last_part = [key for key in keys.values() if key.split(".")[1].lower() == spelled]
    hint = f"; did you mean '--{by_last_part[0]}'?" if by_last_part else nearest(f"--{spelled}", _all_options())
    raise ConfigError(f"unknown option '--{name}'{hint}")


def option_keys() -> list[str]:
    """The keys that the command line can set: all but the one that the preset's name goes to."""
    return [key for key in known_keys() if key != "run.preset"]


def _all_options() -> list[str]:
    return [f"--{name}" for name in (*option_keys(), *OWN_OPTIONS)]


def _type(key: str) -> Any:
    section, name = key.split(".")
    return RunConfig.model_fields[section].annotation.model_fields[name].annotation  # type: ignore[union-attr]


def _is_switch(key: str) -> bool:
    return _type(key) is bool or bool in get_args(_type(key))


def _readings(word: str) -> list[Any]:
    """What a single word may mean, the likeliest first; the last is a list of it alone."""
    return [*([None] if word in NULLS else []), word, _yaml(word), [word]]


def _takes(key: str, value: Any) -> bool:
    """Whether a value has the type of a key."""
    try:
        TypeAdapter(_type(key)).validate_python(value)
    except ValidationError:
        return False
    return True


def _yaml(text: str) -> Any:
    if text.startswith("{"):
        text = re.sub(r"(?<=\d):(?=\S)", ": ", text)  # to YAML {128:0.5} is a key without a value
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _parse(words: Sequence[str], defaults: RunConfig, prog: str) -> Any:
    return tyro.cli(_options(defaults), args=list(words), prog=prog, use_underscores=True)


def _print_help(defaults: RunConfig, prog: str) -> None:
    """tyro's help with the defaults of a preset."""
    text = _LikeStdout()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _parse(["--help"], defaults, prog)
    # tyro spells all options one way; ours have hyphens where they are no keys of the configuration.
    sys.stdout.write(text.getvalue().replace("--resume_from", "--resume-from").replace("--dry_run", "--dry-run"))


class _LikeStdout(io.StringIO):
    """Text in memory that tyro frames and colours as it would the real output."""

    encoding = sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _options(defaults: RunConfig) -> type:
    """A dataclass with a member per section whose members take text, and with the command's own options."""
    fields: list[tuple[str, Any, Any]] = [
        _own("preset", str, "[PRESET]", f"{', '.join(preset_names())}, or a YAML file.", DEFAULT_PRESET),
        _own("pictures", str | None, "[DATA]", "Pictures: the same as --data.path.", None, "(default: openmoji)"),
        _own("resume_from", str | None, "CKPT", "Begin with the networks of another run's checkpoint.", None, ""),
        _own(
            "dry_run", bool, "", "Print the resolved configuration, networks and schedule, and do no more.", False, ""
        ),
    ]
    for section, field in RunConfig.model_fields.items():
        values = getattr(defaults, section)
        members = [
            (name, Annotated[Any, _text(key), tyro.conf.arg(help=key.description)], _default(getattr(values, name)))
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


def _default(value: Any) -> Any:
    return dataclasses.field(default_factory=lambda: value)


def _text(field: FieldInfo) -> PrimitiveConstructorSpec:
    """How tyro is to read a key: as text."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_metavar(field.annotation),
        instance_from_str=lambda words: Text(words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [_shown(value)],
    )


def _shown(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _metavar(annotation: Any) -> str:
    """A type as help shows it."""
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
