"""Files that hold state, and random states."""
