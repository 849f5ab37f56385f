"""Looking at a live model and leaving no trace."""
