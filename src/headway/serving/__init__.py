"""What leaves the project: the model folder and its card."""
