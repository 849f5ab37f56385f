"""Rules by family; each is pure: history -> finding."""
