"""Many processes, many GPUs, publishing."""
