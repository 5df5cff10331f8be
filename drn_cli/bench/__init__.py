"""What a network costs on this machine: arithmetic, memory, time."""
