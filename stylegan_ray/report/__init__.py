"""Reports of a run: its files, TensorBoard, the console."""
