"""From the records of runs to numbers, tables and figures. Needs the extra ``law-lightning[cli]``."""
