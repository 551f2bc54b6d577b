"""Hold what every wing shares: errors, coordinates, intervals. This wing imports no other, and no torch."""
