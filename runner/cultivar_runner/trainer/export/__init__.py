"""From trained PyTorch models to ONNX files that fit into the server's inference."""
