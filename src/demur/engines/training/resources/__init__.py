"""Memory, disk, processes and arithmetic of a training: estimates and measurements."""
