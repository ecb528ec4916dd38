"""What people see of a run: its files, TensorBoard, the console."""
