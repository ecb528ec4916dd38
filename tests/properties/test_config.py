"""Round trips of configurations: YAML, JSON, the words of a command line, rows of a run's files."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.properties import KEYS, TEXT, configs, examples, values_of_key

from stylegan_ray.config import ConfigError, differences, load_config, may_differ_on_resume, validated
from stylegan_ray.credentials import host_of
from stylegan_ray.jsonl import jsonl_line, jsonl_rows, keep_rows
from stylegan_ray.options import NULLS, parse_value, train_options


@examples(30)
@given(configs())
def test_a_saved_yaml_file_is_the_configuration(tmp_path, drawn):
    cfg, _ = drawn
    file = tmp_path / "config.yaml"
    file.write_text(cfg.to_yaml())
    found = load_config(str(file))
    assert found == cfg and found.digest() == cfg.digest() and not differences(found, cfg)


@examples(30)
@given(configs())
def test_json_is_the_configuration(drawn):
    cfg, _ = drawn
    assert validated(json.loads(json.dumps(cfg.model_dump(mode="json")))) == cfg
    assert validated(json.loads(cfg.model_dump_json())) == cfg


@examples(60)
@given(configs())
def test_overrides_are_in_the_configuration_and_nothing_else_changes(drawn):
    cfg, given_keys = drawn
    flat, base = cfg.flat(), load_config("config-f").flat()
    for key in KEYS:
        if key == "train.auto" and key in given_keys:  # a key that is given a value is not chosen
            assert flat[key] == [name for name in given_keys[key] if name not in given_keys], key
        elif key == "report.notify" and given_keys.get(key):
            assert flat[key] == host_of(given_keys[key]), "the rest may be a secret"
        elif key in given_keys:
            assert flat[key] == json.loads(json.dumps(given_keys[key])) or isinstance(given_keys[key], dict), key
        elif key != "train.auto":
            assert flat[key] == base[key], key
    assert load_config("config-f").with_overrides(given_keys) == cfg


@examples(60)
@given(configs(), st.sampled_from(KEYS), st.data())
def test_digest_covers_what_may_not_differ_on_resume(drawn, key, data):
    cfg, _ = drawn
    try:
        other = cfg.with_overrides({key: data.draw(values_of_key(key))})
    except ValueError:
        return
    changed = cfg.flat()[key] != other.flat()[key]
    if may_differ_on_resume(key):
        assert not differences(cfg, other)
    else:
        assert bool(differences(cfg, other)) == changed and (cfg.digest() != other.digest()) == changed


@examples(60)
@given(st.sampled_from(KEYS), st.sampled_from([float("inf"), float("-inf"), float("nan")]))
def test_numbers_that_are_not_finite_are_refused_by_key(key, number):
    """JSON, which network files hold, has no such numbers."""
    section, name = key.split(".")
    is_pair = isinstance(load_config("config-f").model_dump()[section][name], tuple)
    value = [0.0, number] if is_pair else number
    with pytest.raises(ConfigError, match=key):
        load_config("config-f", {key: value})


def word_of(value):
    """A value as a user types it: text as it is, all else in YAML's flow style."""
    if isinstance(value, str):
        return value
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


@examples(300)
@given(st.sampled_from(KEYS), st.data())
def test_each_value_as_one_word_is_the_value(key, data):
    value = data.draw(values_of_key(key))
    if isinstance(value, str) and value in NULLS:
        assert parse_value(key, value) is None or value == parse_value(key, value)
        return
    found = parse_value(key, word_of(value))
    try:
        cfg = load_config("config-f", {key: value})
    except ValueError:
        return
    assert load_config("config-f", {key: found}) == cfg


@examples(12)
@given(configs(most=5), st.data())
def test_words_of_a_command_line_are_the_configuration(drawn, data):
    cfg, given_keys = drawn
    words = []
    for key, value in given_keys.items():
        if isinstance(value, str) and (value in NULLS or not value):
            return
        separate = data.draw(st.booleans()) and not word_of(value).startswith("-")
        if value is False and data.draw(st.booleans()):
            words.append(f"--no-{key.replace('_', '-')}")
        else:
            words += [f"--{key}", word_of(value)] if separate else [f"--{key}={word_of(value)}"]
    assert train_options(["config-f", *words]).cfg == cfg


NUMBERS = st.integers(-(1 << 64), 1 << 64) | st.floats(allow_nan=False)
ROWS = st.lists(
    st.dictionaries(TEXT, st.none() | st.booleans() | NUMBERS | TEXT, max_size=4)
    .map(lambda row: {name: value for name, value in row.items() if value not in (float("inf"), float("-inf"))}),
    max_size=5,
)  # fmt: skip


@examples(100)
@given(ROWS)
def test_rows_are_read_as_they_were_written(rows):
    assert jsonl_rows(b"".join(map(jsonl_line, rows))) == rows


@examples(100)
@given(ROWS, st.integers(0, 6), st.integers(0, 300))
def test_rows_of_ticks_below_a_number_are_kept_though_the_file_is_torn(rows, num_ticks, torn):
    rows = [row | {"Progress/tick": tick} for tick, row in enumerate(rows)]
    content = b"".join(map(jsonl_line, rows))
    assert jsonl_rows(keep_rows(content, num_ticks)) == rows[:num_ticks]
    whole = content[: len(content) - torn] if torn else content
    assert jsonl_rows(keep_rows(whole, num_ticks)) == rows[: min(num_ticks, whole.count(b"\n"))]
