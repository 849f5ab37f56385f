"""What a user adds to a Trainer."""
