"""The data doctor: what the images of a data set are like, which are damaged or doubtful, and how to train on them."""
