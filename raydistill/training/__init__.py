"""Training, evidence and teacher outputs: plain PyTorch, usable without Ray. `raydistill` has the public names."""
