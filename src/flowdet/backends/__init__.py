"""What computes a system's parts: PyTorch, an optimised copy, OpenVINO, int8; and the export to ONNX."""
