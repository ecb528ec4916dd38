"""The controller of adaptive discriminator augmentation (Karras et al. 2020, ADA, section 3.1)."""

from __future__ import annotations

from stylegan_ray.config import AugmentConfig
from stylegan_ray.train.state import TrainState

INTERVAL = 4
"""Minibatches between changes of p."""


def adapt_augment_p(state: TrainState, cfg: AugmentConfig) -> None:
    """Moves p up while D overfits and down while it does not, in mode ada every INTERVAL minibatches.

    D overfits when r_t, the mean sign of its scores of reals since the last change, is above the target.
    """
    if cfg.mode != "ada" or state.iteration % INTERVAL:
        return
    sum_of_signs, number = state.augment_signs.tolist()
    if number:  # else all steps were skipped
        r_t = sum_of_signs / number
        direction = (r_t > cfg.target) - (r_t < cfg.target)
        step = (state.cur_nimg - state.augment_nimg) / (cfg.ada_kimg * 1000)
        state.augment_p = min(max(state.augment_p + direction * step, 0.0), 1.0)
    state.augment_signs.zero_()
    state.augment_nimg = state.cur_nimg
