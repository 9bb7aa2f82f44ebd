"""3SM, stage-based search: which stage a step belongs to, and what a stage shows."""
