"""Training data: labelled stills, clips made of them."""
