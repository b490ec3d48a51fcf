"""The page that shows results, as a file or from a server."""
