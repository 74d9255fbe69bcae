"""Recorded guests, replays of them, and their results."""
