"""cluster.yaml by Ray's own defaults and schema, rayjob.yaml by what KubeRay and a training need of it."""

from __future__ import annotations

import copy
import json
import re
import shlex
from importlib import resources
from pathlib import Path

import pytest
import yaml
from support.jobs import ROOT

ray = pytest.importorskip("ray")

import jsonschema  # noqa: E402
from ray.autoscaler.sdk import fillout_defaults  # noqa: E402

from stylegan_ray.options import train_options  # noqa: E402

CLUSTER = (ROOT / "cluster.yaml").read_text()
RAYJOB = (ROOT / "rayjob.yaml").read_text()
AWS_ONLY = ("provider", "auth", "available_node_types", "head_node_type", "docker", "initialization_commands")


@pytest.fixture
def cluster():
    return yaml.safe_load(CLUSTER)


SCHEMA = json.loads(resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text())


def validated(config: dict) -> dict:
    """The configuration with Ray's defaults; raises what Ray's schema does not allow, and node types that disagree."""
    prepared = fillout_defaults(copy.deepcopy(config))
    jsonschema.validate(prepared, SCHEMA)
    if prepared["provider"]["type"] != "local":
        types = prepared["available_node_types"]
        assert prepared["head_node_type"] in types
        assert sum(kind.get("min_workers", 0) for kind in types.values()) <= prepared["max_workers"]
    return prepared


def train_command(words: list[str]):
    """The options of the training command among words, as the command line reads them."""
    return train_options(words, "train")


def minor_version(package: str) -> str:
    """The tested version of a dependency, by constraints.txt, without its last part."""
    return re.search(rf"^{package}==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_the_cluster_is_valid(cluster):
    prepared = validated(cluster)
    assert prepared["available_node_types"]["gpu"]["max_workers"] == 4
    assert prepared["max_workers"] == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.update(surprise=1),
        lambda config: config.update(head_node_type="gpu2"),
        lambda config: config.update(max_workers="four"),
        lambda config: config["available_node_types"]["gpu"].update(min_workers=9, max_workers=9),
        lambda config: config["docker"].update(run_option=[]),
    ],
)
def test_mistakes_are_not_valid(cluster, spoil):
    spoil(cluster)
    with pytest.raises(Exception, match=r".+"):
        validated(cluster)


def test_the_cluster_on_premise_is_valid_too(cluster):
    lines = [line.removeprefix("#|").removeprefix(" ") for line in CLUSTER.splitlines() if line.startswith("#|")]
    variant = {key: value for key, value in cluster.items() if key not in AWS_ONLY} | yaml.safe_load("\n".join(lines))
    prepared = validated(variant)
    assert prepared["provider"]["type"] == "local"
    assert len(prepared["provider"]["worker_ips"]) == 2


def test_the_head_is_on_demand_and_trains_nothing_while_workers_are_on_spot(cluster):
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head" and types["head"]["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert types["gpu"]["min_workers"] == 0 and types["gpu"]["max_workers"] == cluster["max_workers"]


def test_containers_share_storage_and_have_shared_memory(cluster):
    docker = cluster["docker"]
    options = {name: " ".join(docker[name]) for name in ("run_options", "head_run_options", "worker_run_options")}
    assert "--shm-size" in options["head_run_options"] and "--shm-size" in options["worker_run_options"]
    assert "-v /efs:/efs" in options["run_options"] and "STYLEGAN_RAY_STORAGE=/efs/" in options["run_options"]
    assert any("mount -t nfs4" in command and "/efs" in command for command in cluster["initialization_commands"])


def test_nodes_have_the_token_and_the_package(cluster):
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["file_mounts"]["/home/ray/stylegan_ray"] == "."
    assert any(
        command.startswith("pip install") and "~/stylegan_ray" in command for command in cluster["setup_commands"]
    )
    for image in (cluster["docker"]["head_image"], cluster["docker"]["worker_image"]):
        assert image.startswith(f"rayproject/ray:{minor_version('ray')}.")
    assert "dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])


def test_the_command_in_the_header_is_one_that_the_command_line_takes():
    header = " ".join(line.lstrip("# ").rstrip("\\") for line in CLUSTER.splitlines() if line.startswith("#  "))
    words = shlex.split(header[header.index("jobs/train.py") : header.index("ray down")], comments=True)
    options = train_command(words[1:])
    assert options.cfg.cluster.num_workers == "1:4" and options.cfg.cluster.wait_minutes == 30


@pytest.fixture
def job():
    return yaml.safe_load(RAYJOB)


def pods(job: dict) -> list[dict]:
    """The pod templates of head and workers."""
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"]["template"]["spec"], *(w["template"]["spec"] for w in spec["workerGroupSpecs"])]


KNOWN = {
    "job": {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
            "rayClusterSpec"},
    "cluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "workers": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "pod": {"terminationGracePeriodSeconds", "containers", "volumes", "tolerations"},
    "container": {"name", "image", "env", "resources", "ports", "volumeMounts"},
}  # fmt: skip
"""Fields of ray.io/v1 and of pods that the file may use; a misspelt one is none of them."""


def test_the_job_has_known_fields_only(job):
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= KNOWN["job"] and set(cluster) <= KNOWN["cluster"]
    assert set(cluster["headGroupSpec"]) <= KNOWN["head"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= KNOWN["workers"]
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(job):
        assert set(pod) <= KNOWN["pod"]
        assert all(set(container) <= KNOWN["container"] for container in pod["containers"])
    for params in (cluster["headGroupSpec"]["rayStartParams"], cluster["workerGroupSpecs"][0]["rayStartParams"]):
        assert all(isinstance(value, str) for value in params.values()), "KubeRay takes strings only"


def test_pods_have_a_memory_volume_shared_storage_and_time_to_save(job):
    for pod in pods(job):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        memory = mounts["/dev/shm"]["emptyDir"]
        assert memory["medium"] == "Memory"
        assert gib(memory["sizeLimit"]) < gib(container["resources"]["limits"]["memory"])
        assert gib(memory["sizeLimit"]) >= 0.3 * gib(container["resources"]["limits"]["memory"])
        assert "persistentVolumeClaim" in mounts["/shared"]
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        assert env["STYLEGAN_RAY_STORAGE"].startswith("/shared/")
        assert 30 < int(env["RAY_JOB_STOP_WAIT_TIME_S"]) < pod["terminationGracePeriodSeconds"]


def gib(quantity: str) -> float:
    return float(quantity.removesuffix("Gi"))


def test_the_job_grows_and_shrinks_with_a_token(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"] == {"mode": "token"}
    assert str(cluster["rayVersion"]).startswith(minor_version("ray"))
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_job_runs_a_command_that_the_command_line_takes(job):
    command, name, *words = shlex.split(job["spec"]["entrypoint"])
    assert (command, name) == ("stylegan-ray", "train")
    options = train_command(words)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert options.cfg.cluster.num_workers == f"1:{workers['maxReplicas']}"
    assert Path(options.cfg.data.path).is_absolute()
