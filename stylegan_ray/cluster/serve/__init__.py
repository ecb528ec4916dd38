"""The serve command: a page and an HTTP interface to the latent space of a network, as a Ray Serve application."""
