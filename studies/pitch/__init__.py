"""A pretrained pitch tracker, compressed without a label and tested on tones with noise."""
