"""Fronts, layers and the course of a search as plotly figures; each takes a frame."""
