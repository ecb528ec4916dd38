"""Credentials in addresses are in nothing that is written or printed."""

import io
import json
import os

import pytest
from support.jobs import ROOT

from stylegan_ray import cli
from stylegan_ray.cluster.origin import command_line
from stylegan_ray.config import ConfigError, RunConfig, differences, load_config, validated
from stylegan_ray.credentials import clean, logger_of, without_credentials
from stylegan_ray.interop import read_networks, save_network
from stylegan_ray.jsonl import append_jsonl
from stylegan_ray.networks import build_generator
from stylegan_ray.report.console import ConsoleView
from stylegan_ray.report.run_files import RunFiles
from stylegan_ray.storage import Storage
from stylegan_ray.train.started import default_name

SECRETS = ("USER", "PASSWORD", "TOKEN")
OPEN_KEYS = [
    "data.path", "data.image_column", "data.split", "metrics.detector", "cluster.address", "run.storage",
    "report.mlflow",
]  # fmt: skip
ADDRESS = "https://USER:PASSWORD@host.example/folder/file?token=TOKEN"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (ADDRESS, "https://host.example/folder/file"),
        ("s3://USER:PASSWORD@bucket/data", "s3://bucket/data"),
        ("s3://USER:PASS/WORD@bucket/data", "s3://bucket/data"),
        ("s3://USER:PASS+WO%2FRD@bucket", "s3://bucket"),
        ("s3://USER:PA?SS#WORD@bucket/x", "s3://bucket/x"),
        ("https://TOKEN@host/x", "https://host/x"),
        ("https://USER:PASS@WORD@host/x", "https://host/x"),
        ("ray://USER:PASSWORD@head:10001", "ray://head:10001"),
        ("s3://bucket/x?access_key=USER&secret_key=PASSWORD&region=eu", "s3://bucket/x?region=eu"),
        ("s3://b/x?region=eu&endpoint_override=USER%3APASSWORD%40host:9", "s3://b/x?region=eu&endpoint_override=host:9"),
        ("https://host/x?X-Amz-Signature=TOKEN#sha256=" + "0a" * 32, "https://host/x#sha256=" + "0a" * 32),
        ("https://host/x#access_token=TOKEN", "https://host/x"),
        ("https://host/x?TOKEN", "https://host/x"),
        (f"train tiny '{ADDRESS}' --run.name x", "train tiny 'https://host.example/folder/file' --run.name x"),
        (f"cannot read {ADDRESS}: no, and s3://USER:PASSWORD@b/x neither", "cannot read https://host.example/folder/file"),
        ("s3://USER:1234/PASSWORD@bucket/x", "s3://bucket/x"),
        ("s3://USER:12/3:PASSWORD@bucket", "s3://bucket"),
        ("data.path=s3://USER:PASS'WORD@bucket/x does not exist", "data.path=s3://bucket/x does not exist"),
        ('a s3://USER:PASS"WORD@bucket/x: no', "a s3://bucket/x: no"),
        ("in 's3://USER:PASS WORD@bucket' and 's3://b/y'", "in 's3://bucket' and 's3://b/y'"),
        ("a s3://USER:PASS<WORD@bucket b", "a s3://bucket b"),
        ("a s3://USER:PA?SS|WORD@bucket b", "a s3://bucket b"),
        ("a s3://USER:PASS'@WORD@bucket b", "a s3://bucket b"),
        ("https://a:PASS@h/x,https://c:WORD@g/y", "https://h/x,https://g/y"),
        ("[https://a:PASS@h/x];(https://c:WORD@g/y)", "[https://h/x];(https://g/y)"),
        ("two lines\nhttps://USER:PASSWORD@host/x", "two lines\nhttps://host/x"),
    ],
)  # fmt: skip
def test_credentials_are_removed(text, plain):
    found = without_credentials(text)
    assert found.startswith(plain) and not any(secret in found for secret in (*SECRETS, "PASS", "WORD"))
    assert without_credentials(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "plain", "/folder/file@2x.png", "user@host", "s3://bucket/a@b/c", "s3://bucket/x?region=eu&scheme=http",
        "https://host:8265/x", "http://[::1]:80/a@b", "gs://bucket/folder", "https://host/x#sha256=0123456789abcdef",
        "http://host:5000/#/experiments/1/runs/" + "0a" * 16,
        "data.path=s3://bucket: image icon@2x.png is damaged", "no answer of http://host:8265, http://g:1 ; see a@b",
        "no answer of 'http://host:8265' to user@host", "data.path=s3://bucket/a: image 'b@2x.png' is damaged",
        "a:b@c", "file:///tmp/x",
    ],
)  # fmt: skip
def test_what_is_no_credential_stays(text):
    assert without_credentials(text) == text


