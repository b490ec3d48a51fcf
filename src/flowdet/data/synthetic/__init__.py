"""The synthetic benchmark: drawings of the 30 ImageNet VID classes that move over photographs, flow known exactly."""
