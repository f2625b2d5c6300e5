"""Continual learning that remembers without keeping the old data."""

