"""From a trained network to an ONNX file, in ten cells of a notebook."""
