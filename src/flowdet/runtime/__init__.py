"""What a system costs on this machine: seconds by part, arithmetic, memory."""
