"""3SM, stage-based search: the stages of a fit, and the statistics of each."""
