"""Weight files: the native format, published checkpoints, downloads, and the weights that ship."""
