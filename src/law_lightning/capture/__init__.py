"""Per-sample losses from anyone's ``training_step``."""
