"""Time one factorized layer against its rivals, on the shapes of ResNet-18."""
