"""Words that everybody shares: errors, coordinates, intervals. Imports no other wing, and no torch."""
