"""Quality metrics: arithmetic on features, detectors that compute features, and the evaluation of a generator.

This package imports the arithmetic only; evaluation and detectors are in `compute` and `detectors`.
"""

from stylegan_ray.metrics.distances import frechet_distance, inception_score, kernel_distance, monge_distance
from stylegan_ray.metrics.manifold import precision_recall
from stylegan_ray.metrics.names import MetricSpec, parse_metric
from stylegan_ray.metrics.path_length import perceptual_path_length
from stylegan_ray.metrics.separability import linear_separability
from stylegan_ray.metrics.statistics import FeatureStats

__all__ = [
    "FeatureStats",
    "MetricSpec",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "linear_separability",
    "monge_distance",
    "parse_metric",
    "perceptual_path_length",
    "precision_recall",
]
