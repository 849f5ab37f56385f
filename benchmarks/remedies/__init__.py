"""Whether following the remedies of alerts helps."""
