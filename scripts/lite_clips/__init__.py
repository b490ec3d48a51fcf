"""Training clips of the lite systems, drawn in memory from drawings and photographs, with known flow."""
