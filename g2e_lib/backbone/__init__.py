"""Running a released multimodal model right and fast: checkpoint, images, one file a family, nearest targets."""
