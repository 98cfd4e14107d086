"""What the trainers of all frameworks share: reading datasets, splits, metrics, checkpoint files."""
