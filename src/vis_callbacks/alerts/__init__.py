"""Findings, alerts and their log; standard library only, so that a log needs no torch."""
