"""Modules that run factors, each as one native operation, without rebuilding the weight."""
