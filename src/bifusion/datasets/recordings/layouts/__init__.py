"""One file a layout: what recognises it, and what opens it."""
