"""Report -> the loggers a Trainer has, without harm to them or to the run."""