def test_nested_data():
    plain = "https://host.example/folder/file"
    assert clean({"a": [ADDRESS, 1, None, {ADDRESS: (ADDRESS,)}]}) == {"a": [plain, 1, None, {plain: (plain,)}]}


def no_secret(*contents):
    for content in contents:
        text = content if isinstance(content, str) else content.decode("utf-8", "replace")
        assert not [secret for secret in SECRETS if secret in text], text[:2000]


@pytest.mark.parametrize("key", OPEN_KEYS)
def test_a_credential_in_each_key(key, tmp_path, capsys, monkeypatch):
    """It is in no configuration, network, row, line, message or name."""
    cfg = load_config("tiny", {key: ADDRESS})
    no_secret(cfg.to_yaml(), json.dumps(cfg.flat()), json.dumps(cfg.plain()), default_name(cfg))
    G = build_generator(cfg.model, 8, 3, 0)
    content = save_network(None, None, G, cfg, 0)
    no_secret(content)
    storage = Storage.at(tmp_path)
    append_jsonl(storage, "rows.jsonl", [{"unavailable": f"{ADDRESS} is gone", "kimg": 1.0}])
    console = io.StringIO()
    ConsoleView(1.0, stream=console).message(f"fault: {ADDRESS} does not respond")
    no_secret(storage.read("rows.jsonl"), console.getvalue())

    def fail(argv):
        raise ConfigError(f"{key}={ADDRESS} cannot be read")

    assert cli.run(fail, []) == 2
    monkeypatch.setattr("sys.argv", ["train.py", "tiny", f"--{key}={ADDRESS}", f"--{key}", ADDRESS])
    no_secret(capsys.readouterr().err, command_line())


def test_every_key_that_takes_any_text_is_among_them():
    any_text = []
    for section, field in RunConfig.model_fields.items():
        for name in field.annotation.model_fields:
            try:
                load_config("tiny", {f"{section}.{name}": ADDRESS})
            except ConfigError as error:
                no_secret(str(error))
            else:
                any_text.append(f"{section}.{name}")
    assert sorted({*any_text} - {"run.preset"}) == sorted(OPEN_KEYS)


def test_a_network_file_says_nothing_of_its_place(tmp_path):
    given = {
        "run.name": "PRIVATE-name", "run.storage": "/PRIVATE/storage", "data.path": "/PRIVATE/data", "run.seed": 424242,
        "metrics.detector": "/PRIVATE/detector", "cluster.address": "PRIVATE:6379", "cluster.interface": "PRIVATE0",
    }  # fmt: skip
    cfg = load_config("tiny", given)
    G = build_generator(cfg.model, 8, 3, 0)
    content = save_network(None, None, G, cfg, 0)
    assert b"PRIVATE" not in content and b"424242" not in content
    (tmp_path / "network.safetensors").write_bytes(content)
    found = read_networks(tmp_path / "network.safetensors").config
    assert found.model == cfg.model and found.schedule == cfg.schedule and found.data.path is None


def test_a_run_continues_with_other_credentials():
    """They are no part of a run: its name and what may not differ on resume are the same without them."""
    old, new = (load_config("tiny", {"data.path": f"s3://{user}@bucket/data"}) for user in ("USER:A", "OTHER:B"))
    assert old.digest() == new.digest() == load_config("tiny", {"data.path": "s3://bucket/data"}).digest()
    assert differences(old, new) == differences(validated(old.plain()), new) == {}
    assert new.data.path == "s3://OTHER:B@bucket/data"  # which is what the command works with


def test_lines_of_the_log_and_tensorboard(tmp_path):
    from stylegan_ray.report.tensorboard import TensorBoard

    cfg = load_config("tiny", {"metrics.detector": ADDRESS})
    storage = Storage.at(tmp_path)
    storage.write("stats.jsonl", b"")
    for sink in (RunFiles(storage.write), TensorBoard(cfg)):
        sink.begin(storage, 0)
        sink.message(f"{ADDRESS} does not respond")
        sink.sync(), sink.close()
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                no_secret(file.read())


def test_log_messages_of_all_modules_are_without_credentials(caplog):
    logger_of("stylegan_ray.somewhere").warning("%s cannot be %s", "s3://USER:WORD@bucket/x", "read")
    assert [record.getMessage() for record in caplog.records] == ["s3://bucket/x cannot be read"]
    sources = [path for path in (ROOT / "stylegan_ray").rglob("*.py") if path.name != "credentials.py"]
    assert not [path for path in sources if "getLogger(__name__)" in path.read_text()], "use logger_of(__name__)"
