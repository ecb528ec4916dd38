"""Presets, values of keys and names of runs as no program writes them: ConfigError by key or file, at once."""

import pytest

from stylegan_ray.config import ConfigError, RunConfig, known_keys, load_config
from stylegan_ray.options import train_options

SHORT = 400
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


def require_refused(key, value):
    """On the command line, by override and in a preset; the message is short and printable."""
    with pytest.raises(ConfigError) as caught:
        load_config("config-f", {key: value})
    message = str(caught.value)
    assert all(line.isprintable() and len(line) < SHORT + 400 for line in message.splitlines()), message
    return message


def is_open(key):
    """Whether any text is a value of a key."""
    section, name = key.split(".")
    return "str" in str(RunConfig.model_fields[section].annotation.model_fields[name].annotation)


@pytest.mark.parametrize("key", [key for key in known_keys() if not is_open(key)])
def test_values_of_every_key(key):
    deep = []
    for _ in range(60):
        deep = [deep, deep]
    for value in (
        10**30,
        -(10**30),
        float("nan"),
        float("inf"),
        "\x1b[2J\n",
        "x" * 1_000_000,
        deep,
        {"a": deep},
        b"\xff",
    ):
        try:
            load_config("config-f", {key: value})
        except ConfigError as error:
            assert all(line.isprintable() and len(line) < 2 * SHORT for line in str(error).splitlines()), (key, error)
        else:  # a float has room for it
            assert isinstance(value, int), (key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.total_kimg", ".inf"), ("schedule.G_lrate", ".inf"), ("schedule.G_lrate", ".nan"),
        ("loss.r1_gamma", "inf"),
        ("model.mapping_layers", "100000000"), ("model.z_dim", "1000000"), ("model.fmap_max", "1" + "0" * 5_000),
        ("data.resolution", "1048576"), ("data.resolution", "[1048576, 8]"), ("model.resample_kernel", "[]"),
        ("model.resample_kernel", "[1, -1]"), ("schedule.G_lrate_dict", "{128: .inf}"), ("run.seed", "1" + "0" * 40),
        ("train.drange_net", "[.nan, 1]"), ("train.drange_net", "[-1.7e308, 1.7e308]"),
        ("train.grid_size", "[999999999, 999999999]"), ("train.grid_size", "[32769, 1]"),
        ("train.drange_net", "[0, 1e-320]"), ("train.drange_net", "[1e30, 2e30]"), ("model.conv_clamp", ".inf"),
    ],
)  # fmt: skip
def test_values_on_the_command_line(key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        train_options([f"--{key}", value])


@pytest.mark.parametrize(
    "name",
    [
        "../../x", "..", ".", "", " ", "a/b", "/etc", "a\\b", "a\nb", "a\x00b", "\x1b[2J", "\udc80", "\u202e",
        "x" * 201,
        "ü" * 150, "a?b", "a#b",
    ],
)  # fmt: skip
def test_the_name_of_a_run_is_that_of_one_folder(name):
    assert "run.name" in require_refused("run.name", name)


@pytest.mark.parametrize("name", ["run", "run 1", "run-2026.11", "läufe", "a:b", "x" * 200, "漢字"])
def test_other_names_are_fine(name):
    assert load_config("config-f", {"run.name": name}).run.name == name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"loss:\n\tr1_gamma: 1", "line 2, column 1.*tabs"),
        ("run: {name: für}".encode("latin-1"), "line 1.*UTF-8"),
        *(("loss: {r1_gamma: 1}".encode(name), f"is {name[:6].upper()}; save it as UTF-8") for name in WIDE),
        (b"\x00\x01\x02", "line 1"),
        (b"loss: !!python/object/apply:os.system [true]", "tags"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        (b"loss: {r1_gamma: 1}\nloss: {pl_weight: 1}", "'loss'.*twice"),
        (b"loss: {r1_gamma: 1, r1_gamma: 2}", "'r1_gamma'.*twice"),
        (b"loss: {r1_gamma: 1}\nloss.r1_gamma: 2", "loss.r1_gamma is given twice"),
        (b"schedule: {G_lrate_dict: {128: 0.1, '128': 0.2}}", "schedule.G_lrate_dict gives one side twice"),
        (b"run: {seed: " + b"9" * 5_000 + b"}", "integer"),
        (b"[" * 50_000, "nested"),
        (b"loss: {", "line 1"),
        (b"- a\n- b", "mapping"),
        (b"5", "mapping"),
        (b"loss: 5", "loss"),
        (b"loss: [r1_gamma]", "loss"),
        *((b"run: " + value, "run=.*dictionary") for value in (b"5", b"true", b"1.5", b"preset", b"[preset]")),
        *((b"model: {fmap_base: auto}\ntrain: " + value, "train=.*dictionary") for value in (b"5", b"[a]", b"true")),
        *(
            (b"model: {fmap_base: auto}\ntrain: {auto: " + value + b"}", r"train\.auto.*=")
            for value in (b"5", b"null", b"true", b"[5]", b"[[1]]", b"{a: 1}")
        ),
        (b"loss: 5\nloss.r1_gamma: 3", "loss=5"),
        (b"loss: [1]\nloss.r1_gamma: 3", "loss=.1"),
        (b"'\\e[2J': 1", "unknown key"),
        (b"loss: {'\\e[2J': 1}", "unknown key"),
        (b"train: {total_kimg: .inf}", "total_kimg"),
        (b"model: {z_dim: true}", r"preset file .*model\.z_dim=True: true and false are values of switches"),
        *((b"schedule: {minibatch_size_dict: {" + key + b": 8}}", r"schedule\.minibatch_size_dict")
            for key in (b"true", b"-8", b"9" * 31, b"1.5")),
        *((b"schedule: {G_lrate: " + value + b"}", r"schedule\.G_lrate=") for value in (b"1.0e+300", b"1.0e-320")),
        (b"loss: {r1_gamma: 1.0e+308}", r"loss\.r1_gamma=1e\+308"),
        (b"x" * (1 << 20), "more than the limit"),
        (b"model: {family: '" + b"x" * 100_000 + b"'}", "family"),
    ],
)  # fmt: skip
def test_presets_that_are_wrong(tmp_path, content, words):
    path = tmp_path / "preset.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"(?s){words}") as caught:
        load_config(str(path))
    assert all(line.isprintable() and len(line) < 2 * SHORT for line in str(caught.value).splitlines())


