"""The TorchTrainer of a run."""

from __future__ import annotations

from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.config import LoggingConfig

from stylegan_ray import config
from stylegan_ray.cluster.faults import FaultTeller
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.process_group import GroupConfig
from stylegan_ray.cluster.ray_private import TermSignal, Trainer
from stylegan_ray.cluster.reals import Observe
from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.worker import Order, train_worker
from stylegan_ray.data.dataset import Dataset

SECONDS_BETWEEN_RESIZES = 20.0
"""How often an elastic group looks for new nodes at most."""


def fitted(*parts: Any) -> Any:
    """Trains a run, of which trainer_of takes the parts; returns what its workers return."""
    return trainer_of(*parts).fit().return_value


def trainer_of(
    cfg: config.RunConfig,
    dataset: Dataset,
    address: str,
    share: Share,
    mailbox: Any,
    resume_from: str | None,
    clearance: Clearance,
    observe: Observe | None,
) -> Trainer:
    """Workers, storage and failure policy as the configuration says."""
    order = Order(
        cfg.model_dump(mode="json"), dataset, address, share.threads, mailbox, clearance, resume_from, observe
    )
    return Trainer(
        train_worker,
        train_loop_config={"order": order},
        torch_config=GroupConfig(backend="nccl" if share.gpus else "gloo", interface=cfg.cluster.interface),
        scaling_config=ScalingConfig(
            num_workers=share.num_workers,
            use_gpu=bool(share.gpus),
            resources_per_worker={"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})},
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
        ),
        run_config=RunConfig(
            name=cfg.run.name,
            storage_path=cfg.run.storage,
            # We keep and delete checkpoints ourselves: Ray's keeper deletes by path, whatever stands there by then,
            # and ends the run when a path is gone already.
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            failure_config=FailureConfig(max_failures=cfg.cluster.max_failures),
            callbacks=[FaultTeller(mailbox), TermSignal()],  # type: ignore[list-item]  # Ray takes its own kinds, too
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
