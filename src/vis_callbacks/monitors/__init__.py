"""What a user adds to a Trainer: one folder a monitor."""
