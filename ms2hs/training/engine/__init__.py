"""The training loop: optimiser, loader, checkpoints, signals, log."""
