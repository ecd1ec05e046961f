"""A pull that many follow: what is told of it, and the one connection behind it."""
