"""The science: functions from tensors to tensors; where a model must run, it is a callable."""
