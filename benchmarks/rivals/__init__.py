"""LAW's rivals: simple searches for weight parameters, at the same budget of network steps."""
