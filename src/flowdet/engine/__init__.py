"""What runs a system's heavy parts: PyTorch, or OpenVINO on a CPU; and their way out, to ONNX and int8."""
