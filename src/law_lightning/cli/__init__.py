"""The commands law-search, law-train and law-compare. Need the extra ``law-lightning[cli]``."""
