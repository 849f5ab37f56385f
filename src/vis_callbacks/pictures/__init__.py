"""The picture toolkit: host arrays in, RGB pictures out. It knows nothing of training."""
