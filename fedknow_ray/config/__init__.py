"""The config of a run: what it may say (`model`), where it was said (`yaml`), and reading it (`loading`)."""

from fedknow_ray.config.catalogue import Catalogue
from fedknow_ray.config.loading import dump_yaml, load_config, resolve_run_name
from fedknow_ray.config.model import RunConfig

__all__ = ["Catalogue", "RunConfig", "dump_yaml", "load_config", "resolve_run_name"]
