"""The command line: how values are written, and what a mistake is answered with."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.data_sets import label_json, numbered, write_folder

from stylegan_ray import cli
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.options import train_options

JOBS = Path(__file__).parents[1] / "jobs"


def changes(*argv):
    """The keys whose values a command line changes from those of its preset."""
    options = train_options(argv)
    preset = load_config(options.cfg.run.preset).flat()
    return {key: value for key, value in options.cfg.flat().items() if preset[key] != value}


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--schedule.G_lrate 0.001", "schedule.G_lrate", 0.001),
        ("--schedule.G-lrate 1e-3", "schedule.G_lrate", 0.001),
        ("--schedule.g-lrate=1e-3", "schedule.G_lrate", 0.001),
        ("--schedule.G_lrate_dict {128:&0.0015,&256:&0.001}", "schedule.G_lrate_dict", {"128": 0.0015, "256": 0.001}),
        ('--schedule.G_lrate_dict {"128":0.0015}', "schedule.G_lrate_dict", {"128": 0.0015}),
        ("--schedule.minibatch_size_dict {32:&64}", "schedule.minibatch_size_dict", {"32": 64}),
        ("--data.cond", "data.cond", True),
        ("--data.cond true", "data.cond", True),
        ("--data.cond=yes", "data.cond", True),
        ("--train.deterministic false", "train.deterministic", False),
        ("--train.no-deterministic", "train.deterministic", False),
        ("--train.no_deterministic", "train.deterministic", False),
        ("--no-train.deterministic", "train.deterministic", False),
        ("--model.mbstd_group_size null", "model.mbstd_group_size", None),
        ("--model.mbstd_group_size none", "model.mbstd_group_size", None),
        ("--train.grid_size 5 4", "train.grid_size", [5, 4]),
        ("--train.grid_size [5,4]", "train.grid_size", [5, 4]),
        ("--train.grid_size=[5,&4]", "train.grid_size", [5, 4]),
        ("--train.grid_size 4k", "train.grid_size", "4k"),
        ("--train.drange_net -1 0.5", "train.drange_net", [-1.0, 0.5]),
        ("--model.resample_kernel 1 2 1", "model.resample_kernel", [1.0, 2.0, 1.0]),
        ("--data.resolution 64", "data.resolution", 64),
        ("--metrics.names=fid5k_tiny", "metrics.names", ["fid5k_tiny"]),
        ("--schedule.G_lrate_dict {128:0.0015}", "schedule.G_lrate_dict", {"128": 0.0015}),
        ("--data.resolution 64 32", "data.resolution", [64, 32]),
        ("--data.channels 1", "data.channels", 1),
        ("--data.crop center", "data.crop", "center"),
        ("--cluster.num_workers 3", "cluster.num_workers", 3),
        ("--cluster.num_workers 1:4", "cluster.num_workers", "1:4"),
        ("--run.name 0001", "run.name", "0001"),
        ("--run.name true", "run.name", "true"),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_values(words, key, value, place):
    """An ampersand is a space inside a word; the preset may come before or after the option."""
    words = [word.replace("&", " ") for word in words.split(" ")]
    if place == "after" and not (words[-1].startswith("--") and "=" not in words[-1]):
        words = [*words, "tiny"]
    assert changes(*(words if "tiny" in words else ["tiny", *words])) == {key: value}


@pytest.mark.parametrize("names", [["fid5k_tiny"], ["fid5k_tiny", "kid500"]])
def test_a_list_can_be_given_as_several_words(names):
    assert changes("tiny", "pictures", "--metrics.names", *names)["metrics.names"] == names


def test_a_source_changes_no_value_of_a_preset_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("augment: {mode: ada, ada_kimg: 500}\nschedule: {G_smoothing_rampup: 0.05}\n")
    assert train_options([str(path), "images.zip", "--resume-from", "old"]).transfer == {}
    path.write_text("augment: {mode: ada}\n")
    assert train_options([str(path), "images.zip", "--resume-from", "old"]).transfer == {"augment.ada_kimg": 100.0}
    found = train_options(["auto", "images.zip", "--resume-from", "old"]).transfer
    assert found == {"augment.ada_kimg": 100.0, "schedule.G_smoothing_rampup": None}


def test_positionals_and_own_options():
    options = train_options(["config-e", "pictures.zip", "--resume-from", "runs/old", "--dry-run"])
    assert (options.cfg.run.preset, options.cfg.data.path) == ("config-e", "pictures.zip")
    assert (options.resume_from, options.dry_run) == ("runs/old", True)
    assert options.cfg.loss.r1_gamma == 100, (
        "the preset takes precedence over the defaults, the command line over the preset"
    )
    assert train_options(["--loss.r1_gamma", "5", "--dry_run", "config-e"]).cfg.loss.r1_gamma == 5


def test_without_arguments_tiny_trains_on_openmoji():
    options = train_options([])
    assert (options.cfg, options.resume_from, options.dry_run) == (load_config("tiny"), None, False)


def test_preset_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("loss: {r1_gamma: 3}\nschedule.G_lrate: 0.004\n")
    cfg = train_options([str(path), "--loss.pl_weight", "0"]).cfg
    assert (cfg.loss.r1_gamma, cfg.schedule.G_lrate, cfg.loss.pl_weight) == (3, 0.004, 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--total_kimg 3", "--train.total_kimg"),
        ("--schedule.minibach_size 3", "--schedule.minibatch_size"),
        ("--dry-rum", "--dry-run"),
        ("confg-f", "config-f"),
        ("/tmp", "the preset comes before the data"),
        ("s3://bucket/pictures", "the preset comes before the data"),
        ("missing.yaml", "does not exist"),
        ("--loss.r1_gamma strong", "loss.r1_gamma='strong'"),
        ("--loss.pl_decay 2", "(default: 0.01)"),
        ("--cluster.num_workers 4:2", "try 2:4"),
        ("--train.grid_size 5 4 3", "'3'"),
        ("--data.shuffle fully", "'full' or 'blocks'"),
        ("--schedule.minibatch_gpu 8 --schedule.minibatch_size 33", "try 32"),
        ("tiny here --data.path there", "given twice"),
        ("--run.preset tiny", "unknown option"),
    ],
)
def test_mistakes_exit_with_2_and_name_a_way_out(words, says, capsys):
    assert cli.run(cli.train, words.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.startswith("error: ") and "pydantic" not in said and "Traceback" not in said


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.run(cli.train, ["tiny", "pictures", "more"])
    assert exit.value.code == 2 and "more" in capsys.readouterr().err


def test_help_shows_the_defaults_of_the_preset(capsys):
    texts = {}
    for preset in ("tiny", "config-e"):
        with pytest.raises(SystemExit) as exit:
            cli.run(cli.train, ["--help"] if preset == "tiny" else [preset, "-h"])
        assert exit.value.code == 0
        texts[preset] = capsys.readouterr().out
    help_of_gamma = texts["config-e"].partition("--loss.r1_gamma")[2].partition("--loss.")[0]
    assert "(default: 100.0)" in help_of_gamma
    assert (
        f"(default: {load_config('tiny').loss.r1_gamma})"
        in texts["tiny"].partition("--loss.r1_gamma")[2].partition("--loss.")[0]
    )
    chosen = texts["tiny"].partition("--schedule.minibatch_gpu INT|auto")[2].partition("--schedule.")[0]
    assert "(default: auto)" in chosen, "tiny leaves it to train.auto"
    assert "--resume-from CKPT" in texts["tiny"] and "--run.preset" not in texts["tiny"]


def test_help_is_fast_because_it_imports_neither_torch_nor_ray():
    code = (
        "import sys; from stylegan_ray import cli\n"
        "try: cli.run(cli.train, ['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'PIL', 'tensorboardX'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_exit_statuses():
    def raises(error):
        def command(argv):
            raise error

        return command

    assert cli.run(lambda argv: 0, []) == 0
    assert cli.run(raises(ConfigError("wrong")), []) == 2
    assert cli.run(raises(KeyboardInterrupt()), []) == 130
    with pytest.raises(RuntimeError):  # Python prints the traceback and exits with 1
        cli.run(raises(RuntimeError("bug")), [])


def test_console_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stylegan-ray", "tain"])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2 and "did you mean 'train'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["stylegan-ray"])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.COMMANDS)


def test_every_command_has_a_job_file_and_job_files_are_thin():
    assert {path.stem for path in JOBS.glob("*.py")} >= set(cli.COMMANDS)
    for path in JOBS.glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) < 40 and f"jobs/{path.name}" in lines[0]


def test_a_job_file_runs_on_its_own(tmp_path):
    command = [sys.executable, str(JOBS / "stop.py"), "nothing", "--storage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no run 'nothing'" in done.stderr


def test_dry_run_prints_configuration_networks_and_schedule(capsys, tmp_path):
    labels = label_json([[f"{i:03d}.png", i % 5] for i in range(7)])
    folder = write_folder(tmp_path / "images", {**numbered(7), "dataset.json": labels})
    words = f"tiny {folder} --data.resolution null --data.cond --dry-run --schedule.lrate_rampup_kimg 7"
    words += " --model.fmap_max 8 --schedule.G_lrate_dict {16:0.5}"
    assert cli.run(cli.train, words.split()) == 0
    said = capsys.readouterr().out
    cfg = yaml.safe_load(said.partition("\n\n")[0])
    assert cfg["model"]["fmap_max"] == 8, "the configuration comes first, as YAML that load_config reads"
    assert re.search(r"\b7 \w+ of 16x16", said) and "labels of size 5" in said
    rows = [line.split() for line in said.splitlines()]
    by_kimg = {row[0]: row for row in rows if len(row) == 9}
    assert (
        by_kimg["0"][5] == "0"
        and by_kimg["7"][5] == "0.5"
        and by_kimg["80"][6] == f"{load_config('tiny').schedule.D_lrate:g}"
    )
    totals = [int(row[1].replace(",", "")) for row in rows if row[:1] == ["total"]]
    counted = [int(row[1].replace(",", "")) for row in rows if len(row) == 4 and row[1].replace(",", "").isdigit()]
    assert len(totals) == 2 and sum(totals) == sum(counted), "every parameter is counted in one row"


def test_a_dry_run_is_refused_what_a_training_is(capsys, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "images", numbered(7))
    monkeypatch.setattr("stylegan_ray.report.graph.find_spec", lambda _: None)
    monkeypatch.setattr("stylegan_ray.report.trackers.find_spec", lambda _: None)
    for key in ("train.save_tf_graph=true", "report.wandb=project"):
        words = f"config-f {folder} --dry-run --{key.replace('=', ' ')}"
        assert cli.run(cli.train, words.split()) == 2
        assert f"{key.partition('=')[0]}=" in capsys.readouterr().err


def test_names_that_are_no_text_are_printed_escaped(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.run(lambda argv: print(*argv) or 0, ["\udcff"]) == 0
    stdout.flush()
    assert stdout.buffer.getvalue() == b"\\udcff\n"


def test_an_interrupted_projection_says_what_the_same_command_does(capsys):
    assert cli.interrupted(cli.project) == 130
    assert "the same command skips the images that are finished" in capsys.readouterr().err
