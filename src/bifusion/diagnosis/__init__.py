"""Where a fault comes from: steps run again under hooks and other conditions, and from a file."""
