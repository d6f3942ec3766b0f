"""From a trained model to forecasts, metrics and pictures."""
