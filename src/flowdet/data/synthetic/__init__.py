"""The synthetic benchmark: drawings of the 30 ImageNet VID classes move over photographs, and flow is known exactly."""
