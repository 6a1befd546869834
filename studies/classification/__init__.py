"""Accuracy of compressed classifiers, rung by rung, against every rival."""
