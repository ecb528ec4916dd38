"""StyleGAN2 training as a Ray job."""
