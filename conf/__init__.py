"""Hydra config groups of the `law-*` commands; other Hydra apps reach them by `pkg://law_lightning.conf`."""