def test_an_empty_section_is_as_if_it_were_absent(tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_text("run:\ntrain:\nloss:\nmodel: {fmap_base: auto}\nloss.r1_gamma: 3\n")
    cfg = load_config(str(path))
    assert (cfg.train.auto, cfg.loss.r1_gamma, cfg.run.preset) == (("model.fmap_base",), 3, "preset")


def test_a_section_that_is_none_is_refused_with_overrides_too(tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_text("loss: 5")
    with pytest.raises(ConfigError, match="loss=5"):
        load_config(str(path), {"loss.r1_gamma": 3})


def test_presets_that_are_no_files(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for path in (
        "/dev/zero.yaml",
        tmp_path / "folder.yaml",
        tmp_path / "gone.yaml",
        "\x00.yaml",
        "x" * 5_000 + ".yaml",
    ):
        with pytest.raises(ConfigError):
            load_config(str(path))
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"zero\.yaml.*regular file"):
        load_config(str(tmp_path / "zero.yaml"))


def test_words_and_numbers_mean_what_they_say(tmp_path):
    """`on` is a word; 2:8 is no number in base 60; 010 is ten."""
    path = tmp_path / "preset.yaml"
    path.write_text(
        "model: {family: stylegan1, fused_scale: on}\ndata: {cond: yes, mirror_augment: off}\n"
        "run: {seed: 010, name: no}\n"
        "cluster: {num_workers: 2:8}\n"
    )
    cfg = load_config(str(path))
    assert (cfg.model.fused_scale, cfg.data.cond, cfg.data.mirror_augment) == ("on", True, False)
    assert (cfg.run.seed, cfg.run.name, cfg.cluster.num_workers) == (10, "no", "2:8")
