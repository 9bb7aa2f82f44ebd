"""Per-sample losses from any ``training_step``."""
