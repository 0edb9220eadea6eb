"""From posed depth pictures to a coloured mesh that stands upright, and the pictures worth keeping."""
