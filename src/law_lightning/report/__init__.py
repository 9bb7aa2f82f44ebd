"""From records to numbers, tables and figures. Needs the extra ``law-lightning[cli]``."""
