"""The loop, its run folder, its checkpoints and its schedule."""
