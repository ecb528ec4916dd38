"""The prepare_data command: writes data sets for training, checks them, and cleans them."""
