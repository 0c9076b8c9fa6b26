"""What is learned, by whom and in which order: data sets, their partition over clients, the sequence of tasks.

The outcome is a `Dataset` (arrays) and a `Scenario` (index arrays into it). Nothing here knows of methods, time, bytes
or Ray.
"""

from fedknow_ray.scenario.datasets import DATASETS, load_dataset
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, build_dataset, dataset_digest
from fedknow_ray.scenario.partition import PARTITIONS
from fedknow_ray.scenario.scenario import Scenario, build_scenario

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "Dataset",
    "DatasetInfo",
    "ImageSet",
    "Scenario",
    "build_dataset",
    "build_scenario",
    "dataset_digest",
    "load_dataset",
]
