"""What this machine has for training, and what of it prevents training."""
