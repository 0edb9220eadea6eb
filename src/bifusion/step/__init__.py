"""What watches a training step: sees what goes wrong, keeps it from the weights, keeps the run alive."""
