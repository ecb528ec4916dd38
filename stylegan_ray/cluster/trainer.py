"""The TorchTrainer of a run."""

from __future__ import annotations

from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from stylegan_ray import config
from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.worker import Order, train_worker
from stylegan_ray.data.dataset import Dataset


def trainer_of(
    cfg: config.RunConfig, dataset: Dataset, address: str, share: Share, mailbox: Any, resume_from: str | None
) -> TorchTrainer:
    """Workers, storage and failure policy as the configuration says."""
    storage, _, name = address.rpartition("/")
    order = Order(cfg.model_dump(mode="json"), dataset, address, share.threads, mailbox, resume_from)
    return TorchTrainer(
        train_worker,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if share.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=share.num_workers,
            use_gpu=bool(share.gpus),
            resources_per_worker={"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=cfg.cluster.keep_checkpoints),
            failure_config=FailureConfig(max_failures=cfg.cluster.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
