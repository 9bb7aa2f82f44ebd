"""The commands law-search, law-train, law-compare and law-report. Need the extra ``law-lightning[cli]``."""
