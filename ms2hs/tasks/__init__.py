"""Tasks with labels: features of frozen encoders, fine-tuned heads, and maps."""
