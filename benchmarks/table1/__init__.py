"""The parts of ``gpu_table1.py``: the first row of the paper's Table 1 on one GPU."""
